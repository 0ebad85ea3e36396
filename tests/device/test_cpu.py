import numpy as np
import pytest
from device_checks import CHECKS, TINY

from perception_node.device import open_device
from perception_node.errors import UserError


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def device(request):
    return open_device("cpu", request.param)


@pytest.mark.parametrize("name", CHECKS)
def test_does_what_every_device_does(name, device):
    CHECKS[name](device)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of compiled kernels; they are compiled anew, as by another process."""
    from perception_node.device import cpu

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "_load", cpu._load.__wrapped__)
    return tmp_path / "perception_node"


def test_kernels_are_compiled_once_for_each_configuration(cache):
    device = open_device("cpu")
    device.kernels(TINY)
    (library,) = cache.iterdir()
    stamp = library.stat().st_mtime_ns
    device.kernels(TINY)
    assert library.stat().st_mtime_ns == stamp
    device.kernels(TINY, FACTOR=7)
    assert len(list(cache.iterdir())) == 2


def test_builds_are_compiled_each_once(cache):
    device = open_device("cpu")
    device.compile([(TINY, {}), (TINY, {"FACTOR": 7}), (TINY, {})])
    libraries = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(libraries) == 2
    device.kernels(TINY, FACTOR=7)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == libraries
    with pytest.raises(UserError, match="cannot compile"):
        device.compile([(TINY, {}), (TINY, {"FACTOR": "nonsense"})])


def test_an_error_of_the_compiler_is_one_of_the_user_and_leaves_nothing(cache, tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong() { nonsense; }')
    with pytest.raises(UserError, match=r"(?s)wrong\.cu.*nonsense"):
        open_device("cpu").kernels(source)
    assert not list(cache.glob("*"))


def test_without_a_compiler_the_message_says_what_to_install(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no-such-compiler.*apt install g\+\+"):
        open_device("cpu").kernels(TINY)


def test_there_is_no_other_device():
    with pytest.raises(UserError, match=r"'tpu'.*cpu or cuda"):
        open_device("tpu")


def test_arrays_are_numpys():
    assert isinstance(open_device("cpu").empty(3, np.uint8), np.ndarray)
