"""Plans built with the real tensorrt_rtx, which needs no GPU for it. None was run: that takes a GPU."""

import dataclasses
import hashlib
import json
import threading
import time
from datetime import datetime

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_tiny_model
from networks import convolution, library, write_quantized_model, write_semantic_model
from onnx import helper

from perception_node.cli import main
from perception_node.engine import TensorSpec
from perception_node.engine import build as module
from perception_node.engine.build import build
from perception_node.engine.network import prepare
from perception_node.engine.plan import PlanKey, find_plan, load_plan, sidecar_path
from perception_node.errors import ModelError, PlanError, UserError
from perception_node.model import load_model

DESKTOP = ["sm_86", "sm_89", "sm_120"]


@pytest.fixture(autouse=True)
def rtx():
    return library()


def quiet(line):
    pass


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["tiny", "camvid_lite0"])
def test_plans_and_their_sidecars(name, precision, rtx, tmp_path):
    model = load_model(write_tiny_model(tmp_path / "tiny") if name == "tiny" else name)
    begin = time.time()
    plans = build(model, precision, DESKTOP, out=tmp_path / "plans", say=quiet)
    assert [plan.new for plan in plans] == [True] * 3
    height, width = model.input.size_hw
    h, w = height // model.stride, width // model.stride
    network = prepare(model, precision)
    for target, plan in zip(DESKTOP, plans, strict=True):
        content, sidecar = load_plan(find_plan(model, plan.sidecar.key, tmp_path / "plans"), plan.sidecar.key)
        assert sidecar == plan.sidecar
        assert sidecar.key == PlanKey(
            onnx_sha256=hashlib.sha256(model.onnx_path.read_bytes()).hexdigest(),
            profile=f"image:1x3x{height}x{width}",
            outputs=("center", "offset", "semantic"),
            precision=precision,
            calibration=None,
            library="tensorrt_rtx",
            library_version=rtx.trt.__version__,
            architecture=target,
            gpu=None,
        )
        assert sidecar.inputs == (TensorSpec("image", (1, 3, height, width), "float32"),)
        assert sidecar.outputs == (
            TensorSpec("semantic", (1, len(model.taxonomy), h, w), "float32"),
            TensorSpec("center", (1, 1, h, w), "float32"),
            TensorSpec("offset", (1, 2, h, w), "float32"),
        )
        assert sidecar.plan_sha256 == hashlib.sha256(content).hexdigest()
        assert sidecar.plan_bytes == len(content) > 100_000
        assert sidecar.network_sha256 == hashlib.sha256(network.content).hexdigest()
        assert sidecar.network_bytes == len(network.content)
        assert sidecar.layers >= len(network.onnx.graph.node) // 2
        assert sidecar.differences == network.differences
        assert sidecar.workspace_bytes is None
        assert 0 < sidecar.build_seconds < 60
        assert begin - 1 <= datetime.fromisoformat(sidecar.built_at).timestamp() <= time.time()
        assert sidecar.log["messages"]["info"] > 0
        assert "error" not in sidecar.log["messages"]
    if name != "tiny":  # its weights are its size
        smallest = {"fp32": 10_000_000, "fp16": 5_000_000}[precision]
        assert all(smallest < plan.sidecar.plan_bytes < 1.5 * smallest for plan in plans)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_for_several_images(precision, tmp_path):
    model = load_model(write_semantic_model(tmp_path / "m", *convolution("first", "image", "semantic"), batch="n"))
    (plan,) = build(model, precision, ["sm_86"], say=quiet, max_batch=4)
    assert plan.sidecar.key.profile == "image:1-4x3x8x8"
    assert plan.sidecar.inputs == (TensorSpec("image", (None, 3, 8, 8), "float32"),)
    assert plan.sidecar.outputs == (TensorSpec("semantic", (None, 3, 8, 8), "float32"),)
    with pytest.raises(PlanError, match=r"profile: built with image:1-4x3x8x8, but here is image:1-2x3x8x8.*-batch 2"):
        find_plan(model, dataclasses.replace(plan.sidecar.key, profile="image:1-2x3x8x8"))


