"""The PyCUDA device: on the emulated driver, which shows nothing about a GPU; and, marked gpu, on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import emulated_driver
import numpy as np
import pytest
from device_checks import CHECKS, EMULATED, FRAMES, RECORDED, TINY

from perception_node.device import compiling, cuda, open_device
from perception_node.errors import UserError

HERE = Path(__file__).parent
PARTS = 2  # processes, each for a part of the checks: compiling takes most of the time


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The environment of a program on the emulated driver."""
    if emulated_driver.missing():
        pytest.skip(emulated_driver.missing())
    return emulated_driver.build(tmp_path_factory.mktemp("driver"))


def start(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_checks(environment):
    """Name of each check -> None, or what went wrong; and what the driver complained of."""
    programs = [start(environment, str(HERE / "device_checks.py"), str(i), str(PARTS)) for i in range(PARTS)]
    results, errors = {}, ""
    for program in programs:
        output, error = program.communicate()
        results.update(json.loads(line) for line in output.splitlines())
        errors += error if program.returncode == 0 else f"exit status {program.returncode}: {error}"
    return results, errors


@pytest.fixture(scope="module")
def results(emulated):
    return run_checks(emulated)


@pytest.mark.parametrize("name", [*CHECKS, *FRAMES, *RECORDED, *EMULATED])
def test_on_the_emulated_driver(name, results):
    passed, errors = results
    failure = passed.get(name, f"did not run: {errors}")
    assert failure is None, failure


def test_the_emulated_driver_has_nothing_to_complain_of(results):
    """Everything is released, in order, and no call was wrong."""
    assert results[1] == ""


@pytest.mark.parametrize("order", ["1", "7"], ids=["backwards", "shuffled"])
def test_the_order_of_threads_does_not_matter(order, emulated, results):
    again, errors = run_checks({**emulated, "EMULATED_ORDER": order})
    assert {name: again.get(name, errors) for name in FRAMES} == dict.fromkeys(FRAMES)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("if (threadIdx.x > 3) __syncthreads();", "some threads of a block ended while others wait at a barrier"),
        ("out[items] = 0;", "a kernel wrote outside an allocation"),
        ("out[-1] = 0;", "a kernel wrote outside an allocation"),
    ],
)
def test_the_emulated_driver_sees_what_a_kernel_does_wrong(body, complaint, emulated, tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong(int* out, int items) { %s }' % body)  # noqa: UP031
    program = (
        "from pathlib import Path; from perception_node.device import open_device; d = open_device('cuda');"
        f"a = d.empty(8, 'int32'); d.kernels(Path({str(source)!r})).block('wrong', a, 8); d.download(a)"
    )
    _, errors = start(emulated, "-c", program).communicate()
    assert complaint in errors
    assert "pycuda" in errors  # an exception, too


def test_arguments_of_the_wrong_size_are_seen(emulated):
    program = (
        "from pathlib import Path; from perception_node.device import open_device; d = open_device('cuda');"
        f"d.kernels(Path({str(TINY)!r})).each('visit', 1, d.empty(8, 'int32'), d.empty(8, 'int32'))"
    )
    _, errors = start(emulated, "-c", program).communicate()
    assert "arguments of another size than the kernel's parameters" in errors


def test_the_gpu_that_is_there(emulated):
    program = "from perception_node.device.cuda import present_gpu; print(present_gpu())"
    assert start(emulated, "-c", program).communicate() == ("('sm_87', 'emulated driver, no GPU')\n", "")


def test_what_was_downloaded_outlives_the_device(emulated):
    program = (
        "from perception_node.device import open_device; import numpy as np; d = open_device('cuda');"
        "array = d.upload(np.arange(9)); host = d.download(array); del d; print(host.sum())"
    )
    assert start(emulated, "-c", program).communicate() == ("36\n", "")


def test_after_a_failure_a_new_device_works(emulated):
    program = f"""
import gc
from pathlib import Path
from perception_node.device import open_device
from perception_node.errors import DeviceError
device = open_device("cuda")
array = device.empty(1, "int32")
device.kernels(Path({str(TINY)!r})).each("visit", 99, array, 99)  # beyond the array
for _ in range(2):
    try:
        device.download(array)
    except DeviceError as error:
        print(error)
del device, array
gc.collect()
import numpy as np
print(open_device("cuda").upload(np.arange(9)).nbytes)
"""
    said, _ = start(emulated, "-c", program).communicate()
    first, second, size = said.splitlines()
    assert first.startswith("device 'cuda': ")
    assert second.startswith("device 'cuda': ")
    assert size == "72"


# ---- without any driver ----


def test_nothing_needs_pycuda_to_be_imported():
    program = "import sys, perception_node.device.cuda, perception_node.fusion; assert 'pycuda' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_pycuda_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(UserError, match=r"'cuda': PyCUDA is not installed.*pip install pycuda"):
        open_device("cuda")


def test_without_a_driver_the_message_says_so(monkeypatch):
    class NoDriver:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("pycuda"):
                raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "pycuda", raising=False)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    with pytest.raises(UserError, match=r"'cuda': no NVIDIA driver \(libcuda\.so\.1.*take device 'cpu'"):
        open_device("cuda")


