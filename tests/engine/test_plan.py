"""Plans on disk: the key, the sidecar, and each way in which a plan is refused. No TensorRT is needed."""

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from perception_node.engine import TensorSpec, plan
from perception_node.engine.plan import (
    PlanKey,
    Sidecar,
    find_plan,
    load_plan,
    plan_folders,
    sidecar_path,
    writable_folder,
    write_plan,
)
from perception_node.errors import PlanError
from perception_node.model import load_model

PLAN = bytes(range(256)) * 4
OTHERS = {
    "precision": "fp16",
    "calibration": None,
    "library": "tensorrt",
    "library_version": "10.3.0",
    "architecture": "sm_87",
    "gpu": "Orin",
}


@pytest.fixture
def key(tiny_model):
    return PlanKey.of(load_model(tiny_model), **OTHERS)


def sidecar_of(key):
    return Sidecar(
        key=key,
        inputs=(TensorSpec("image", (1, 3, 8, 8), "float32"),),
        outputs=(TensorSpec("classes", (1, None), "int32"),),
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        plan_bytes=len(PLAN),
        network_sha256="0" * 64,
        network_bytes=7,
        layers=3,
        differences={"classes": None},
        workspace_bytes=2**30,
        build_seconds=1.5,
        built_at="2026-01-01T00:00:00+00:00",
        log={"messages": {"info": 2}, "warnings": []},
    )


@pytest.fixture
def written(tiny_model, key):
    return write_plan(tiny_model / "plans", PLAN, sidecar_of(key))


def rewrite(path, **changes):
    sidecar = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps(sidecar | changes))


# ---- the key ----


def test_the_key_of_a_model(key, tiny_model):
    assert key.onnx_sha256 == hashlib.sha256((tiny_model / "model.onnx").read_bytes()).hexdigest()
    assert (key.profile, key.outputs, key.recipe) == ("image:1x3x8x8", ("center", "offset", "semantic"), plan.RECIPE)
    assert key.file_name == f"fp16-sm_87-{key.digest}.plan"


def test_the_digest_is_the_same_on_every_machine():
    key = PlanKey("a" * 64, "image:1x3x8x8", ("out",), "fp32", None, "tensorrt", "10.3.0", "sm_87", "Orin", recipe=1)
    assert key.digest == "c45ecee5f57f5ff3bdd7"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PlanKey)])
def test_every_field_changes_the_digest_and_is_named(name, key):
    other = dataclasses.replace(key, **{name: ("other",) if name == "outputs" else "other"})
    assert other.digest != key.digest
    assert key.differences(other) == [f"{name}: built with {getattr(other, name)}, but here is {getattr(key, name)}"]


@pytest.mark.parametrize(
    ("path", "value", "matters"),
    [
        (["input", "size"], [16, 8], True),
        (["input", "tensor"], "picture", True),
        (["output", "tensors", "center"], "heat", True),
        (["input", "mean"], [1, 2, 3], False),
        (["input", "color"], "bgr", False),
        (["input", "resize"], "stretch", False),
        (["output", "stride"], 4, False),
        (["fusion"], {"center_threshold": 0.3}, False),
        (["description"], "another", False),
    ],
)
def test_what_of_the_manifest_matters(path, value, matters, key, tiny_model):
    document = yaml.safe_load((tiny_model / "model.yaml").read_text())
    entry = document
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = value
    (tiny_model / "model.yaml").write_text(yaml.safe_dump(document))
    assert (PlanKey.of(load_model(tiny_model), **OTHERS).digest != key.digest) == matters


# ---- what is written ----


def test_a_plan_and_its_sidecar(written, key):
    assert load_plan(written, key) == (PLAN, sidecar_of(key))
    document = json.loads(sidecar_path(written).read_text())
    assert document["format"] == plan.FORMAT
    assert document["key"] == {**dataclasses.asdict(key), "outputs": ["center", "offset", "semantic"]}
    assert document["outputs"] == [{"name": "classes", "shape": [1, None], "dtype": "int32"}]


def test_nobody_else_may_write_them_whatever_the_umask(tiny_model, key):
    before = os.umask(0)
    try:
        path = write_plan(tiny_model / "plans", PLAN, sidecar_of(key))
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (path, sidecar_path(path))} == {0o644}
    load_plan(path, key)


def test_a_full_disk_leaves_what_was_there(written, key, monkeypatch):
    def full(descriptor):
        if "json" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")

    before = {path: path.read_bytes() for path in written.parent.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlanError, match=r"cannot be written \(No space left on device\); make room, or name another"):
        write_plan(written.parent, b"another plan", sidecar_of(key))
    assert {path: path.read_bytes() for path in written.parent.iterdir()} == before


