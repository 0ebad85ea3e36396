import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from perception_node.cli import main
from perception_node.device import open_device
from perception_node.errors import UserError
from perception_node.fuse import fuse, parse_options, parse_size, read_outputs
from perception_node.fusion import FAMILIES
from perception_node.fusion.base import Input
from perception_node.taxonomy import builtin_taxonomy

CITYSCAPES = builtin_taxonomy("cityscapes")
ROAD, SKY, CAR = 0, 10, 13
SCENE = np.array([[SKY, SKY, SKY, SKY], [ROAD, CAR, CAR, ROAD], [ROAD, CAR, CAR, ROAD]])
"""Shown by every family's outputs below; 3x4, each cell two pixels high and wide."""

AT_CAR = np.s_[2:6, 2:6]  # in the frame, pixels


def one_hot(classes=SCENE, logit=20.0):
    return np.where(np.arange(19)[:, None, None] == classes, logit, 0).astype(np.float32)


def center_offset():
    center = np.zeros((1, 3, 4), np.float32)
    center[0, 1, 1] = 1
    return {"semantic": one_hot(), "center": center, "offset": np.zeros((2, 3, 4), np.float32)}


def mask_classification():
    classes = [SKY, CAR, ROAD]
    masks = np.where(np.array(classes)[:, None, None] == SCENE, 20, -20)
    return {
        "class_logits": np.where(np.arange(20) == np.array(classes)[:, None], 20, 0).astype(np.float32),
        "mask_logits": masks.astype(np.float32),
    }


def instance_semantic():
    masks = np.zeros((2, 6, 8), bool)
    masks[1][AT_CAR] = True
    return {
        "semantic": one_hot(np.where(SCENE == CAR, ROAD, SCENE)),
        "classes": np.array([CAR, CAR]),
        "scores": np.array([0.25, 0.75]),  # the first is below the threshold
        "masks": masks,
    }


def instance_semantic_28():
    outputs = instance_semantic()
    del outputs["masks"]
    outputs["masks28"] = np.ones((2, 28, 28), np.float32)
    outputs["boxes"] = np.array([[0, 0, 8, 6], [2, 2, 6, 6]], np.float32)
    return outputs


def prototype():
    scores = np.zeros((2, 19), np.float32)
    scores[:, CAR] = 0.75, 0.25
    return {
        "boxes": np.array([[2, 2, 6, 6], [0, 0, 2, 2]], np.float32),
        "scores": scores,
        "coefficients": np.array([[1.0], [1.0]], np.float32),
        "prototypes": np.full((1, 3, 4), 5.0, np.float32),
        "semantic": one_hot(np.where(SCENE == CAR, ROAD, SCENE)),
    }


def semantic():
    return {"semantic": one_hot()}