def test_a_network_for_one_image_is_not_built_for_several(tiny_model):
    with pytest.raises(ModelError, match=r"max_batch 2: .* takes one image at a time"):
        build(load_model(tiny_model), targets=["sm_86"], say=quiet, max_batch=2)
    assert not (tiny_model / "plans").exists()


def test_int8_is_built_from_explicit_quantization(tmp_path):
    folder = write_quantized_model(tmp_path / "m")
    (plan,) = build(load_model(folder), "int8", ["sm_86"], say=quiet)
    calibrated = (folder / "int8/quantized.onnx").read_bytes()
    assert plan.path.name.startswith("int8-sm_86-")
    assert plan.sidecar.key.calibration == hashlib.sha256(calibrated).hexdigest()
    assert (plan.sidecar.inputs[0].dtype, plan.sidecar.outputs[0].dtype) == ("float32", "float32")


def test_a_plan_that_is_there_is_left_alone_unless_forced(tiny_model):
    model = load_model(tiny_model)
    (first,) = build(model, targets=["sm_86"], say=quiet)
    assert first.path.parent == tiny_model / "plans"
    stamp = first.path.stat().st_mtime_ns
    (second,) = build(model, targets=["sm_86"], say=quiet)
    assert (second.new, second.path, second.sidecar) == (False, first.path, first.sidecar)
    assert first.path.stat().st_mtime_ns == stamp
    (third,) = build(model, targets=["sm_86", "sm_86"], workspace_gib=0.25, force=True, say=quiet)
    assert (third.new, third.path, third.sidecar.workspace_bytes) == (True, first.path, 2**28)


def test_a_plan_that_would_be_refused_is_built_again(tiny_model):
    model = load_model(tiny_model)
    (first,) = build(model, targets=["sm_86"], say=quiet)
    first.path.write_bytes(b"tampered")
    lines = []
    (second,) = build(model, targets=["sm_86"], say=lines.append)
    assert second.new
    assert load_plan(second.path, second.sidecar.key)[0] != b"tampered"
    assert "building again: " in lines[0]
    assert "sha256" in lines[0]


def test_two_builds_at_once_build_once(tiny_model, monkeypatch):
    model = load_model(tiny_model)
    compiled = []
    real = module._compile
    monkeypatch.setattr(module, "_compile", lambda *a: (compiled.append(1), time.sleep(0.3), real(*a))[2])
    lines = []
    threads = [
        threading.Thread(target=build, args=(model,), kwargs={"targets": ["sm_86"], "say": lines.append})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert "tiny: another process is building it; waiting" in lines


def test_a_full_disk_leaves_nothing(tiny_model, monkeypatch):
    import errno
    import os

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlanError, match="No space left on device"):
        build(load_model(tiny_model), targets=["sm_86"], say=quiet)
    assert list((tiny_model / "plans").iterdir()) == []


def test_targets_that_the_library_does_not_know(tiny_model):
    with pytest.raises(UserError, match=r"--target sm_87: tensorrt_rtx .* builds for .*sm_86.*take --runtime tensorrt"):
        build(load_model(tiny_model), targets=["sm_86", "sm_87"])
    assert not (tiny_model / "plans").exists()


# ---- what the parser refuses ----


def refused(tmp_path, nodes, weights=None):
    folder = write_semantic_model(tmp_path / "net", nodes, weights)
    with pytest.raises(ModelError) as error:
        build(load_model(folder), targets=["sm_86"], say=quiet)
    assert not (folder / "plans").exists()
    return str(error.value)