def test_arguments_are_packed_as_c_aligns_them():
    struct = np.array((3, 4), np.dtype([("a", np.uint8), ("b", np.uint16)], align=True))
    packed = cuda.pack((np.uint8(1), 2, struct, None, 0.5, np.float64(0.5)))
    expected = "01 000000 02000000 03 00 0400 00000000 0000000000000000 0000003f 00000000 000000000000e03f"
    assert packed.hex() == expected.replace(" ", "")


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A stand-in for nvcc whose cubins are its arguments, with an empty cache. Returns (nvcc, cubins of the cache)."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    script = 'case $1 in --version) echo one;; *) while [ $1 != -o ]; do shift; done; echo "$@" >$2; esac\n'
    nvcc.write_text(f"#!/bin/sh\n{script}")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(nvcc.parent), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "_cubin", cuda._cubin.__wrapped__)
    monkeypatch.setattr(cuda, "compiler_version", compiling.compiler_version.__wrapped__)
    return nvcc, lambda: list((tmp_path / "perception_node").glob("*"))


def test_a_cubin_is_compiled_once(compiler):
    nvcc, cubins = compiler
    cubin = cuda._cubin(TINY, (), "sm_87")
    nvcc.write_text("#!/bin/sh\n[ $1 = --version ] && echo one\n")  # cannot compile any more
    assert cuda._cubin(TINY, (), "sm_87") == cubin
    assert len(cubins()) == 1


def test_cubins_differ_by_define_architecture_source_and_compiler(compiler, tmp_path):
    nvcc, cubins = compiler
    source = tmp_path / "one.cu"
    for text, define, architecture, version in (
        ("a", 1, "sm_87", "one"),
        ("b", 1, "sm_87", "one"),
        ("a", 2, "sm_87", "one"),
        ("a", 1, "sm_90", "one"),
        ("a", 1, "sm_87", "two"),
    ):
        source.write_text(text)
        nvcc.write_text(nvcc.read_text().replace("echo one", f"echo {version}"))
        cuda._cubin(source, (("N", define),), architecture)
    assert len(cubins()) == 5


def test_without_nvcc_a_cubin_of_the_cache_does(compiler, monkeypatch):
    cubin = cuda._cubin(TINY, (), "sm_87")
    monkeypatch.setattr(cuda, "find_nvcc", lambda: None)
    assert cuda._cubin(TINY, (), "sm_87") == cubin
    with pytest.raises(UserError, match=r"tiny\.cu: no nvcc.*CUDA_HOME"):
        cuda._cubin(TINY, (), "sm_90")


def test_a_cache_that_cannot_be_written_is_said(compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .*XDG_CACHE_HOME"):
        cuda._cubin(TINY, (), "sm_87")


def test_an_error_of_the_compiler_is_one_of_the_user_and_leaves_nothing(compiler):
    nvcc, cubins = compiler
    nvcc.write_text("#!/bin/sh\n[ $1 = --version ] && exit\necho nonsense >&2; exit 1\n")
    with pytest.raises(UserError, match=r"tiny\.cu: .*cannot compile it for sm_87: nonsense"):
        cuda._cubin(TINY, (), "sm_87")
    assert not cubins()


# ---- on a GPU ----


@pytest.fixture(scope="module")
def gpu():
    try:
        return open_device("cuda")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name, gpu):
    CHECKS[name](gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FRAMES)
def test_a_gpu_makes_the_same_frame_as_the_cpu(name, gpu):
    FRAMES[name](gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECORDED)
def test_a_gpu_replays_a_recorded_frame(name, gpu):
    RECORDED[name](gpu)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_frame_every_time(gpu):
    """Hardware runs threads in another order each time."""
    for _ in range(5):
        for name, check in FRAMES.items():
            if "float16" in name:
                check(gpu)
