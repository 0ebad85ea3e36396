import inspect
import re
import shutil

import pytest
import yaml
from conftest import write_tiny_model

from perception_node.device import open_device
from perception_node.engine import load_engine
from perception_node.errors import ModelError, UserError
from perception_node.fusion import FAMILIES
from perception_node.model import _SCHEMA, load_model


def edit(folder, old, new):
    """Replaces text in model.yaml; the number of the line that changed."""
    path = folder / "model.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


def test_a_right_manifest(tiny_model):
    model = load_model(tiny_model)
    assert (model.name, model.family, model.stride) == ("tiny", "center_offset", 2)
    assert (model.input.size_hw, model.input.color, model.input.resize) == ((8, 8), "rgb", "letterbox")
    assert model.fusion == {"center_threshold": 0.1, "nms_kernel": 3, "top_k": 200, "stuff_area": 4}
    assert [(c.name, c.thing, c.drivable) for c in model.taxonomy] == [
        ("road", False, True),
        ("sky", False, False),
        ("car", True, False),
    ]
    assert model.taxonomy.thing_ids == (2,)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("size:\n  - 8\n  - 8", "sise:\n  - 8\n  - 8", r"input: .*'sise' was unexpected.*; expected: .*tensor, size"),
        ("  tensor: image\n", "", r"input: 'tensor' is a required property; expected: .*tensor, size"),
        ("stuff_area: 4", "stuff_aera: 4", r"fusion: .*'stuff_aera' was unexpected.*; expected: .*stuff_area"),
        (
            "stuff_area: 4",
            "stuff_area: many",
            r"fusion\.stuff_area: 'many' is not of type 'integer'; expected: .* 2048",
        ),
        ("nms_kernel: 3", "nms_kernel: 4", r"fusion\.nms_kernel: .*; expected: .*odd"),
        (
            "family: center_offset",
            "family: centre",
            r"output\.family: 'centre' is not one of .*; expected: .*center_offset",
        ),
        ("stride: 2", "stride: 0", r"output\.stride: 0 is less than the minimum of 1; expected: .* 4"),
        ("name: sky", "nmae: sky", r"classes\.1: .*; expected: a class: id, name"),
        ("id: 1", "id: 7", r"classes\.1\.id: 7 where 1 is due; expected: list the classes in the order"),
        ("onnx: model.onnx", "onnx: other.onnx", r"onnx: there is no file .*other\.onnx; expected: "),
        ("stuff_area: 4", "stuff_area: 4.0", r"fusion\.stuff_area: 4\.0 is not of type 'integer'"),
        ("stuff_area: 4", "center_threshold: .nan", r"fusion\.center_threshold: nan is not of type 'number'"),
        ("stuff_area: 4", "stuff_area: 4\n  stuff_area: 5", r"stuff_area: given in line \d+ already; expected: once"),
        ("name: sky", "name: road", r"classes\.1\.name: 'road' is another class's name; expected: a name of its own"),
        ("center: center", "centre: center", r"output\.tensors: .*'centre' was unexpected.*; expected: .*foreground"),
        ("classes:", "klasses:", r"the file: .*'klasses' was unexpected.*; expected: onnx, sha256"),
    ],
)
def test_a_wrong_manifest_is_refused_with_line_and_remedy(tiny_model, old, new, expected):
    edit(tiny_model, old, new)
    with pytest.raises(ModelError) as caught:
        load_model(tiny_model)
    message = str(caught.value)
    assert "\n" not in message
    assert re.match(rf"{re.escape(str(tiny_model))}/model\.yaml:\d+: ", message)
    assert re.search(expected, message), message


def test_the_line_is_that_of_the_entry(tiny_model):
    line = edit(tiny_model, "stuff_area: 4", "stuff_area: many")
    with pytest.raises(ModelError, match=rf"model\.yaml:{line}: fusion\.stuff_area"):
        load_model(tiny_model)