def test_refused_operators_are_all_named_with_their_place(tmp_path):
    first, weights = convolution("/backbone/conv", "image", "a")
    weights["offsets"] = np.zeros((1, 18, 8, 8), np.float32)
    nodes = [
        *first,
        helper.make_node("DeformConv", ["a", "dcn_w", "offsets"], ["b"], name="/neck/dcn", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"], name="/neck/relu"),
        helper.make_node("Frobnicate", ["c"], ["semantic"], name="/head/frob", domain="mine"),
    ]
    weights["dcn_w"] = weights["/backbone/conv_w"]
    message = refused(tmp_path, nodes, weights)
    assert "net/model.onnx: tensorrt_rtx" in message
    assert (
        "DeformConv '/neck/dcn' (node 2 of 4; from 'a' of Conv '/backbone/conv', weights 'dcn_w', weights 'offsets'; "
        "'b' goes to Relu '/neck/relu'): " in message
    )
    assert (
        "mine.Frobnicate '/head/frob' (node 4 of 4; from 'c' of Relu '/neck/relu'; 'semantic' goes to the network's "
        "outputs): " in message
    )
    assert "opset (this is 19)" in message
    assert message.count("\n") == 1  # a line for each


def test_an_operator_that_onnx_runtime_knows_but_tensorrt_does_not(tmp_path):
    nodes = [
        helper.make_node("Relu", ["image"], ["a"], name="relu"),
        helper.make_node("Det", ["square"], ["d"], name="det"),
        helper.make_node("Mul", ["a", "d"], ["semantic"], name="mul"),
    ]
    nodes.insert(1, helper.make_node("Slice", ["a", "from", "to", "axes"], ["square"], name="slice"))
    weights = {"from": np.zeros(1, np.int64), "to": np.full(1, 1, np.int64), "axes": np.ones(1, np.int64)}
    message = refused(tmp_path, nodes, weights)
    assert "Det 'det' (node 3 of 4; from 'square' of Slice 'slice'; 'd' goes to Mul 'mul')" in message
    assert "\n" not in message


# ---- perception build ----


def perception(*arguments):
    return CliRunner().invoke(main, ["build", *map(str, arguments)])


def test_the_command(tiny_model):
    arguments = [tiny_model, "--target", "sm_86", "--target", "sm_120", "--precision", "fp16"]
    result = perception(*arguments)
    assert result.exit_code == 0, result.output
    plans = sorted((tiny_model / "plans").glob("*.plan"))
    assert [path.name[:12] for path in plans] == ["fp16-sm_120-", "fp16-sm_86-" + plans[1].name[11]]
    assert result.stdout.count(": built in ") == 2
    assert "largest difference to the model's: semantic 0, center 0, offset 0" in result.stdout
    assert "tiny fp16 for sm_86: building with tensorrt_rtx" in result.stderr
    again = perception(*arguments, "--json")
    documents = json.loads(again.stdout)
    assert [(d["path"], d["new"]) for d in documents] == [(str(plans[1]), False), (str(plans[0]), False)]
    assert documents[0].items() >= json.loads(sidecar_path(plans[1]).read_text()).items()
    assert "was there already, and is in order" in perception(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp8"], "--precision fp8: there are fp32, fp16, int8"),
        (["--runtime", "cuda"], "--runtime cuda: there are auto, tensorrt, tensorrt_rtx"),
        (["--target", "sm_1"], "--target sm_1: tensorrt_rtx"),
        (["--target", "sm_86", "--precision", "int8"], "int8/calibration.json; make one: perception quantize"),
    ],
)
def test_errors_are_one_line_and_a_status(arguments, message, tiny_model):
    runtime = [] if "--runtime" in arguments else ["--runtime", "tensorrt_rtx"]
    result = perception(tiny_model, *arguments, *runtime)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: ")
    assert message in result.output


def test_ctrl_c_is_a_line_and_the_shells_status(tiny_model, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "watch", interrupted)
    before = {path: path.read_bytes() for path in tiny_model.iterdir()}
    result = perception(tiny_model, "--target", "sm_86")
    assert result.exit_code == 130
    assert result.stderr.endswith("stopped; nothing was left half-written\n")
    assert {path: path.read_bytes() for path in tiny_model.iterdir()} == before