def test_an_interruption_leaves_what_was_there(tiny_model, key, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_plan(tiny_model / "plans", PLAN, sidecar_of(key))
    assert list((tiny_model / "plans").iterdir()) == []


def test_where_plans_lie(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = load_model(tiny_model)
    beside, cached = plan_folders(model)
    assert beside == tiny_model / "plans"
    assert cached == tmp_path / "cache/perception_node/plans" / f"tiny-{model.sha256[:12]}"
    assert writable_folder(model) == beside
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(tiny_model))
    assert writable_folder(model) == cached


def test_a_plan_is_found_beside_the_model_or_in_the_cache(tiny_model, key, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = load_model(tiny_model)
    with pytest.raises(
        PlanError, match=r"no plan in .*tiny/plans or .*cache.*; build one .*: perception build .*sm_87"
    ):
        find_plan(model, key)
    cached = write_plan(plan_folders(model)[1], PLAN, sidecar_of(key))
    assert find_plan(model, key) == cached
    beside = write_plan(plan_folders(model)[0], PLAN, sidecar_of(key))
    assert find_plan(model, key) == beside
    assert find_plan(model, key, cached.parent) == cached


def test_another_users_plan_beside_the_model_does_not_hide_ones_own(tiny_model, key, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = load_model(tiny_model)
    beside, cached = (write_plan(folder, PLAN, sidecar_of(key)) for folder in plan_folders(model))
    beside.chmod(0o666)
    assert find_plan(model, key) == cached
    cached.unlink()
    assert find_plan(model, key) == beside  # load_plan says what is wrong with it


def test_the_most_similar_plan_explains_why_there_is_none(tiny_model, key):
    folder = tiny_model / "plans"
    write_plan(folder, PLAN, sidecar_of(dataclasses.replace(key, precision="fp32", library_version="10.3.0")))
    write_plan(folder, PLAN, sidecar_of(dataclasses.replace(key, precision="fp32", architecture="sm_72", gpu="Xavier")))
    wanted = dataclasses.replace(key, precision="fp32", library_version="10.7.0")
    with pytest.raises(
        PlanError, match=r"plan: library_version: built with 10\.3\.0, but here is 10\.7\.0; build one"
    ) as error:
        find_plan(load_model(tiny_model), wanted)
    assert "sm_72" not in str(error.value)
    assert "--precision fp32 --runtime tensorrt --target sm_87" in str(error.value)


# ---- what is refused ----


def refusal(path, key):
    with pytest.raises(PlanError) as error:
        load_plan(path, key)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_plan(written, key):
    written.unlink()
    assert f"{written}: cannot be read (No such file or directory); build it anew: perception" in refusal(written, key)


def test_no_sidecar(written, key):
    sidecar_path(written).unlink()
    assert f"{written}.json: cannot be read (No such file or directory); build it anew" in refusal(written, key)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PlanKey)])
def test_another_key(name, written, key):
    other = dataclasses.replace(key, **{name: ("other",) if name == "outputs" else "other"})
    message = refusal(written, other)
    assert f"{name}: built with {getattr(key, name)}, but here is {getattr(other, name)}; build it anew" in message
    with pytest.raises(PlanError, match=f"{name}: built with"):  # that would not work, verified or not
        load_plan(written, other, allow_unverified=True)


def test_another_version_of_the_sidecar(written, key):
    rewrite(written, format=99)
    assert "format: is 99, but this version reads 1; build it anew" in refusal(written, key)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"format": 1}', '{"format": 1, "key": 3}', "\xff"])
def test_no_real_sidecar(text, written, key):
    sidecar_path(written).write_bytes(text.encode("latin1"))
    assert f"{written}.json: " in refusal(written, key)


@pytest.mark.parametrize(
    "content", [PLAN[:-1], PLAN[:100] + b"x" + PLAN[101:], b""], ids=["truncated", "tampered", "empty"]
)
def test_another_hash(content, written, key):
    written.write_bytes(content)
    message = refusal(written, key)
    assert f"sha256: built as {len(PLAN)} bytes with sha256" in message
    assert f"but has {len(content)} bytes with {hashlib.sha256(content).hexdigest()[:12]}" in message
    with pytest.warns(UserWarning, match=r"sha256: built as .*a plan is code that runs in this process"):
        assert load_plan(written, key, allow_unverified=True)[0] == content


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
@pytest.mark.parametrize("which", [lambda path: path, sidecar_path], ids=["plan", "sidecar"])
def test_writable_by_others(mode, which, written, key):
    which(written).chmod(mode)
    message = refusal(written, key)
    assert f"{which(written)}: mode: -rw-r" in message
    assert f"others may write it; if you trust it: chmod go-w {which(written)}" in message
    with pytest.warns(UserWarning, match="others may write it.*whoever could write it could make it do anything"):
        assert load_plan(written, key, allow_unverified=True)[0] == PLAN
    which(written).chmod(0o444)
    load_plan(written, key)


def test_owned_by_another(written, key, monkeypatch):
    real = os.fstat

    def foreign(descriptor):
        status = list(real(descriptor))
        status[4] = 4242  # st_uid
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", foreign)
    message = refusal(written, key)
    assert f"{written}: owner: user 4242, neither root nor you (user {os.geteuid()}); if you trust it: chown" in message
    with pytest.warns(UserWarning, match="owner: user 4242"):
        load_plan(written, key, allow_unverified=True)


def test_what_was_checked_is_what_is_returned(written, key, monkeypatch):
    real = os.fstat

    def swap(descriptor):
        written.with_suffix(".evil").write_bytes(b"evil")
        if written.exists() and written.read_bytes() == PLAN:
            written.with_suffix(".evil").replace(written)  # somebody is quick, after the plan was opened
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", swap)
    assert load_plan(written, key)[0] == PLAN