def test_a_changed_network_is_refused(tiny_model):
    with (tiny_model / "model.onnx").open("ab") as file:
        file.write(b"!")
    with pytest.raises(
        ModelError, match=r"model\.yaml:2: sha256: is \w{12}…, but model\.onnx has \w{64}; expected: restore"
    ):
        load_model(tiny_model)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "42", "[" * 5000, "a: \xff"])
def test_what_is_no_manifest_is_refused(tiny_model, text):
    (tiny_model / "model.yaml").write_text(text, "latin-1")
    with pytest.raises(ModelError, match=r"model\.yaml:"):
        load_model(tiny_model)


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(ModelError, match=r"has no model\.yaml"):
        load_model(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match=r"'nosuch'.*there are: .*camvid_lite0"):
        load_model("nosuch")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"input": {"tensor": "picture", "size": [8, 8]}},
            r"input\.tensor: .*no tensor 'picture' there; expected: one of image",
        ),
        (
            {"input": {"tensor": "image", "size": [8, 10]}},
            r"input\.tensor: 'image' has shape \(1, 3, 8, 8\).*make it \(1, 3, 8, 10\)",
        ),
        (
            {
                "output": {
                    "family": "center_offset",
                    "stride": 4,
                    "tensors": {"semantic": "semantic", "center": "center", "offset": "offset"},
                }
            },
            r"output\.tensors\.semantic: 'semantic' has shape \(1, 3, 4, 4\).*stride.* make it \(1, 3, 2, 2\)",
        ),
        (
            {
                "output": {
                    "family": "center_offset",
                    "stride": 2,
                    "tensors": {"semantic": "semantic", "center": "ctr", "offset": "offset"},
                }
            },
            r"output\.tensors\.center: .*no tensor 'ctr' there; expected: one of semantic, center, offset",
        ),
        (
            {
                "output": {
                    "family": "center_offset",
                    "stride": 2,
                    "tensors": {"semantic": "semantic", "center": "offset", "offset": "center"},
                }
            },
            r"output\.tensors\.center: 'offset' has shape \(1, 2, 4, 4\)",
        ),
        (
            {"classes": [{"id": 0, "name": "road", "color": [0, 0, 0]}]},
            r"output\.tensors\.semantic: .*classes.* make it \(1, 1, 4, 4\)",
        ),
    ],
)
def test_a_network_that_is_not_the_manifests_is_refused(tmp_path, changes, expected):
    model = load_model(write_tiny_model(tmp_path / "tiny", **changes))
    with pytest.raises(ModelError, match=r"model\.yaml:\d+: " + expected):
        load_engine(model, open_device())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_schema_and_the_families_agree(family):
    schema, cls = _SCHEMA["families"][family], FAMILIES[family]
    assert schema["tensors"]["properties"].keys() == cls.inputs.keys()
    assert set(schema["tensors"]["required"]) == {name for name, spec in cls.inputs.items() if not spec.optional}
    options = list(inspect.signature(cls).parameters.values())[3:]  # after device, taxonomy, stride
    assert {o.name: o.default for o in options} == {
        name: option["default"] for name, option in schema["fusion"]["properties"].items()
    }


def test_a_file_that_is_no_network_is_refused(tiny_model):
    import hashlib

    (tiny_model / "model.onnx").write_bytes(b"not a network")
    manifest = yaml.safe_load((tiny_model / "model.yaml").read_text())
    manifest["sha256"] = hashlib.sha256(b"not a network").hexdigest()
    (tiny_model / "model.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ModelError, match=r"model\.onnx: ONNX Runtime cannot load it: "):
        load_engine(load_model(tiny_model), open_device())


def test_an_unknown_device_is_refused(tiny_model):
    with pytest.raises(UserError, match="device 'tpu': this version runs on cpu"):
        load_engine(load_model(tiny_model), open_device("tpu"))


def test_the_default_model_is_right_and_loads():
    model = load_model()
    engine = load_engine(model, open_device())
    assert [spec.name for spec in engine.inputs] == [model.input.tensor]


def test_a_model_folder_can_be_copied_anywhere(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "elsewhere" / "mine")
    assert load_model(tmp_path / "elsewhere" / "mine").name == "mine"