def run(tmp_path, outputs, family, *arguments, size="6x8", taxonomy="cityscapes"):
    """`perception fuse` on these outputs; the result and what it wrote."""
    source, out = tmp_path / "in.npz", tmp_path / "out.npz"
    if outputs is not None:
        np.savez(source, **outputs)
    fixed = ["fuse", source, "--family", family, "--taxonomy", taxonomy, "--size", size, "--out", out]
    result = CliRunner().invoke(main, [str(argument) for argument in (*fixed, *arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result, (np.load(out) if out.exists() else None)


@pytest.mark.parametrize(
    ("family", "outputs", "options"),
    [
        ("center_offset", center_offset, ["top_k=1", "stuff_area=0"]),
        ("mask_classification", mask_classification, []),
        ("mask_classification", mask_classification, ["variant=transformers", "mask_size=24"]),
        ("mask_classification", mask_classification, ["variant=kmax"]),
        ("instance_semantic", instance_semantic, ["stuff_area=0"]),
        ("instance_semantic", instance_semantic_28, ["stuff_area=0"]),
        ("prototype", prototype, ["stuff_area=0"]),
        ("semantic", semantic, ["components=true"]),
    ],
)
def test_every_family_sees_the_scene(tmp_path, family, outputs, options):
    arguments = [argument for option in options for argument in ("--option", option)]
    result, frame = run(tmp_path, outputs(), family, *arguments, "--runs", 3, "--json")
    assert result.exit_code == 0, result.output
    expected = np.repeat(np.repeat(SCENE, 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(frame["class_map"], expected)
    np.testing.assert_array_equal(frame["instance_map"], expected == CAR)
    summary = json.loads(result.stdout)
    assert summary.pop("min_ms") <= summary.pop("median_ms") <= summary.pop("max_ms")
    assert summary == {
        "family": family,
        "size": [6, 8],
        "device": "cpu",
        "dtype": "float32",
        "segments": 3,
        "instances": 1,
        "runs": 3,
    }


def test_the_file_holds_maps_and_the_table_of_segments(tmp_path):
    _, frame = run(tmp_path, semantic(), "semantic", "--option", "components=true")
    assert {name: (array.dtype.name, array.shape) for name, array in frame.items()} == {
        "class_map": ("uint8", (6, 8)),
        "instance_map": ("uint16", (6, 8)),
        "confidence": ("uint8", (6, 8)),
        "segment_id": ("uint16", (3,)),
        "segment_class": ("uint8", (3,)),
        "segment_score": ("float64", (3,)),
        "segment_area": ("int64", (3,)),
        "segment_box": ("int32", (3, 4)),
        "segment_centroid": ("float64", (3, 2)),
    }
    assert frame["segment_class"].tolist() == [ROAD, SKY, CAR]
    assert frame["segment_id"].tolist() == [0, 0, 1]
    assert frame["segment_area"].tolist() == [16, 16, 16]
    assert frame["segment_box"].tolist() == [[0, 2, 8, 6], [0, 0, 8, 2], [2, 2, 6, 6]]
    assert frame["segment_centroid"].tolist() == [[3.5, 3.5], [3.5, 0.5], [3.5, 3.5]]


def test_a_frame_without_segments_has_empty_columns(tmp_path):
    result, frame = run(tmp_path, semantic(), "semantic", "--option", "stuff_area=49")
    assert "0 segments, 0 instances" in result.output
    assert (frame["class_map"] == 255).all()
    assert (frame["segment_box"].shape, frame["segment_centroid"].shape) == ((0, 4), (0, 2))


def test_without_json_people_read_it(tmp_path):
    result, _ = run(tmp_path, semantic(), "semantic", "--runs", 2)
    first, second = result.output.splitlines()
    assert first == f"semantic 6x8: 2 segments, 0 instances -> {tmp_path / 'out.npz'}"
    assert second.startswith("  2 runs on cpu: median ")


def test_outputs_fill_the_frame_in_both_directions(tmp_path):
    """3x4 outputs in a 3x12 frame: stride 1 down, 3 across."""
    _, frame = run(tmp_path, semantic(), "semantic", "--option", "components=true", size="3x12")
    np.testing.assert_array_equal(frame["class_map"], np.repeat(SCENE, 3, axis=1))


def test_a_file_that_was_there_is_replaced_and_nothing_else_stays(tmp_path):
    (tmp_path / "out.npz").write_bytes(b"old")
    _, frame = run(tmp_path, semantic(), "semantic")
    assert frame["class_map"].shape == (6, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "out.npz"]


# ---- inputs ----


def read(tmp_path, inputs, arrays, taxonomy=CITYSCAPES, size_hw=(6, 8)):
    np.savez(tmp_path / "in.npz", **arrays)
    return read_outputs(tmp_path / "in.npz", "family", inputs, taxonomy, size_hw)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), (">f4", "float32"), (">f2", "float16")],
)
def test_logits_are_float16_or_float32(tmp_path, given, kept):
    arrays = read(tmp_path, {"semantic": Input("C h w")}, {"semantic": one_hot().astype(given)})
    assert arrays["semantic"].dtype == np.dtype(kept)
    assert arrays["semantic"].dtype.isnative
    np.testing.assert_array_equal(arrays["semantic"], one_hot())


def test_logits_of_two_types_become_float32(tmp_path):
    outputs = {**center_offset(), "semantic": one_hot().astype(np.float16)}
    arrays = read(tmp_path, FAMILIES["center_offset"].inputs, outputs)
    assert {array.dtype.name for array in arrays.values()} == {"float32"}


def test_other_types_are_those_of_the_family(tmp_path):
    arrays = read(tmp_path, FAMILIES["instance_semantic"].inputs, instance_semantic())
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "semantic": "float32",
        "classes": "int32",
        "scores": "float32",
        "masks": "uint8",
    }
    assert arrays["masks"].max() == 1


def test_masks_of_any_integers_are_0_and_1(tmp_path):
    outputs = {**instance_semantic(), "masks": np.full((2, 6, 8), 256)}
    assert (read(tmp_path, FAMILIES["instance_semantic"].inputs, outputs)["masks"] == 1).all()


def test_a_batch_axis_of_one_is_dropped(tmp_path):
    arrays = read(tmp_path, {"semantic": Input("C h w")}, {"semantic": one_hot()[None]})
    assert arrays["semantic"].shape == (19, 3, 4)


def test_arrays_are_contiguous(tmp_path):
    arrays = read(tmp_path, {"semantic": Input("C h w")}, {"semantic": np.asfortranarray(one_hot())})
    assert arrays["semantic"].flags.c_contiguous


@pytest.mark.parametrize(
    ("inputs", "shapes", "message"),
    [
        ({"a": Input("C h w")}, {"a": (19, 4)}, "a has shape (19, 4); expected: (C, h, w) with C = 19"),
        ({"a": Input("C h w")}, {"a": (2, 19, 3, 4)}, "a has shape (2, 19, 3, 4); expected: (C, h, w) with C = 19"),
        ({"a": Input("C h w")}, {"a": (18, 3, 4)}, "a has shape (18, 3, 4); expected: (C, h, w) with C = 19"),
        ({"a": Input("C h w")}, {"a": (19, 0, 4)}, "a has shape (19, 0, 4); expected: (C, h, w) with C = 19"),
        ({"a": Input("2 h w")}, {"a": (1, 3, 4)}, "a has shape (1, 3, 4); expected: (2, h, w)"),
        ({"a": Input("Q C+1")}, {"a": (5, 19)}, "a has shape (5, 19); expected: (Q, C+1) with C = 19"),
        ({"a": Input("C")}, {"a": ()}, "a has shape (); expected: (C) with C = 19"),
        (
            {"a": Input("C h w"), "b": Input("1 h w")},
            {"a": (19, 3, 4), "b": (1, 3, 5)},
            "b has shape (1, 3, 5); expected: (1, h, w) with h = 3 and w = 4",
        ),
        (
            {"a": Input("N 4", "float32"), "b": Input("N k")},
            {"a": (2, 4), "b": (3, 32)},
            "b has shape (3, 32); expected: (N, k) with N = 2",
        ),
    ],
)
def test_wrong_shapes_are_named(tmp_path, inputs, shapes, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, inputs, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert str(caught.value) == f"{tmp_path / 'in.npz'}: {message}"


def test_masks_are_of_the_frame(tmp_path):
    with pytest.raises(UserError, match=r"masks has shape \(2, 6, 8\); expected: \(N, H, W\) with .*H = 6 and W = 9"):
        read(tmp_path, FAMILIES["instance_semantic"].inputs, instance_semantic(), size_hw=(6, 9))


def test_probabilities_have_a_resolution_of_their_own(tmp_path):
    outputs = {**instance_semantic(), "masks": np.zeros((2, 3, 4), np.float32)}
    assert read(tmp_path, FAMILIES["instance_semantic"].inputs, outputs)["masks"].shape == (2, 3, 4)


@pytest.mark.parametrize("family", ["instance_semantic", "prototype"])
def test_there_may_be_no_instance(tmp_path, family):
    outputs = {"instance_semantic": instance_semantic, "prototype": prototype}[family]()
    of_instances = {"classes", "scores", "masks", "boxes", "coefficients"}
    outputs = {name: array[:0] if name in of_instances else array for name, array in outputs.items()}
    result, frame = run(tmp_path, outputs, family, "--option", "stuff_area=0")
    assert result.exit_code == 0, result.output
    assert frame["segment_class"].tolist() == [ROAD, SKY]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"semantic": np.zeros((19, 3, 4), int)}, "semantic is int64; expected: float32 or float16"),
        ({"semantic": np.zeros((19, 3, 4), complex)}, "semantic is complex128; expected: float32 or float16"),
        ({"semantic": np.full((19, 3, 4), "a")}, "semantic is <U1; expected: float32 or float16"),
        ({"semantic": np.full((19, 3, 4), None)}, "holds objects, not numbers; expected: what numpy.savez writes"),
        ({}, "lacks semantic; there are none; semantic takes semantic (C, h, w)"),
        ({"sem": one_hot()}, "lacks semantic; there are sem; semantic takes semantic (C, h, w)"),
        ({"semantic": one_hot(), "x": 1}, "x: unknown; there are semantic, x; semantic takes semantic (C, h, w)"),
    ],
)
def test_what_the_family_does_not_take(tmp_path, arrays, message):
    result, frame = run(tmp_path, arrays, "semantic")
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path / 'in.npz'}: {message}")
    assert result.output.count("\n") == 1
    assert frame is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": [CAR, 0.5]}, "classes is float64; expected: whole numbers"),
        ({"classes": [CAR, 2**31]}, "classes is int64; expected: whole numbers, -2147483648..2147483647"),
        ({"masks": None}, "needs either masks, or masks28 and boxes; there are semantic, classes, scores;"),
        ({"masks": None, "masks28": np.ones((2, 28, 28))}, "needs either masks, or masks28 and boxes"),
        (
            {"masks28": np.ones((2, 28, 28)), "boxes": np.zeros((2, 4))},
            "needs either masks, or masks28 and boxes",
        ),
        ({"scores": [0.5]}, "scores has shape (1,); expected: (N) with N = 2"),
    ],
)
def test_what_instance_semantic_does_not_take(tmp_path, changes, message):
    outputs = {name: array for name, array in {**instance_semantic(), **changes}.items() if array is not None}
    result, _ = run(tmp_path, outputs, "instance_semantic")
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: path.write_bytes(b""), "cannot be read as an npz file"),
        (lambda path: path.write_bytes(b"semantic"), "cannot be read as an npz file"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read as an npz file"),
        (lambda path: np.save(path.open("wb"), one_hot()), "cannot be read as an npz file"),
    ],
)
def test_what_is_no_npz(tmp_path, write, message):
    write(tmp_path / "in.npz")
    result, _ = run(tmp_path, None, "semantic")
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path / 'in.npz'}: {message}")
    assert result.output.count("\n") == 1


