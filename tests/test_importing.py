"""`perception import` on graphs made by hand: what it finds, what it changes, what it refuses."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import TINY_CLASSES
from hypothesis import example, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="import needs onnx: pip install -e '.[engines]'")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from perception_node.cli import main  # noqa: E402
from perception_node.engine import TensorSpec  # noqa: E402
from perception_node.engine.build import build  # noqa: E402
from perception_node.engine.trt import open_library  # noqa: E402
from perception_node.errors import UserError  # noqa: E402
from perception_node.importing import Normalisation, import_network  # noqa: E402
from perception_node.importing.graph import read_network, replace_outputs, write_network  # noqa: E402
from perception_node.importing.ultralytics import adapt, find_layout  # noqa: E402
from perception_node.model import load_model, read_taxonomy  # noqa: E402
from perception_node.pipeline import Pipeline  # noqa: E402
from perception_node.taxonomy import Taxonomy, builtin_taxonomy  # noqa: E402

TINY = Taxonomy.from_entries(TINY_CLASSES)  # road, sky, car; only cars are things
PLAIN = Normalisation((0, 0, 0), (1, 1, 1))


def write(path, outputs, *, size=(8, 8), channels=3, batch=1, elem=TensorProto.FLOAT, tail=(), opset=17, metadata=None):
    """A network that answers with literals, whatever it is shown.

    `outputs` are name -> array; `tail` nodes are appended, their last outputs replace the graph's if they are given.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0), "zero")]
    for name, array in outputs.items():
        nodes.append(helper.make_node("Cast", ["nothing"], [f"{name}_nothing"], to=_elem(array)))
        nodes.append(helper.make_node("Add", [f"{name}_value", f"{name}_nothing"], [name]))
        constants.append(numpy_helper.from_array(array, f"{name}_value"))
    values = {name: helper.make_tensor_value_info(name, _elem(array), array.shape) for name, array in outputs.items()}
    for node, value in tail:
        nodes.append(node)
        for replaced in node.input:
            values.pop(replaced, None)
        values[value.name] = value
    image = helper.make_tensor_value_info("image", elem, [batch, channels, *size])
    graph = helper.make_graph(nodes, "literal", [image], list(values.values()), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def _elem(array):
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def logits(classes=3, height=4, width=4):
    """Sky above, road below; every other class nowhere."""
    array = np.zeros((1, classes, height, width), np.float32)
    array[:, 1, : height // 2] = array[:, 0, height // 2 :] = 8
    return array


def bring(tmp_path, outputs, family="semantic", taxonomy=TINY, normalisation=PLAIN, graph=None, **options):
    network = write(tmp_path / "network.onnx", outputs, **(graph or {}))
    return import_network(network, family, taxonomy, tmp_path / "mine", normalisation=normalisation, **options)


def frame_of(tmp_path):
    return Pipeline(load_model(tmp_path / "mine"))(np.zeros((8, 8, 3), np.uint8))


# ---- what is found ----


def test_a_semantic_network(tmp_path):
    imported = bring(tmp_path, {"output": logits()}, color="bgr", resize="stretch", options=["stuff_area=2"])
    model = load_model(imported.folder)
    assert (model.family, model.stride, dict(model.tensors)) == ("semantic", 2, {"semantic": "output"})
    assert (model.input.size_hw, model.input.color, model.input.resize) == ((8, 8), "bgr", "stretch")
    assert model.fusion == {"components": False, "stuff_area": 2}
    assert model.taxonomy == TINY
    assert "the only one" in imported.notes["semantic"]
    assert set(imported.milliseconds) == {"preprocess", "network", "fusion"}
    classes = frame_of(tmp_path).class_map
    assert (classes[:3] == 1).all()
    assert (classes[5:] == 0).all()


@pytest.mark.parametrize(
    ("family", "outputs", "tensors", "stride"),
    [
        (
            "mask_classification",
            {"class_queries_logits": (1, 5, 4), "masks_queries_logits": (1, 5, 2, 2)},
            {"class_logits": "class_queries_logits", "mask_logits": "masks_queries_logits"},
            4,
        ),
        (
            "mask_classification",
            {"a": (1, 3, 4), "b": (1, 3, 4, 4), "embeddings": (1, 3, 7)},
            {"class_logits": "a", "mask_logits": "b"},
            2,
        ),
        (
            "center_offset",
            {"sem": (1, 3, 4, 4), "ctr": (1, 1, 4, 4), "off": (1, 2, 4, 4)},
            {"semantic": "sem", "center": "ctr", "offset": "off"},
            2,
        ),
        (
            "center_offset",
            {"fg": (1, 1, 4, 4), "sem": (1, 3, 4, 4), "center_heatmap": (1, 1, 4, 4), "off": (1, 2, 4, 4)},
            {"semantic": "sem", "center": "center_heatmap", "offset": "off", "foreground": "fg"},
            2,
        ),
        (
            "instance_semantic",
            {
                "l": np.zeros((1, 6), np.int64),
                "s": (1, 6),
                "x": (1, 6, 4),
                "m": (1, 6, 14, 14),
                "sem": (1, 3, 8, 8),
            },
            {"semantic": "sem", "classes": "l", "scores": "s", "boxes": "x", "masks28": "m"},
            1,
        ),
        (
            "prototype",
            {"box": (1, 9, 4), "conf": (1, 9, 1), "coef": (1, 9, 5), "proto": (1, 5, 4, 4)},
            {"boxes": "box", "scores": "conf", "coefficients": "coef", "prototypes": "proto"},
            2,
        ),
        (
            "prototype",
            {"box": (1, 9, 4), "conf": (1, 9, 3), "coef": (1, 9, 5), "proto": (1, 5, 4, 4), "seg": (1, 3, 4, 4)},
            {"boxes": "box", "scores": "conf", "coefficients": "coef", "prototypes": "proto"},
            2,
        ),
        ("semantic", {"aux": (1, 3, 4, 4), "sem_seg": (1, 3, 2, 2)}, {"semantic": "sem_seg"}, 4),
    ],
)
def test_which_output_is_which(tmp_path, family, outputs, tensors, stride):
    arrays = {n: a if isinstance(a, np.ndarray) else np.zeros(a, np.float32) for n, a in outputs.items()}
    bring(tmp_path, arrays, family)
    model = load_model(tmp_path / "mine")
    assert (dict(model.tensors), model.stride) == (tensors, stride)
    # What the family does not take is no output any more.
    assert {output.name for output in onnxruntime.InferenceSession(model.onnx_path).get_outputs()} == {
        *tensors.values()
    }


@pytest.mark.parametrize(
    ("size", "output", "stride"), [((520, 520), (17, 17), 32), ((540, 960), (17, 30), 32), ((56, 56), (4, 4), 14)]
)
def test_the_stride_of_a_network_that_pads(tmp_path, size, output, stride):
    bring(tmp_path, {"output": logits(3, *output)}, graph={"size": size})
    assert load_model(tmp_path / "mine").stride == stride


def test_the_user_can_say_which(tmp_path):
    imported = bring(tmp_path, {"a": logits(), "b": logits() * 2}, tensors={"semantic": "b"})
    assert dict(load_model(imported.folder).tensors) == {"semantic": "b"}
    assert "as you said" in imported.notes["semantic"]


@pytest.mark.parametrize(("role", "other"), [("masks28", "masks"), ("masks", "masks28")])
def test_masks_with_boxes_lie_within_them_unless_the_user_says_otherwise(tmp_path, role, other):
    outputs = {"s": (1, 6), "x": (1, 6, 4), "m": (1, 6, 4, 4), "sem": (1, 3, 4, 4)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in outputs.items()}
    arrays["l"] = np.zeros((1, 6), np.int64)
    bring(tmp_path, arrays, "instance_semantic", tensors={"masks": "m"} if role == "masks" else {})
    tensors = load_model(tmp_path / "mine").tensors
    assert tensors[role] == "m"
    assert other not in tensors


def test_open_sizes_are_fixed(tmp_path):
    resize = helper.make_node("Resize", ["floats", "", "scales"], ["half"], mode="nearest")
    values = [helper.make_tensor_value_info("half", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    network = write(tmp_path / "network.onnx", {}, size=("h", "w"))
    model = onnx.load(network)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "scales"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.node.append(resize)
    del model.graph.output[:]
    model.graph.output.extend(values)
    onnx.save(model, network)
    import_network(network, "semantic", TINY, tmp_path / "mine", size_hw=(16, 24), normalisation=PLAIN)
    session = onnxruntime.InferenceSession(load_model(tmp_path / "mine").onnx_path)
    assert [tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())] == [
        [1, 3, 16, 24],
        [1, 3, 8, 12],
    ]


def test_weights_beside_the_network_are_taken_in(tmp_path):
    network = write(tmp_path / "network.onnx", {"output": logits()})
    onnx.save(onnx.load(network), network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    import_network(network, "semantic", TINY, tmp_path / "mine", normalisation=PLAIN)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["model.onnx", "model.yaml"]
    (tmp_path / "weights.bin").unlink()
    assert (frame_of(tmp_path).class_map[:3] == 1).all()
    with pytest.raises(UserError, match=r"its weights are in weights\.bin, which is not beside it; put the file there"):
        import_network(network, "semantic", TINY, tmp_path / "other", normalisation=PLAIN)


def test_weights_of_over_two_gigabytes_are_refused(tmp_path):
    network = write(tmp_path / "network.onnx", {"output": logits()})
    onnx.save(onnx.load(network), network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(UserError, match=r"network\.onnx: over 2 GB with its weights.*; export it in float16"):
        import_network(network, "semantic", TINY, tmp_path / "mine", normalisation=PLAIN)


# ---- what is taken off the end ----


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_an_argmax_is_taken_off(tmp_path, squeezed, softmax):
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, None)
    nodes = [helper.make_node("Softmax", ["output"], ["p"], axis=1)] if softmax else []
    nodes.append(
        helper.make_node("ArgMax", ["p" if softmax else "output"], ["ids"], axis=1, keepdims=int(not squeezed))
    )
    tail = [(node, helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)) for node in nodes[:-1]]
    shape = [1, 4, 4] if squeezed else [1, 1, 4, 4]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, shape)
    imported = bring(tmp_path, {"output": logits()}, graph={"tail": [*tail, (nodes[-1], ids)]})
    assert dict(load_model(imported.folder).tensors) == {"semantic": "output"}
    assert "ids is the argmax of" in imported.notes["argmax"]
    assert not {"ArgMax", "Softmax"} & {node.op_type for node in onnx.load(imported.folder / "model.onnx").graph.node}


def test_a_sigmoid_is_taken_off(tmp_path):
    """A network with one class would otherwise see it everywhere: sigmoid(p) is above 0.5 for every p."""
    one = logits(2)[:, 1:] - 4
    node = helper.make_node("Sigmoid", ["output"], ["p"])
    value = helper.make_tensor_value_info("p", TensorProto.FLOAT, one.shape)
    road = Taxonomy.from_entries(TINY_CLASSES[:1])
    imported = bring(tmp_path, {"output": one}, taxonomy=road, graph={"tail": [(node, value)]})
    assert "its Sigmoid is left out" in imported.notes["semantic"]
    classes = frame_of(tmp_path).class_map
    assert (classes[:3] == 0).all()
    assert (classes[5:] == 255).all()


def test_probabilities_that_a_family_takes_stay(tmp_path):
    """Masks of instances, and a heatmap of centres, are probabilities to fusion too."""
    outputs = {"sem": np.zeros((1, 3, 4, 4), np.float32), "ctr": np.zeros((1, 1, 4, 4), np.float32)}
    node = helper.make_node("Sigmoid", ["ctr"], ["center"])
    value = helper.make_tensor_value_info("center", TensorProto.FLOAT, (1, 1, 4, 4))
    outputs["off"] = np.zeros((1, 2, 4, 4), np.float32)
    imported = bring(tmp_path, outputs, "center_offset", graph={"tail": [(node, value)]})
    assert load_model(imported.folder).tensors["center"] == "center"


# ---- Ultralytics ----


def split(detections, k, end_to_end, nc):
    """A transcription of the layouts: boxes xyxy (N, 4), scores (N, nc), coefficients (N, k)."""
    if end_to_end:
        rows = detections[0]
        scores = rows[:, 4:5] * (rows[:, 5:6] == np.arange(nc))
        return rows[:, :4], scores, rows[:, 6:]
    rows = detections[0].T
    center, size = rows[:, :2], rows[:, 2:4]
    return np.hstack([center - size / 2, center + size / 2]), rows[:, 4 : 4 + nc], rows[:, 4 + nc :]


@settings(deadline=None, max_examples=40)
@example(n=7, nc=2, k=1, end_to_end=True, half=False, opset=11, seed=0)  # a shape that can be both: refused
@given(
    n=st.integers(1, 60),
    nc=st.integers(2, 12),
    k=st.integers(1, 33),
    end_to_end=st.booleans(),
    half=st.booleans(),
    opset=st.sampled_from([11, 13, 17, 20]),
    seed=st.integers(0, 1 << 32),
)
def test_the_ultralytics_nodes_do_what_the_layout_says(tmp_path_factory, n, nc, k, end_to_end, half, opset, seed):
    rng = np.random.default_rng(seed)
    shape = (1, n, 6 + k) if end_to_end else (1, 4 + nc + k, n + 4 + nc + k)
    detections = rng.random(shape, np.float32) * 8
    if end_to_end:
        detections[..., 5] = rng.integers(0, nc, (1, n))
    if half:
        detections = detections.astype(np.float16)
    prototypes = rng.random((1, k, 2, 2), np.float32)
    path = tmp_path_factory.mktemp("ultralytics") / "network.onnx"
    names = {"names": str({i: f"thing {i}" for i in range(nc)})}
    write(path, {"output0": detections, "output1": prototypes}, opset=opset, metadata=names)
    model = read_network(path)
    taxonomy = Taxonomy.from_entries(
        [{"id": i, "name": f"thing {i}", "color": [0, 0, 0], "thing": True} for i in range(nc)]
    )
    outputs = [
        TensorSpec(name, a.shape, a.dtype.name) for name, a in (("output0", detections), ("output1", prototypes))
    ]
    if end_to_end and n == 4 + nc + k:  # as many boxes as the other layout has rows
        with pytest.raises(UserError, match="can be end to end"):
            find_layout(model, outputs, taxonomy)
        return
    layout = find_layout(model, outputs, taxonomy)
    assert layout is not None
    assert layout.end_to_end == end_to_end
    tensors = adapt(model, layout)
    write_network(model, path)
    session = onnxruntime.InferenceSession(path)
    names = [tensors[role] for role in ("boxes", "scores", "coefficients", "prototypes")]
    found = session.run(names, {"image": np.zeros((1, 3, 8, 8), np.float32)})
    transcribed = split(detections.astype(np.float32), k, end_to_end, nc)
    for actual, expected in zip(found, [*transcribed, prototypes[0]], strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", ["semantic", "ultralytics", "ultralytics, end to end"])
def test_tensorrt_takes_it(tmp_path, family, precision):
    try:
        open_library("tensorrt_rtx")
    except UserError as error:
        pytest.skip(f"{error}; make setup-engines installs it")
    prototypes = np.ones((1, 2, 4, 4), np.float32)
    if family == "semantic":
        imported = bring(tmp_path, {"logits": logits()})
    else:
        shape = (1, 5, 6 + 2) if "end to end" in family else (1, 4 + 1 + 2, 10)
        outputs = {"output0": np.ones(shape, np.float32), "output1": prototypes}
        imported = bring(tmp_path, outputs, "prototype", normalisation=None)
    model = load_model(imported.folder)
    (plan,) = build(model, precision, ["sm_86"], "tensorrt_rtx", say=lambda line: None)
    assert {spec.name for spec in plan.sidecar.outputs} == set(model.tensors.values())


@pytest.mark.parametrize("end_to_end", [False, True])
def test_an_ultralytics_network(tmp_path, end_to_end):
    """One car with two boxes, in the right half of the image; without normalisation, which is known."""
    if end_to_end:
        detections = np.zeros((1, 5, 6 + 2), np.float32)
        detections[0, 0] = [4, 0, 8, 8, 0.9, 0, 1, 0]
    else:
        detections = np.zeros((1, 4 + 1 + 2, 10), np.float32)
        detections[0, :, 0] = [6, 4, 4, 8, 0.9, 1, 0]
        detections[0, :, 1] = [6, 4, 4, 7.5, 0.8, 1, 0]
    prototypes = np.stack([np.full((4, 4), 9), np.full((4, 4), -9)])[None].astype(np.float32)
    imported = bring(
        tmp_path,
        {"output0": detections, "output1": prototypes},
        "prototype",
        normalisation=None,
        graph={"metadata": {"names": "{0: 'automobile'}"}},
    )
    model = load_model(imported.folder)
    assert model.input.std == (255, 255, 255)
    assert model.fusion["nms_threshold"] == (None if end_to_end else 0.5)
    assert "0 'car', there 'automobile'" in imported.notes["classes"]
    frame = frame_of(tmp_path)
    assert [(s.class_id, s.box_xyxy) for s in frame.segments] == [(2, (4, 0, 8, 8))]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("outputs", "changes", "expected"),
    [
        ({"o": logits(4)}, {}, r"^o \(1, 4, 4, 4\) has 4 classes, but the taxonomy has 3; expected: the taxonomy that"),
        (
            {"c": np.zeros((1, 5, 3), np.float32), "m": np.zeros((1, 5, 4, 4), np.float32)},
            {"family": "mask_classification"},
            r"^c \(1, 5, 3\) has 2 classes and no object, but the taxonomy has 3",
        ),
        (
            {"a": logits(), "b": logits()},
            {},
            r"^semantic can be any of a float32 \(1, 3, 4, 4\), b float32 .*; expected: --tensor semantic=NAME",
        ),
        ({"o": logits(3, 3, 4)}, {}, r"^o \(1, 3, 3, 4\) is not the 8x8 input at a whole stride.*another --size"),
        (
            {"o": logits()[0]},
            {},
            r"^semantic takes semantic \(1, C, h, w\) with C = 3; the network has o float32 \(3, 4",
        ),
        (
            {"o": np.zeros((1, 4, 4), np.int64)},
            {},
            r"^o int64 \(1, 4, 4\) holds class ids, not logits.*; expected: an export that ends before the argmax",
        ),
        (
            {"o": logits()},
            {"tensors": {"semantic": "x"}},
            r"^tensor semantic=x: the network has no such output; it has o",
        ),
        ({"o": logits()}, {"tensors": {"sem": "o"}}, r"^tensor sem=o: semantic has no such; expected: semantic \(1, C"),
        (
            {"o": logits()},
            {"normalisation": None},
            r"^the graph does not tell how images are normalised; expected: --me",
        ),
        ({"o": logits()}, {"family": "semantics"}, r"^family 'semantics': there is no such; expected: one of center_"),
        ({"o": logits()}, {"options": ["area=4"]}, r"^option 'area=4': expected: NAME=VALUE of semantic"),
        ({"o": logits()}, {"size_hw": (16, 16)}, r"^size 16x16: the network takes image float32 \(1, 3, 8, 8\); leave"),
        (
            {"o": logits()},
            {"graph": {"size": ("h", "w")}},
            r"^input image float32 \(1, 3, \?, \?\) leaves its size open; expected: --size HEIGHTxWIDTH",
        ),
        (
            {"o": logits()},
            {"graph": {"channels": 8, "size": (8, 3)}},
            r"^input image float32 \(1, 8, 8, 3\): expected: a colour image .*export it with the channels first",
        ),
        (
            {"o": logits()},
            {"graph": {"batch": 4}},
            r"^input image float32 \(4, 3, 8, 8\): expected: a colour image \(1",
        ),
        (
            {"o": logits()},
            {"graph": {"elem": TensorProto.FLOAT16}},
            r"^input image float16 \(1, 3, 8, 8\): expected: float32",
        ),
        (
            {"output0": np.zeros((1, 4 + 80 + 2, 99), np.float32), "output1": np.zeros((1, 2, 4, 4), np.float32)},
            {"family": "prototype", "normalisation": None},
            r"^output0 \(1, 86, 99\) has 80 classes, but the taxonomy has 3, 1 of them things; expected: the taxonomy",
        ),
        (
            {"output0": np.zeros((1, 7, 8), np.float32), "output1": np.zeros((1, 2, 4, 4), np.float32)},
            {"family": "prototype", "normalisation": None},
            r"^output0 \(1, 7, 8\) can be end to end: .* or cx cy w h, 1 scores, .*; expected: an export with .*data",
        ),
        (
            {"o": logits()},
            {"normalisation": Normalisation((0, 0, 0), (0, 1, 1))},
            r"mine/model\.yaml:\d+: input\.std\.0: 0 is less than or equal .* \(nothing was written\)$",
        ),
    ],
)
def test_refused_in_one_line_and_nothing_is_left(tmp_path, outputs, changes, expected):
    with pytest.raises(UserError, match=expected) as caught:
        bring(tmp_path, outputs, **changes)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "network.onnx"] == []


def test_two_inputs_are_refused(tmp_path):
    network = write(tmp_path / "network.onnx", {"o": logits()})
    model = onnx.load(network)
    model.graph.input.append(helper.make_tensor_value_info("task", TensorProto.INT64, [1, 77]))
    onnx.save(model, network)
    with pytest.raises(
        UserError, match=r"^the network has 2 inputs \(image float32 .*, task int64 \(1, 77\)\); expected"
    ):
        import_network(network, "semantic", TINY, tmp_path / "mine", normalisation=PLAIN)


@pytest.mark.parametrize("content", [b"", b"\x00\x01not a network", b"<html>"])
def test_what_is_no_network_is_refused(tmp_path, content):
    (tmp_path / "network.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"network\.onnx: not an ONNX file"):
        import_network(tmp_path / "network.onnx", "semantic", TINY, tmp_path / "mine", normalisation=PLAIN)


def test_an_operator_that_the_engine_lacks_is_named(tmp_path):
    network = write(tmp_path / "network.onnx", {"o": logits()})
    model = onnx.load(network)
    model.graph.node.append(helper.make_node("MSDeformAttn", ["o"], ["p"], domain="mmdeploy"))
    model.opset_import.append(helper.make_opsetid("mmdeploy", 1))
    model.graph.output[0].name = "p"
    onnx.save(model, network)
    with pytest.raises(UserError, match=r"^ONNX Runtime cannot load it: .*MSDeformAttn") as caught:
        import_network(network, "semantic", TINY, tmp_path / "mine", normalisation=PLAIN)
    assert ".part" not in str(caught.value)


def test_a_size_that_the_network_cannot_run_at(tmp_path):
    reshape = helper.make_node("Reshape", ["floats", "shape"], ["o"])
    network = write(tmp_path / "network.onnx", {"shape": np.array([1, 3, 4, 16])}, size=("h", "w"))
    model = onnx.load(network)
    model.graph.node.append(reshape)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 3, 4, 16]))
    onnx.save(model, network)
    with pytest.raises(UserError, match=r"cannot run at 9x9; expected: a --size it was made for: .*[Rr]eshape"):
        import_network(network, "semantic", TINY, tmp_path / "mine", size_hw=(9, 9), normalisation=PLAIN)


