import hashlib
import json
from importlib.util import find_spec

import pytest
import yaml
from click.testing import CliRunner
from conftest import write_tiny_model

from perception_node.cli import main
from perception_node.engine import plan as plans
from perception_node.engine.plan import PlanKey, Sidecar

pytest.importorskip("onnx", reason="needs onnx")
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino (extra of that name)")

SIDECAR = {
    "key": {"onnx_sha256": "ab" * 32, "library": "tensorrt_rtx", "version": "1.7", "precision": "fp16"},
    "inputs": [{"name": "image", "shape": [1, 3, 360, 480], "dtype": "float32"}],
    "build_seconds": 1.5,
}


def inspect(path, *options):
    return CliRunner().invoke(main, ["inspect", str(path), *options])


def inspect_json(path):
    result = inspect(path, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write_plan(tmp_path, content=b"a plan", **sidecar):
    plan = tmp_path / "model.plan"
    plan.write_bytes(content)
    (tmp_path / "model.plan.json").write_text(json.dumps({**SIDECAR, **sidecar}))
    return plan


def test_an_onnx_file(tiny_model):
    found = inspect_json(tiny_model / "model.onnx")
    assert {*found} == {"kind", "path", "network"}
    assert found["kind"] == "onnx"
    assert [spec["name"] for spec in found["network"]["outputs"]] == ["semantic", "center", "offset"]
    assert found["network"]["nodes"] == sum(found["network"]["ops"].values())


@needs_openvino
def test_a_model_folder(tiny_model):
    found = inspect_json(tiny_model)
    assert {*found} == {"kind", "path", "manifest", "error", "hash_matches", "network", "loads"}
    assert (found["kind"], found["error"], found["hash_matches"]) == ("model", None, True)
    assert {*found["loads"]} == {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}
    assert found["loads"]["onnxruntime"] is found["loads"]["openvino"] is None
    assert found["loads"]["tensorrt"]  # there is no plan of it
    assert (found["manifest"]["family"], found["manifest"]["things"]) == ("center_offset", ["car"])


def test_a_model_by_its_name_and_by_its_manifest(tiny_model):
    assert inspect_json("camvid_lite0")["manifest"]["name"] == "camvid_lite0"
    assert inspect_json(tiny_model / "model.yaml")["kind"] == "model"


def test_a_model_whose_tensors_are_not_the_manifests(tmp_path):
    folder = write_tiny_model(tmp_path / "model", input={"tensor": "image", "size": [16, 8]})
    loads = inspect_json(folder)["loads"]
    assert "input.size make it (1, 3, 16, 8)" in loads["onnxruntime"]


def test_a_network_that_the_manifest_does_not_mean(tiny_model):
    with (tiny_model / "model.onnx").open("ab") as file:
        file.write(b"\x32\x00")  # the field doc_string, empty: still a network
    found = inspect_json(tiny_model)
    assert (found["manifest"], found["hash_matches"], found["loads"]) == (None, False, {})
    assert "sha256: is " in found["error"]
    assert found["network"]["nodes"] > 0


def test_a_manifest_that_is_wrong_but_means_this_network(tiny_model):
    manifest = yaml.safe_load((tiny_model / "model.yaml").read_text())
    (tiny_model / "model.yaml").write_text(yaml.safe_dump({**manifest, "classes": []}))
    found = inspect_json(tiny_model)
    assert found["hash_matches"] is True
    assert "classes: " in found["error"]


@pytest.mark.parametrize("content", ["a: [", "- a list", "onnx: 5"])
def test_a_manifest_that_says_nothing(tiny_model, content):
    (tiny_model / "model.yaml").write_text(content)
    found = inspect_json(tiny_model)
    assert (found["network"], found["hash_matches"]) == (None, None)
    assert "model.yaml" in found["error"]


def test_a_plan_and_its_sidecar(tmp_path):
    plan = write_plan(tmp_path, plan_sha256=hashlib.sha256(b"a plan").hexdigest())
    found = inspect_json(plan)
    assert (found["kind"], found["bytes"], found["hash_matches"]) == ("plan", 6, True)
    assert found["sidecar"]["key"]["library"] == "tensorrt_rtx"
    assert "not a sidecar" in found["refusal"]  # of the builder's
    text = inspect(plan).output
    assert "key.precision    fp16" in text
    assert "image  1x3x360x480  float32" in text
    plan.write_bytes(b"another")
    assert inspect_json(plan)["hash_matches"] is False


def test_why_a_plan_would_not_load_here(tmp_path):
    key = PlanKey("1" * 64, "image:1x3x8x8", ("semantic",), "fp32", None, "tensorrt_rtx", "0.1", "sm_86", None)
    sha256 = hashlib.sha256(b"a plan").hexdigest()
    plan = plans.write_plan(tmp_path, b"a plan", Sidecar(key, (), (), sha256, 6, "", 0, 1, {}, None, 0.0, "", {}))
    assert inspect_json(plan)["refusal"]  # no such library, another version of it, or no GPU
    plan.chmod(0o666)
    assert "others may write it" in inspect_json(plan)["refusal"]
    plan.chmod(0o644)
    plan.write_bytes(b"another")
    assert "sha256: built as 6 bytes" in inspect_json(plan)["refusal"]


def test_a_plan_whose_sidecar_has_no_hash(tmp_path):
    assert inspect_json(write_plan(tmp_path))["hash_matches"] is None


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_is_no_wider_than_the_terminal(tiny_model, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for path in (tiny_model / "model.onnx", tiny_model, write_plan(tmp_path)):
        output = inspect(path).output
        assert max(map(len, output.splitlines())) <= width, output


@pytest.mark.parametrize(
    ("name", "content", "sidecar", "message"),
    [
        ("nothing.onnx", None, None, "nothing.onnx: no such file"),
        ("nothing", None, None, "no such folder"),
        ("empty.onnx", b"", None, "empty.onnx: not an ONNX network: 0 bytes"),
        ("text.onnx", b"not a network", None, "text.onnx: not an ONNX file"),
        ("alone.plan", b"x", None, "alone.plan: alone.plan.json is not beside it"),
        ("cut.plan", b"x", '{"key": ', "cut.plan.json: not valid JSON"),
        ("list.engine", b"x", "[]", "list.engine.json: a JSON list; expected: an object"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, content, sidecar, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if sidecar is not None:
        (tmp_path / f"{name}.json").write_text(sidecar)
    result = inspect(tmp_path / name)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: ")
    assert message in result.output
