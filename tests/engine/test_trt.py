"""The three libraries: finding one; that the code asks nothing of tensorrt 10 or 11 that it has not."""

import ast
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import recorded_tensorrt
from conftest import write_tiny_model

import perception_node.engine
from perception_node.engine import trt as trt_module
from perception_node.engine.build import build
from perception_node.engine.trt import open_library
from perception_node.errors import UserError
from perception_node.model import load_model

SOURCES = sorted(Path(perception_node.engine.__file__).parent.glob("*.py"))

REMOVED_IN_10 = """
get_binding_index get_binding_name get_binding_shape get_binding_dtype set_binding_shape binding_is_input num_bindings
max_batch_size max_workspace_size build_engine build_cuda_engine execute execute_v2 execute_async execute_async_v2
fp16_mode int8_mode strict_type_constraints IInt8Calibrator IInt8EntropyCalibrator2 IInt8MinMaxCalibrator
IAlgorithmSelector
"""


@pytest.fixture
def libraries(monkeypatch):
    """Puts modules in the place of tensorrt and tensorrt_rtx; None means that it is not installed."""

    def install(**modules):
        trt_module._open.cache_clear()
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, modules.get(name))

    yield install
    trt_module._open.cache_clear()


@pytest.fixture
def orin(monkeypatch):
    monkeypatch.setattr(trt_module, "_present_gpu", lambda: ("sm_87", "Orin"))


def test_no_library(libraries):
    libraries()
    with pytest.raises(UserError, match=r"tensorrt is not installed \(it comes with JetPack.*pip install tensorrt-rtx"):
        open_library()
    with pytest.raises(UserError, match="tensorrt_rtx is not installed") as error:
        open_library("tensorrt_rtx")
    assert "JetPack" not in str(error.value)
    with pytest.raises(UserError, match="--runtime openvino: there are auto, tensorrt, tensorrt_rtx"):
        open_library("openvino")


def test_a_library_that_cannot_be_used(libraries):
    old = types.ModuleType("tensorrt")
    old.Builder, old.__version__ = object, "8.6.1"
    libraries(tensorrt=old)
    with pytest.raises(UserError, match=r"tensorrt cannot be used: 8.6.1 is too old, 10 or later"):
        open_library("tensorrt")
    libraries(tensorrt=types.ModuleType("tensorrt"))  # what type stubs leave in site-packages
    with pytest.raises(UserError, match="tensorrt is not installed"):
        open_library("tensorrt")


@pytest.mark.parametrize("major", [10, 11])
def test_a_plan_is_built_with_what_the_version_has(major, libraries, orin, tiny_model):
    trt = recorded_tensorrt.make_module(major)
    libraries(tensorrt=trt)
    lines = []
    timings = tiny_model / "timings"
    (built,) = build(load_model(tiny_model), workspace_gib=0.5, timing_cache=timings, say=lines.append)
    assert built.path.read_bytes() == recorded_tensorrt.PLAN
    key = built.sidecar.key
    assert (key.library, key.library_version, key.architecture, key.gpu) == (
        "tensorrt",
        f"{major}.1.0",
        "sm_87",
        "Orin",
    )
    assert built.sidecar.log == {"messages": {"warning": 1, "verbose": 1}, "warnings": ["a layer is slow"]}
    assert built.sidecar.workspace_bytes == 2**29
    assert "tensorrt: a layer is slow" in lines
    strongly_typed = 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.events == [
        ("network", strongly_typed),
        ("limit", trt.MemoryPoolType.WORKSPACE, 2**29),
        ("off", trt.BuilderFlag.TF32),
        ("timings", b""),
    ]
    assert timings.read_bytes() == b" and this build's"
    build(load_model(tiny_model), "fp16", timing_cache=timings, say=lines.append)
    assert trt.events[-1] == ("timings", b" and this build's")
    assert ("off", trt.BuilderFlag.TF32) not in trt.events[4:]


@pytest.mark.parametrize("major", [10, 11])
def test_a_plan_for_several_images_has_a_profile_for_one_and_one_for_more(major, libraries, orin, tmp_path):
    trt = recorded_tensorrt.make_module(major)
    libraries(tensorrt=trt)
    model = load_model(write_tiny_model(tmp_path / "tiny", batch="n"))
    (built,) = build(model, say=lambda line: None, max_batch=4)
    assert built.sidecar.key.profile == "image:1-4x3x8x8"
    assert built.sidecar.inputs[0].shape == (None, 3, 8, 8)
    one, four = (1, 3, 8, 8), (4, 3, 8, 8)
    profiles = [event[1:] for event in trt.events if event[0] == "profile"]
    assert profiles == [("image", one, one, one), ("image", (2, 3, 8, 8), four, four)]
    (alone,) = build(model, say=lambda line: None)  # is another plan
    assert (alone.new, alone.sidecar.inputs[0].shape) == (True, one)
    assert len(profiles) == len([event for event in trt.events if event[0] == "profile"])