def test_a_folder_is_replaced_only_by_force(tmp_path):
    bring(tmp_path, {"output": logits()})
    with pytest.raises(UserError, match=r"mine: exists already; expected: another --out, or --force"):
        bring(tmp_path, {"output": logits()})
    with pytest.raises(UserError, match="has 4 classes"):
        bring(tmp_path, {"output": logits(4)}, force=True)
    assert load_model(tmp_path / "mine").stride == 2  # a failure leaves the old one
    bring(tmp_path, {"output": logits(3, 8, 8)}, force=True)
    assert load_model(tmp_path / "mine").stride == 1
    (tmp_path / "home").mkdir()
    with pytest.raises(UserError, match=r"home: is no model folder .*not replaced"):
        import_network(tmp_path / "network.onnx", "semantic", TINY, tmp_path / "home", normalisation=PLAIN, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine", "network.onnx"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("perception_node.importing._prove", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bring(tmp_path, {"output": logits()})
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]


# ---- the graph ----


def test_nodes_that_lead_nowhere_go_and_those_in_branches_stay(tmp_path):
    """An If's branches take tensors from around them, which are no inputs of the node."""
    branches = {}
    for name in ("then_branch", "else_branch"):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        node = helper.make_node("Identity", ["kept"], [name])
        branches[name] = helper.make_graph([node], name, [], [value])
    network = write(tmp_path / "network.onnx", {"kept": logits(), "dropped": logits()})
    model = onnx.load(network)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["o"], **branches))
    model.graph.value_info.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, (1, 3, 4, 4)))
    replace_outputs(model, ["o"])
    write_network(model, network)
    assert "dropped" not in {name for node in model.graph.node for name in node.output}
    assert "dropped_value" not in {tensor.name for tensor in model.graph.initializer}
    (found,) = onnxruntime.InferenceSession(network).run(["o"], {"image": np.zeros((1, 3, 8, 8), np.float32)})
    np.testing.assert_array_equal(found, logits())


