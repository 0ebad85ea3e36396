"""INT8 calibration: which frames, which ranges, where Q/DQ go, and what comes out."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from engine.networks import convolution, library, write_semantic_model
from onnx import TensorProto, helper, numpy_helper

from perception_node.bags import BagWriter, typestore
from perception_node.cli import main
from perception_node.engine.build import build
from perception_node.engine.network import prepare, read_calibration
from perception_node.errors import BadImage, ModelError, SourceError, UserError
from perception_node.messages import MessageFactory
from perception_node.model import load_model
from perception_node.panoptic import PanopticFrame
from perception_node.quantization import quantize
from perception_node.quantization.frames import choose_frames, farthest_points
from perception_node.quantization.network import Layer, find_layers, quantize_to_int8, quantized, weight_scales
from perception_node.quantization.ranges import BINS, as_float16, entropy, histogram, measure, percentile, session
from perception_node.quantization.recipe import load_recipe
from perception_node.quantization.report import describe, judge_layers, recommend, same_instances
from perception_node.sources import Source, SourceMessage, open_source


def silent(items, **options):
    return items


@pytest.fixture
def model(tmp_path):
    """Two convolutions, the second's result added to the first's."""
    first, first_weights = convolution("first", "image", "a", 0.2)
    second, second_weights = convolution("second", "a", "b", 0.2)
    nodes = [*first, *second, helper.make_node("Add", ["b", "a"], ["semantic"], name="sum")]
    return load_model(write_semantic_model(tmp_path / "net", nodes, first_weights | second_weights))


@pytest.fixture
def footage(tmp_path) -> Path:
    """Seven random images of 8x8 pixels."""
    return write_images(tmp_path / "footage", np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8))


def write_images(folder: Path, images) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"f{index:02d}.png"), image)
    return folder


# ---- frames ----


@pytest.mark.parametrize("seed", range(5))
def test_the_next_frame_is_the_one_farthest_from_all_that_were_taken(seed):
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    first, second, third = farthest_points(points, 3, seed)
    assert second == (0 if first == 3 else 3)
    if {first, second} == {0, 3}:
        assert third == 2
    assert len(set(farthest_points(np.zeros((4, 1)), 4, seed))) == 4


@pytest.mark.parametrize("seed", range(3))
def test_short_scenes_in_a_long_drive_are_found(seed, model, tmp_path):
    grey = np.random.default_rng(1).integers(120, 136, (20, 48, 64, 3), np.uint8)
    grey[7] = (0, 0, 160)  # a tunnel's red light
    grey[13, ::8] = 255  # stripes, of about the same mean colour
    source = open_source(write_images(tmp_path / "drive", grey))
    recipe = load_recipe(model, frames=3, held_out=4, seed=seed)
    frames, held_out = choose_frames(source, recipe, silent, print)
    names = [frame.name for frame in frames]
    assert {"f07", "f13"} < set(names)
    assert names == sorted(names)
    assert len({f.name for f in held_out} - set(names)) == 4
    again = choose_frames(source, recipe, silent, print)
    assert [[f.name for f in part] for part in again] == [names, [f.name for f in held_out]]
    assert frames[1].stamp_ns == 100_000_000 * int(frames[1].name[1:])


def test_frames_come_straight_from_a_bag_with_their_stamps(model, tmp_path):
    make, types = MessageFactory.rosbags(typestore()), typestore()
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(5):
            for topic, value in (("/front", 40 * index), ("/rear", 7)):
                header = make.header(index * 10**9 + 5, "camera")
                message = make.image(header, np.full((6, 9, 3), value, np.uint8), "bgr8")
                kind = "sensor_msgs/msg/Image"
                bag.write(topic, kind, index * 10**9, types.serialize_cdr(message, kind))
    source = open_source(tmp_path / "drive", "/front")
    frames, held_out = choose_frames(source, load_recipe(model, frames=2, seed=1), silent, print)
    for frame in (*frames, *held_out):
        index = int(frame.name.removeprefix("frame_"))
        assert frame.stamp_ns == index * 10**9 + 5
        assert frame.image.bgr()[0, 0].tolist() == [40 * index] * 3
    assert (len(frames), len(held_out)) == (2, 3)


def test_damaged_images_are_left_out_and_too_few_are_refused(model, footage):
    whole = open_source(footage)

    class Damaged(Source):
        path, n_frames = footage, 7

        def __iter__(self):
            for index, item in enumerate(whole):
                yield SourceMessage("image", 0, item.name, broken) if index == 2 else item

    def broken():
        raise BadImage("data", "cut off")

    lines = []
    frames, held_out = choose_frames(Damaged(), load_recipe(model, frames=5), silent, lines.append)
    assert sorted(f.name for f in (*frames, *held_out)) == ["f00", "f01", "f03", "f04", "f05", "f06"]
    assert lines == [f"{footage}: f02: data: cut off; left out"]
    with pytest.raises(SourceError, match=r"holds 7 usable images, but 7 are .*; expected: fewer --frames, at most 6"):
        choose_frames(whole, load_recipe(model, frames=7), silent, print)


# ---- recipe ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames: 0", r"r\.yaml:1: frames: 0 is less than the minimum of 1; expected: how many frames"),
        ("seed: 1\nmethod: best", r"r\.yaml:2: method: 'best' is not one of .*; expected: how a tensor's range"),
        ("seed: 1\nframe: 3", r"r\.yaml:1: the file: .*'frame' was unexpected.*; expected: description, model"),
        ("model: other", r"r\.yaml:1: model: 'other', but this is net; expected: net, or another --recipe"),
        ("keep:\n  - 7", r"r\.yaml:2: keep\.0: 7 is not of type 'string'; expected: the name of a layer"),
        ("seed: 1\nseed: 2", r"r\.yaml:2: seed: given in line 1 already"),
        ("- 1", r"r\.yaml:1: the file: \[1\] is not of type 'object'"),
    ],
)
def test_a_wrong_recipe_is_refused_with_line_and_remedy(text, message, model, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_recipe(model, tmp_path / "r.yaml")


def test_layers_to_keep_must_be_there(model, tmp_path, footage):
    (tmp_path / "r.yaml").write_text("frames: 3\nkeep:\n  - first\n  - secnd\n")
    with pytest.raises(
        ModelError, match=r"r\.yaml:4: keep\.1: there is no layer 'secnd' .*report gives it, e\.g\. seco"
    ):
        quantize(model, open_source(footage), load_recipe(model, tmp_path / "r.yaml"), progress=silent)
    assert not (model.folder / "int8").exists()


def test_what_is_given_goes_before_the_file(model, tmp_path):
    (tmp_path / "r.yaml").write_text("model: net\nfootage: drive.mp4\nframes: 3\nmethod: entropy")
    recipe = load_recipe(model, tmp_path / "r.yaml", frames=5, method=None)
    assert (recipe.frames, recipe.method, recipe.footage) == (5, "entropy", tmp_path / "drive.mp4")
    assert load_recipe(model).frames == 32


# ---- ranges ----


def test_histogram_and_percentile_by_hand():
    counts = histogram(np.array([0.0, -1.0, 0.5, 2.0, -2.0], np.float32), 2.0)
    assert {index: counts[index] for index in np.flatnonzero(counts)} == {0: 1, BINS // 4: 1, BINS // 2: 1, BINS - 1: 2}
    assert percentile(np.array([5, 4, 0, 1]), 50) == 0.25
    assert percentile(np.array([5, 4, 0, 1]), 90) == 0.5
    assert percentile(np.array([5, 4, 0, 1]), 100) == 1.0


def test_entropy_cuts_off_a_lone_outlier_but_nothing_of_an_even_spread():
    random = np.random.default_rng(0)
    values = np.append(np.abs(random.normal(size=200_000)), 40.0)
    assert 2 / 40 < entropy(histogram(values, 40.0)) < 6 / 40
    assert entropy(histogram(random.uniform(0, 1, 1_000_000), 1.0)) > 0.95
    assert entropy(histogram(np.zeros(9), 0.0)) == 1.0


def test_scales_are_rounded_up_to_float16():
    scales = as_float16(np.array([2.0**-6, 2.0**-6 + 1e-7, 0.1, 0.0]))
    assert scales.dtype == np.float16
    assert scales[0] == 2.0**-6
    assert scales[1] == 2.0**-6 + 2.0**-16
    assert 0.1 <= float(scales[2]) < 0.1001
    assert scales[3] > 0


# ---- Q/DQ ----


def pointwise(weights: np.ndarray) -> onnx.ModelProto:
    """A 1x1 convolution "conv" of 2 channels with a bias of (0.5, 0), on one pixel."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["out"], name="conv")],
        "pointwise",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2, 1, 1])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 1, 1])],
        [
            numpy_helper.from_array(weights.astype(np.float32).reshape(2, 2, 1, 1), "w"),
            numpy_helper.from_array(np.array([0.5, 0], np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_a_quantized_convolution_by_hand():
    # Scales: 127/64 / 127 = 1/64 for activations; 127/128 / 127 = 1/128 and 127/32 / 127 = 1/32 for weights.
    graph = pointwise(np.array([[127 / 128, 0.1], [1.0, 127 / 32]]))
    (layer,) = find_layers(graph)
    assert layer == Layer("conv", "Conv", "image", 0, "w", 0)
    image = np.array([1.0, -0.51], np.float32).reshape(1, 2, 1, 1)
    ranges = measure(graph, ["image"], lambda: [image, image * 0], SimpleNamespace(method="minmax"))
    assert ranges == {"image": (1.0, 1.0)}

    int8 = quantized(graph, [layer], {"image": (2.0, 127 / 64)})
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    assert [node.op_type for node in int8.graph.node] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Conv",
    ]
    assert values["conv/input_scale"] == 1 / 64
    assert values["conv/weights_scale"].tolist() == [1 / 128, 1 / 32]
    assert values["conv/weights_q"].reshape(2, 2).tolist() == [[127, 13], [32, 127]]  # 0.1 * 128 = 12.8
    assert {values[f"conv/{part}_zero"].dtype.name for part in ("input", "weights")} == {"int8"}
    assert not values["conv/input_zero"].any()
    assert not values["conv/weights_zero"].any()
    assert "w" not in values
    # -0.51 * 64 = -32.64, so -33 steps.
    (out,) = session(int8).run(None, {"image": image})
    assert out.ravel().tolist() == [0.5 + (64 * 127 - 33 * 13) / (64 * 128), (64 * 32 - 33 * 127) / (64 * 32)]
    assert len(graph.graph.node) == 1  # the original is as it was


def test_int8_rounds_half_to_even_and_saturates():
    values = np.array([0.5, 1.5, -0.5, 127.4, 300, -300], np.float32)
    assert quantize_to_int8(values, np.float16(1)).tolist() == [0, 2, 0, 127, 127, -128]


def test_which_layers_can_be_quantized():
    def node(operator, name, *inputs, **attributes):
        return helper.make_node(operator, [*inputs], [name], name=name, **attributes)

    nodes = [
        node("Conv", "conv", "image", "w4"),
        node("Conv", "depthwise", "conv", "w4", group=3),
        node("Conv", "projection", "depthwise", "w4"),
        node("Add", "residual", "projection", "conv"),
        node("Add", "turned", "residual", "projection"),
        node("Add", "shift", "projection", "bias"),
        node("ConvTranspose", "up", "turned", "w4"),
        node("Gemm", "gemm", "up", "w2", transB=1),
        node("Gemm", "plain", "up", "w2"),
        node("MatMul", "linear", "gemm", "w2"),
        node("MatMul", "attention", "linear", "gemm"),
        node("Relu", "out", "attention"),
    ]
    shapes = {"w4": (3, 3, 1, 1), "w2": (3, 3), "bias": (3, 1, 1)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    assert find_layers(model) == [
        Layer("conv", "Conv", "image", 0, "w4", 0),
        Layer("projection", "Conv", "depthwise", 0, "w4", 0),
        Layer("residual", "Add", "conv", 1),
        Layer("turned", "Add", "residual", 0),
        Layer("up", "ConvTranspose", "turned", 0, "w4", 1),
        Layer("gemm", "Gemm", "up", 0, "w2", 0),
        Layer("plain", "Gemm", "up", 0, "w2", 1),
        Layer("linear", "MatMul", "gemm", 0, "w2", 1),
    ]
    assert weight_scales(np.array([[127.0, 1], [254, 2]]), 0).tolist() == [1, 2]
    assert weight_scales(np.array([[127.0, 1], [254, 127]]), 1).tolist() == [2, 1]


# ---- report ----


def test_same_instances_by_hand():
    def frame(ids, classes):
        ids = np.array(ids, np.uint16).reshape(1, -1)
        return PanopticFrame.from_maps(np.array([classes], np.uint8), ids, np.full(ids.shape, 255, np.uint8))

    one = frame([1, 1, 1, 1, 0, 2, 2, 3], [2, 2, 2, 2, 0, 2, 2, 2])
    other = frame([7, 7, 7, 0, 7, 2, 2, 0], [2, 2, 2, 0, 2, 1, 1, 0])
    # 1 and 7 share 3 of 5 pixels; 2 has another class; 3 is missed. 8 pixels have an instance in either.
    assert same_instances(one, other) == (3, 8)


def test_the_layer_that_makes_the_noise_is_named():
    graph = pointwise(np.array([[1.0, 0.0], [0.0, 1.0]]))
    second = helper.make_node("Conv", ["out", "w"], ["end"], name="second")
    graph.graph.node.append(second)
    graph.graph.output[0].name = "end"
    layers = find_layers(graph)
    images = [np.random.default_rng(0).normal(size=(1, 2, 1, 1)).astype(np.float32) for _ in range(4)]
    entries = judge_layers(graph, layers, {"image": (4.0, 4.0), "out": (400.0, 400.0)}, images, True, silent)
    fine, coarse = entries
    assert fine["snr_db"] > coarse["snr_db"] + 20
    assert fine["noise"]["end"] + coarse["noise"]["end"] == pytest.approx(1)
    assert coarse["noise"]["end"] > 0.99
    assert recommend(entries) == ([], ["second"])
    assert recommend([{"name": "wide", "to_median": 4.5}, {"name": "usual", "to_median": 1.0}]) == (["wide"], [])


# ---- all of it ----


def test_a_calibration_can_be_made_again_to_the_byte(model, footage, tmp_path):
    recipe = load_recipe(model, frames=3, held_out=2, method="percentile")
    results = [quantize(model, open_source(footage), recipe, tmp_path / n, progress=silent) for n in ("a", "b")]
    for name in ("quantized.onnx", "calibration.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["calibration.json", "quantized.onnx"]
    assert json.loads((tmp_path / "a/calibration.json").read_text()) == results[0]
    assert [layer["name"] for layer in results[0]["layers"]] == ["first", "second", "sum"]
    assert len(results[0]["frames"]), len(results[0]["held_out"]) == (3, 2)
    assert results[0]["recipe"]["method"] == "percentile"
    assert results[0]["compared"]["class_agreement"] > 0.9
    assert read_calibration(model, tmp_path / "a").sha256 == results[0]["sha256"]
    assert "layers in int8" in describe(results[0])
    other = quantize(model, open_source(footage), replace(recipe, seed=1), tmp_path / "c", progress=silent)
    assert other["frames"] != results[0]["frames"]


def test_kept_layers_have_no_quantization_and_are_float16(model, footage):
    lines = []
    quantize(model, open_source(footage), replace(load_recipe(model, frames=3), keep=("first",)), progress=silent)
    network = prepare(model, "int8", read_calibration(model), lines.append)
    assert lines == ["int8: 1 of 2 layers with weights; not quantized, so in float16: first"]
    weights = {tensor.name: tensor.data_type for tensor in network.onnx.graph.initializer}
    assert weights["first_w"] == TensorProto.FLOAT16
    assert weights["second/weights_q"] == TensorProto.INT8
    assert weights["second/weights_scale"] == TensorProto.FLOAT16
    recipe = replace(load_recipe(model, frames=3), keep=("first", "second", "sum"))
    with pytest.raises(UserError, match="no layer is left to quantize"):
        quantize(model, open_source(footage), recipe, progress=silent)


def test_an_older_calibration_stays_when_one_is_interrupted(model, footage):
    quantize(model, open_source(footage), load_recipe(model, frames=3), progress=silent)
    before = {path: path.read_bytes() for path in (model.folder / "int8").iterdir()}

    def interrupted(items, desc, **options):
        if desc == "each layer alone":
            raise KeyboardInterrupt
        return items

    with pytest.raises(KeyboardInterrupt):
        quantize(model, open_source(footage), load_recipe(model, frames=5), progress=interrupted)
    assert {path: path.read_bytes() for path in (model.folder / "int8").iterdir()} == before


def test_a_model_that_was_changed_since_needs_another(model, footage):
    quantize(model, open_source(footage), load_recipe(model, frames=3), progress=silent)
    graph = onnx.load(model.onnx_path)
    graph.doc_string = "another"
    onnx.save(graph, model.onnx_path)
    sha256 = hashlib.sha256(model.onnx_path.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=r"model_sha256: was made from .*perception quantize .*--footage"):
        read_calibration(replace(model, sha256=sha256))


def test_the_command(model, footage, tmp_path):
    labels = write_images(tmp_path / "labels", np.zeros((7, 8, 8), np.uint8))
    command = ["quantize", str(model.folder), "--frames", "3"]
    run = CliRunner().invoke(main, [*command, "--footage", str(footage), "--truth", str(labels), "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert set(result["compared"]["truth"]) == {"fp32", "int8"}
    assert 0 <= result["compared"]["truth"]["int8"]["miou"] <= 1
    assert read_calibration(model).sha256 == result["sha256"]
    for arguments, message in (
        ([], "--footage: neither given nor in the recipe"),
        (["--footage", str(tmp_path / "labels" / "none")], "does not exist; pass a video"),
        (["--footage", str(model.folder)], "holds no images"),
        (["--footage", str(footage), "--recipe", "none.yaml"], "--recipe none.yaml: no such file"),
        (["--footage", str(footage), "--truth", str(model.folder)], "--truth: .*missing or not an image"),
        (["--footage", str(footage), "--out", str(model.onnx_path / "int8")], "name another folder with --out"),
    ):
        run = CliRunner().invoke(main, [*command, *arguments])
        assert run.exit_code in (1, 2), arguments
        assert re.search(message, run.output), run.output


@pytest.fixture(scope="module")
def calibrated_default(camvid_val, tmp_path_factory):
    """The default model, the folder of its calibration on a few real frames, and the result."""
    model, out = load_model(), tmp_path_factory.mktemp("int8")
    recipe = replace(load_recipe(model), frames=6, held_out=6, layerwise=0)
    return model, out, quantize(model, open_source(camvid_val / "images"), recipe, out, camvid_val / "labels", silent)


def test_the_default_model_in_int8_sees_the_same(calibrated_default):
    model, out, result = calibrated_default
    assert result["recipe"]["keep"]
    assert len(result["layers"]) == 54
    compared = result["compared"]
    assert compared["class_agreement"] > 0.99  # 0.997 when this was written
    assert compared["instance_agreement"] > 0.9  # 0.986
    assert compared["truth"]["int8"]["miou"] == pytest.approx(compared["truth"]["fp32"]["miou"], abs=0.02)
    # ONNX Runtime's own fusing of Q/DQ made this 4.3.
    assert prepare(model, "int8", read_calibration(model, out), print).differences["semantic"] < 3


def test_the_default_models_int8_plan_is_built(calibrated_default, tmp_path):
    library()
    model, calibration, result = calibrated_default
    lines = []
    (plan,) = build(model, "int8", ["sm_86"], calibration=calibration, out=tmp_path, say=lines.append)
    assert plan.sidecar.key.calibration == result["sha256"]
    assert {spec.dtype for spec in (*plan.sidecar.inputs, *plan.sidecar.outputs)} == {"float32"}
    assert lines[0].startswith("int8: 45 of 74 layers with weights; not quantized, so in float16: node_Conv_1310, ")
    # 50 MB with depthwise layers in int8.
    assert plan.sidecar.plan_bytes < 20_000_000