def test_a_damaged_npz(tmp_path):
    np.savez_compressed(tmp_path / "in.npz", semantic=one_hot())
    data = bytearray((tmp_path / "in.npz").read_bytes())
    data[60:70] = bytes(10)
    (tmp_path / "in.npz").write_bytes(data)
    result, _ = run(tmp_path, None, "semantic")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "in.npz: cannot be read as an npz file" in result.output


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "centre"], "family 'centre': there is no such; expected: one of center_offset, mask_"),
        (["--taxonomy", "ade20k"], "taxonomy 'ade20k': there is no such; expected: one of camvid, cityscapes, coco"),
        (["--taxonomy", "camvid"], "semantic has shape (19, 3, 4); expected: (C, h, w) with C = 11"),
        (["--device", "tpu"], "device 'tpu': "),
        (["--runs", "0"], "runs 0: expected: 1 or more"),
        (["--size", "6"], "size '6': expected: HEIGHTxWIDTH, each 1..16384, e.g. 1024x2048"),
        (["--option", "top_k"], "option 'top_k': expected: NAME=VALUE of center_offset: center_threshold=0.1, nms_"),
        (["--option", "topk=1"], "option 'topk=1': expected: NAME=VALUE of center_offset: center_threshold=0.1, nms_"),
        (["--option", "top_k=1.5"], "option 'top_k=1.5': expected: a whole number; center_offset has "),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, message):
    result, frame = run(tmp_path, center_offset(), "center_offset", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert frame is None


@pytest.mark.parametrize("text", ["", "x", "6x", "x8", "6x8x1", "0x8", "-6x8", "6.0x8", "6X8", "1x16385", "٣x8"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError, match=r"expected: HEIGHTxWIDTH"):
        parse_size(text)


def test_size_is_height_then_width():
    assert parse_size("1024x2048") == (1024, 2048)


@pytest.mark.parametrize(
    ("family", "option", "expected"),
    [
        ("center_offset", "top_k=100", {"top_k": 100}),
        ("center_offset", "center_threshold=1e-1", {"center_threshold": 0.1}),
        ("center_offset", "center_threshold=1", {"center_threshold": 1.0}),
        ("mask_classification", "variant=kmax", {"variant": "kmax"}),
        ("mask_classification", "score_threshold=none", {"score_threshold": None}),
        ("mask_classification", "score_threshold=0.5", {"score_threshold": 0.5}),
        ("prototype", "nms_threshold=None", {"nms_threshold": None}),
        ("semantic", "components=true", {"components": True}),
        ("semantic", "components=False", {"components": False}),
    ],
)
def test_options_have_the_types_of_the_family(family, option, expected):
    parsed = parse_options(family, FAMILIES[family], [option])
    assert parsed == expected
    assert [type(value) for value in parsed.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("family", "option", "message"),
    [
        ("semantic", "components=1", "true or false; semantic has components=false, stuff_area=0"),
        ("semantic", "stuff_area=", "a whole number; semantic has components=false, stuff_area=0"),
        ("prototype", "nms_threshold=nan", "a number; prototype has score_threshold=0.5, nms_threshold=0.5"),
        ("mask_classification", "score_threshold=high", "a number; mask_classification has variant=mask2f"),
    ],
)
def test_options_of_wrong_types_name_what_is_known(family, option, message):
    with pytest.raises(UserError) as caught:
        parse_options(family, FAMILIES[family], [option])
    assert str(caught.value).startswith(f"option {option!r}: expected: {message}")


@pytest.mark.parametrize(
    ("family", "option", "message"),
    [
        ("center_offset", "nms_kernel=4", r"nms_kernel: .*; expected: .*odd, e\.g\. 7"),
        ("center_offset", "top_k=0", r"top_k: 0 is less than the minimum of 1; expected: .*1\.\.65535"),
        ("semantic", "stuff_area=-1", r"stuff_area: -1 is less than the minimum of 0; expected: .*"),
        ("mask_classification", "variant=detr", r"variant: 'detr' is not one of .*; expected: .*mask2former, "),
        ("mask_classification", "mask_size=0", r"mask_size: 0 is less than the minimum of 1; expected: .*"),
    ],
)
def test_options_have_the_limits_of_a_manifest(family, option, message):
    with pytest.raises(UserError, match=message):
        parse_options(family, FAMILIES[family], [option])


@pytest.mark.parametrize("family", FAMILIES)
def test_options_and_defaults_are_those_of_a_manifest(family):
    schema = yaml.safe_load((Path(__file__).parents[1] / "perception_node" / "model.schema.yaml").read_text())
    properties = schema["families"][family]["fusion"]["properties"]
    parameters = list(inspect.signature(FAMILIES[family]).parameters.values())[3:]
    assert {p.name: p.default for p in parameters} == {name: entry["default"] for name, entry in properties.items()}
    tensors = schema["families"][family]["tensors"]
    assert set(tensors["properties"]) == set(FAMILIES[family].inputs)
    assert set(tensors["required"]) == {name for name, spec in FAMILIES[family].inputs.items() if not spec.optional}


def test_an_unknown_variant_is_one_line(tmp_path):
    result, _ = run(tmp_path, mask_classification(), "mask_classification", "--option", "variant=detr")
    assert result.exit_code == 1
    assert "mask2former, transformers or kmax" in result.output
    assert result.output.count("\n") == 1


def test_only_the_timed_runs_are_timed(tmp_path, monkeypatch):
    """The warm-up run and the files are not part of the milliseconds: the clock is read twice for each run."""
    readings = iter([0, 4_000_000, 10_000_000, 11_000_000, 20_000_000, 22_000_000])
    monkeypatch.setattr("perception_node.fuse.time.perf_counter_ns", lambda: next(readings))
    np.savez(tmp_path / "in.npz", **semantic())
    device = open_device("cpu", 1)
    summary = fuse(tmp_path / "in.npz", "semantic", CITYSCAPES, (6, 8), tmp_path / "out.npz", device, runs=3)
    assert (summary["median_ms"], summary["min_ms"], summary["max_ms"]) == (2.0, 1.0, 4.0)