# ---- taxonomy and command line ----


def test_a_taxonomy_from_a_file(tmp_path, tiny_model):
    assert read_taxonomy("cityscapes") == builtin_taxonomy("cityscapes")
    assert read_taxonomy(str(tiny_model / "model.yaml")) == TINY
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n- {id: 0, name: road, color: [1, 2, 3]}\n- {id: 2, name: car, color: [4, 5, 6]}\n")
    with pytest.raises(UserError, match=r"classes\.yaml:3: classes\.1\.id: 2 where 1 is due"):
        read_taxonomy(str(path))
    path.write_text("- road\n")
    with pytest.raises(UserError, match=r"classes\.yaml:1: the file: has no classes; expected: a list"):
        read_taxonomy(str(path))
    with pytest.raises(UserError, match="taxonomy 'nosuch': there is no such"):
        read_taxonomy("nosuch")


def test_the_command(tmp_path):
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"classes": TINY_CLASSES}))
    network = write(tmp_path / "network.onnx", {"output": logits()})
    arguments = ["import", network, "--family", "semantic", "--taxonomy", tmp_path / "classes.yaml"]
    arguments += ["--out", tmp_path / "mine", "--mean", "1,2,3", "--std", "4,5,6", "--size", "8x8"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["notes"]["stride"] == "2"
    assert load_model(tmp_path / "mine").input.mean == (1, 2, 3)
    result = CliRunner().invoke(main, [*map(str, arguments), "--force"])
    assert "output float32 (1, 3, 4, 4), the only one of its shape and type" in result.output
    for wrong, expected in (
        (["--mean", "1,2"], "mean '1,2': expected: three numbers"),
        (["--tensor", "semantic"], "tensor 'semantic': expected: ROLE=NAME"),
    ):
        result = CliRunner().invoke(main, [*map(str, arguments), "--force", *wrong])
        assert result.exit_code == 1
        assert expected in result.output