@pytest.mark.parametrize("blob", [b"damaged", b"another GPU's"])
def test_timings_that_do_not_fit_are_refused_and_kept(blob, libraries, orin, tiny_model):
    libraries(tensorrt=recorded_tensorrt.make_module(10))
    timings = tiny_model / "timings"
    timings.write_bytes(blob)
    with pytest.raises(UserError, match=r"--timing-cache .*timings: not timings of this GPU.*name another file"):
        build(load_model(tiny_model), timing_cache=timings, say=lambda line: None)
    assert timings.read_bytes() == blob
    assert not (tiny_model / "plans").exists()


def test_timings_that_cannot_be_written_do_not_lose_the_plan(libraries, orin, tiny_model):
    libraries(tensorrt=recorded_tensorrt.make_module(10))
    lines = []
    timings = tiny_model / "no/such/folder"
    (built,) = build(load_model(tiny_model), timing_cache=timings, say=lines.append)
    assert built.path.is_file()
    assert f"--timing-cache {timings}: cannot be written (No such file or directory)" in lines


def test_tensorrt_builds_for_its_own_gpu_alone(libraries, orin, tiny_model):
    libraries(tensorrt=recorded_tensorrt.make_module(11))
    with pytest.raises(UserError, match=r"--target sm_86: tensorrt 11.1.0 builds only for .* Orin \(sm_87\)"):
        build(load_model(tiny_model), targets=["sm_86"])
    assert build(load_model(tiny_model), targets=["sm_87"], say=lambda line: None)[0].new


def test_ctrl_c_stops_the_library_and_leaves_nothing(libraries, orin, tiny_model):
    steps = []

    def interrupt(step):
        steps.append(step)
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            time.sleep(1)  # the library is busy; the main thread sees the signal meanwhile

    libraries(tensorrt=recorded_tensorrt.make_module(10, interrupt))
    before = {path: path.read_bytes() for path in tiny_model.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        build(load_model(tiny_model), timing_cache=tiny_model / "timings", say=lambda line: None)
    assert steps[-1] == 3  # it gave up at the next step, not after all hundred
    assert {path: path.read_bytes() for path in tiny_model.iterdir()} == before


def test_the_stand_in_has_nothing_that_its_version_lacks():
    ten, eleven = (recorded_tensorrt.make_module(major) for major in (10, 11))
    assert ten.BuilderFlag.FP16
    with pytest.raises(AttributeError):
        _ = eleven.BuilderFlag.FP16
    with pytest.raises(AttributeError):
        eleven.IBuilderConfig().int8_calibrator = None
    ten.IBuilderConfig().int8_calibrator = None


def names_in(tree):
    """Attributes that a program uses, and the strings that could be names of some."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_that_tensorrt_removed_is_used(path):
    removed = recorded_tensorrt.removed_in_11().union(REMOVED_IN_10.split())
    assert {"FP16", "INT8", "EXPLICIT_BATCH", "int8_calibrator", "device_memory_size", "set_dynamic_range"} <= removed
    assert not removed.intersection(names_in(ast.parse(path.read_text())))


def test_the_lint_sees_removed_names():
    used = set(names_in(ast.parse("config.set_flag(trt.BuilderFlag.FP16); getattr(config, 'int8_calibrator')")))
    assert {"FP16", "int8_calibrator"} <= used


def pyright(*paths):
    """What pyright says of the files' use of tensorrt, from its type stubs."""
    pytest.importorskip("pyright", reason="no pyright: make setup-engines installs it")
    if not any((Path(folder) / "tensorrt_bindings/tensorrt.pyi").is_file() for folder in sys.path):
        pytest.skip("no tensorrt-stubs: make setup-engines installs them")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, paths)]
    result = subprocess.run(command, text=True, capture_output=True, cwd=Path(__file__).parents[2])
    try:
        report = json.loads(result.stdout)
    except ValueError:
        pytest.skip(f"pyright cannot run here: {result.stderr.strip()[-200:]}")
    return [
        f"{Path(d['file']).name}:{d['range']['start']['line'] + 1}: {d['message']}"
        for d in report["generalDiagnostics"]
        if d["severity"] == "error"
    ]


def test_the_calls_are_as_the_type_stubs_of_tensorrt_10_have_them(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from perception_node.engine.trt import open_library\n"
        "library = open_library()\n"
        "builder = library.trt.Builder(library.logger)\n"
        "builder.build_serialised_network\n"
        "library.trt.BuilderFlags\n"
    )
    errors = pyright(*(path for path in SOURCES if path.stem in ("trt", "build", "tensorrt")), wrong)
    assert [error for error in errors if not error.startswith("wrong.py")] == []
    assert {error.split(":")[1] for error in errors} == {"4", "5"}  # it does look
