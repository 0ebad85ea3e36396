"""TensorRT plans on disk: what one was built from (its key), where it lies, and whether it may be loaded.

A plan is machine code for one GPU architecture and one version of the library. Beside each lies a sidecar, JSON, with
the key and with what can be known of the plan only while it is built. Neither TensorRT nor a GPU is needed here.

A plan is loaded only if its key is the one wanted. And because it is code ("executable artifacts": NVIDIA, TensorRT 11,
Security Considerations), only if nobody but the user or root could have written it, and it is, byte for byte, what its
sidecar vouches for.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_node.engine import TensorSpec
from perception_node.errors import PlanError
from perception_node.model import Model
from perception_node.paths import cache_folder

FORMAT = 1
"""Of the sidecar; raised when it changes."""

RECIPE = 1
"""Of perception_node.engine.build; raised when it makes another plan from the same things."""

RISK = (
    "a plan is code that runs in this process with all its rights: whoever could write it could make it do anything. "
    "It is loaded because unverified plans were allowed"
)


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on. Two plans with the same key are interchangeable, others are not.

    Attributes:
        onnx_sha256: of the model's network.
        profile: the input and the shapes that the plan takes, e.g. "image:1x3x360x480", or "image:1-4x3x360x480" for up
            to four images at once.
        outputs: names of the tensors that the manifest uses, sorted; the plan has no others.
        precision: "fp32", "fp16" or "int8".
        calibration: sha256 of the quantized network that a calibration made; None unless the precision is int8.
        library: "tensorrt" or "tensorrt_rtx".
        library_version: in full; a plan of another one cannot be read.
        architecture: of the GPU, e.g. "sm_87".
        gpu: its name where the library times kernels on the GPU that it builds for, as tensorrt does, else None.
        recipe: see RECIPE.
    """

    onnx_sha256: str
    profile: str
    outputs: tuple[str, ...]
    precision: str
    calibration: str | None
    library: str
    library_version: str
    architecture: str
    gpu: str | None
    recipe: int = RECIPE

    @classmethod
    def of(cls, model: Model, max_batch: int = 1, **others: Any) -> "PlanKey":
        """The model's part of a key, and the other fields: precision, calibration, library, ... gpu."""
        shape = "x".join(map(str, ("1" if max_batch == 1 else f"1-{max_batch}", 3, *model.input.size_hw)))
        profile = f"{model.input.tensor}:{shape}"
        return cls(model.sha256, profile, tuple(sorted(set(model.tensors.values()))), **others)

    @property
    def digest(self) -> str:
        """20 hexadecimal digits, the same on every machine."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def file_name(self) -> str:
        return f"{self.precision}-{self.architecture}-{self.digest}.plan"

    def differences(self, built: "PlanKey") -> list[str]:
        """For each field in which the key of a plan that was built is not this one: which, and both values."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(built)
        return [
            f"{name}: built with {theirs[name]}, but here is {mine[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is known of a plan, in the JSON file beside it.

    Attributes:
        key: what it was built from.
        inputs, outputs: its tensors, from the network definition: a plan can be asked only where its GPU is.
        plan_sha256, plan_bytes: the plan's hash and size.
        network_sha256, network_bytes: of the ONNX that the library was given: simplified and converted.
        layers: of the network definition, before the library fuses them.
        differences: output -> largest absolute difference of that ONNX to the model's, both run by ONNX Runtime on a
            random image; None where their shapes differ.
        workspace_bytes: limit of what a layer may use besides; None is the library's own.
        build_seconds: how long the library took.
        built_at: when, UTC, ISO 8601.
        log: how many messages of each severity the library gave, and its warnings in full.
    """

    key: PlanKey
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan_sha256: str
    plan_bytes: int
    network_sha256: str
    network_bytes: int
    layers: int
    differences: Mapping[str, float | None]
    workspace_bytes: int | None
    build_seconds: float
    built_at: str
    log: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As it is written: with FORMAT and only what JSON knows."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, text: str | bytes) -> "Sidecar":
        """Raises ValueError: it is not one of this version; the message says why."""
        try:
            fields = json.loads(text)
            version = fields.pop("format")
            if version != FORMAT:
                raise ValueError(f"format: is {version}, but this version reads {FORMAT}")
            key = fields.pop("key")
            fields["key"] = PlanKey(**{**key, "outputs": tuple(key["outputs"])})
            for name in ("inputs", "outputs"):
                specs = fields[name]
                fields[name] = tuple(TensorSpec(s["name"], tuple(s["shape"]), s["dtype"]) for s in specs)
            return cls(**fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a sidecar ({type(error).__name__}: {error})") from error


def sidecar_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def plan_folders(model: Model) -> tuple[Path, Path]:
    """Where a model's plans can lie: beside it and, if that folder cannot be written, in the user's cache."""
    return model.folder / "plans", cache_folder() / "plans" / f"{model.name}-{model.sha256[:12]}"


def writable_folder(model: Model) -> Path:
    """Where to write a model's plans: the first of plan_folders in which that is possible."""
    beside, cached = plan_folders(model)
    return beside if os.access(beside if beside.exists() else model.folder, os.W_OK | os.X_OK) else cached


def find_plan(model: Model, key: PlanKey, folder: Path | None = None) -> Path:
    """The plan with this key, in plan_folders or in the given folder; it is for load_plan to check it.

    Raises:
        PlanError: there is none; it says in what the most similar one differs.
    """
    folders = plan_folders(model) if folder is None else (folder,)
    present = [place / key.file_name for place in folders if (place / key.file_name).is_file()]
    for path in present[
        : len(present) - 1
    ]:  # of several, the first in order: one beside the model may be another user's
        with contextlib.suppress(PlanError):
            load_plan(path, key)
            return path
    if present:
        return present[-1]
    others = []
    for path in (path for place in folders for path in sorted(place.glob("*.plan"))):
        with contextlib.suppress(OSError, ValueError):  # what cannot be read explains nothing
            differences = key.differences(Sidecar.from_json(sidecar_path(path).read_bytes()).key)
            others.append((len(differences), f"{path}: {'; '.join(differences)}"))
    nearest = min(others, default=(0, f"no plan in {' or '.join(map(str, folders))}"))[1]
    raise PlanError(f"{nearest}; build one for this: {_command(model.folder, key)}")


def load_plan(path: Path, key: PlanKey, allow_unverified: bool = False) -> tuple[bytes, Sidecar]:
    """A plan's bytes, if it may be loaded, and its sidecar. What was checked is what is returned.

    Args:
        path: of the plan.
        key: that it must have.
        allow_unverified: load it, with a warning, although others could have written it or its hash is wrong. It never
            allows another key: such a plan would not work.

    Raises:
        PlanError: naming the file, what is wrong with it, and the remedy.
    """
    rebuild = f"build it anew: {_command('MODEL', key)} --force"
    beside = sidecar_path(path)
    plan, plan_doubts = _read(path, rebuild)
    text, sidecar_doubts = _read(beside, rebuild)
    try:
        sidecar = Sidecar.from_json(text)
    except ValueError as error:
        raise PlanError(f"{beside}: {error}; {rebuild}") from error
    if differences := key.differences(sidecar.key):
        raise PlanError(f"{path}: {'; '.join(differences)}; {rebuild}")
    doubts = [*plan_doubts, *sidecar_doubts]
    actual = hashlib.sha256(plan).hexdigest()
    if actual != sidecar.plan_sha256:
        was = f"{sidecar.plan_bytes} bytes with sha256 {sidecar.plan_sha256[:12]}…"
        doubts.append(f"{path}: sha256: built as {was}, but has {len(plan)} bytes with {actual[:12]}…; {rebuild}")
    if doubts and not allow_unverified:
        raise PlanError(doubts[0])
    for doubt in doubts:
        warnings.warn(f"{doubt}. {RISK}", stacklevel=2)
    return plan, sidecar


def write_plan(folder: Path, plan: bytes, sidecar: Sidecar) -> Path:
    """Writes a plan and its sidecar, both or neither; the plan's path.

    Raises:
        PlanError: the folder cannot be written; what was there before is still there.
    """
    path = folder / sidecar.key.file_name
    json_text = json.dumps(sidecar.as_dict(), indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_files({path: plan, sidecar_path(path): json_text.encode()})
    except OSError as error:
        remedy = "make room, or name another folder with --out"
        raise PlanError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
    return path


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes files beside where they belong and, when all are safely there, puts them in place.

    Others may read them but not write them, whatever the umask: load_plan would refuse such a plan.
    """
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    try:
        for path, part in parts.items():
            with part.open("wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(contents[path])
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()


def _read(path: Path, rebuild: str) -> tuple[bytes, list[str]]:
    """A file's bytes, and what makes it doubtful that they are the builder's. Of the file that was opened, no other."""
    try:
        with path.open("rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror or error}); {rebuild}") from error
    doubts = []
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = f"if you trust it: chmod go-w {path}"
        doubts.append(f"{path}: mode: {stat.filemode(status.st_mode)}, others may write it; {remedy}")
    if status.st_uid not in (0, os.geteuid()):
        remedy = f"if you trust it: chown it to {os.geteuid()}"
        doubts.append(f"{path}: owner: user {status.st_uid}, neither root nor you (user {os.geteuid()}); {remedy}")
    return content, doubts


def _command(model: str | Path, key: PlanKey) -> str:
    batch = re.search(r":1-(\d+)x", key.profile)
    options = f"--precision {key.precision}" + (f" --max-batch {batch[1]}" if batch else "")
    return f"perception build {model} {options} --runtime {key.library} --target {key.architecture}"
