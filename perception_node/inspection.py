"""`perception inspect`: what an ONNX file, a model folder or a TensorRT plan is, and whether it would load here."""

import hashlib
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from perception_node.engine import ENGINES
from perception_node.engine.plan import Sidecar, load_plan, sidecar_path
from perception_node.engine.trt import open_library
from perception_node.errors import ModelError, UserError, one_line
from perception_node.model import MANIFEST, Model, find_model, load_model
from perception_node.onnx_summary import NOT_COUNTED, summarize_onnx
from perception_node.pipeline import Pipeline

PLAN_SUFFIXES = (".plan", ".engine")
Row = tuple[str, str]


def inspect_file(path: Path) -> dict[str, Any]:
    """Inspects an ONNX file, a model folder (or the name of a model that comes with the package) or a TensorRT plan.

    Returns:
        kind: "onnx", "model" or "plan"; path; and
        onnx: network, see perception_node.onnx_summary.summarize_onnx.
        model: manifest (None if it is wrong) and error (None if it is right), hash_matches and network (None if there
            is no network), loads: by engine, None or why it does not load.
        plan: bytes, sha256, hash_matches (None if the sidecar has none), sidecar, refusal (None or why it would not
            load here).

    Raises:
        UserError: there is no such file, or it cannot be read as what it seems to be.
    """
    if path.is_file() and path.suffix in PLAN_SUFFIXES:
        return {"kind": "plan", "path": str(path), **_inspect_plan(path)}
    if path.is_file() and path.name != MANIFEST:
        return {"kind": "onnx", "path": str(path), "network": summarize_onnx(path)}
    if path.suffix in (".onnx", *PLAN_SUFFIXES) and not path.exists():
        raise UserError(f"{path}: no such file")
    folder = find_model(path.parent if path.is_file() else path)
    return {"kind": "model", "path": str(folder), **_inspect_model(folder)}


def _inspect_model(folder: Path) -> dict[str, Any]:
    try:
        model = load_model(folder)
    except ModelError as error:
        return {"manifest": None, "error": str(error), **_inspect_unsound(folder), "loads": {}}
    size = (1, 3, *model.input.size_hw)
    return {
        "manifest": _manifest(model),
        "error": None,
        "hash_matches": True,
        "network": summarize_onnx(model.onnx_path, {model.input.tensor: size}),
        "loads": {name: _refusal(model, device, name) for device, names in ENGINES.items() for name in names},
    }


def _inspect_unsound(folder: Path) -> dict[str, Any]:
    """What can be said of a folder whose manifest is refused: perhaps it is only the hash."""
    try:
        entries = yaml.safe_load((folder / MANIFEST).read_bytes())
        onnx_path = folder / entries["onnx"]
        network = summarize_onnx(onnx_path)
    except (yaml.YAMLError, RecursionError, TypeError, KeyError, OSError, UserError):
        return {"hash_matches": None, "network": None}
    return {"hash_matches": network["sha256"] == entries.get("sha256"), "network": network}


def _manifest(model: Model) -> dict[str, Any]:
    taxonomy = model.taxonomy
    spec = model.input
    return {
        "name": model.name,
        "onnx": model.onnx_path.name,
        "sha256": model.sha256,
        "input": {
            "tensor": spec.tensor,
            "size": list(spec.size_hw),
            "color": spec.color,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "resize": spec.resize,
        },
        "family": model.family,
        "tensors": dict(model.tensors),
        "stride": model.stride,
        "fusion": dict(model.fusion),
        "classes": [entry.name for entry in taxonomy],
        "things": [taxonomy[index].name for index in taxonomy.thing_ids],
    }


def _refusal(model: Model, device: str, engine: str) -> str | None:
    """Why the model does not load here; None if it does. It is tried."""
    try:
        Pipeline(model, device, engine=engine)
    except UserError as error:
        return str(error)
    return None


# ---- plans ----


def _inspect_plan(path: Path) -> dict[str, Any]:
    beside = sidecar_path(path)
    if not beside.is_file():
        raise ModelError(f"{path}: {beside.name} is not beside it; `perception build` writes both, build it again")
    try:
        sidecar = json.loads(beside.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{beside}: not valid JSON: {one_line(error)}; build the plan again") from error
    if not isinstance(sidecar, dict):
        raise ModelError(f"{beside}: a JSON {type(sidecar).__name__}; expected: an object; build the plan again")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = sidecar.get("plan_sha256")
    return {
        "bytes": path.stat().st_size,
        "sha256": actual,
        "hash_matches": None if expected is None else expected == actual,
        "sidecar": sidecar,
        "refusal": _plan_refusal(path),
    }


def _plan_refusal(path: Path) -> str | None:
    """Why a plan would not load here; None if it would. It is not loaded: it is code."""
    try:
        key = Sidecar.from_json(sidecar_path(path).read_bytes()).key
        load_plan(path, key)
        library = open_library(key.library)
        load_plan(path, replace(key, library_version=library.version, **library.target()))
    except (UserError, ValueError) as error:
        return str(error)
    return None


# ---- for people ----


def describe(found: Mapping[str, Any], width: int | None = None) -> str:
    """What inspect_file found as an aligned table, no wider than `width` characters or, without it, the terminal."""
    rows: list[Row] = [(found["kind"], found["path"])]
    if found["kind"] == "onnx":
        rows += _network_rows(found["network"])
    elif found["kind"] == "model":
        rows += _model_rows(found)
    else:
        rows += _plan_rows(found)
    return table(rows, width or shutil.get_terminal_size().columns)


def table(rows: list[Row], width: int) -> str:
    """Rows of (key, value) in two columns; long values are wrapped under themselves."""
    indent = max(len(key) for key, _ in rows) + 2
    lines = []
    for key, value in rows:
        for line in textwrap.wrap(value, max(16, width - indent), break_on_hyphens=False) or [""]:
            lines.append(f"{key:<{indent}}{line}".rstrip())
            key = ""
    return "\n".join(lines)


def _model_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    if manifest := found["manifest"]:
        spec = manifest["input"]
        stuff = [name for name in manifest["classes"] if name not in manifest["things"]]
        yield "family", f"{manifest['family']}, stride {manifest['stride']}"
        yield "fusion", _pairs(manifest["fusion"])
        yield "tensors", _pairs(manifest["tensors"])
        yield "input", f"{spec['size'][0]}x{spec['size'][1]} {spec['color']}, {spec['resize']}"
        yield "mean, std", f"{_list(spec['mean'])}; {_list(spec['std'])}"
        yield "classes", f"{len(manifest['classes'])}: things {_list(manifest['things'])}; stuff {_list(stuff)}"
    else:
        yield "manifest", found["error"]
    yield "hash", {True: "matches", False: "differs", None: "cannot be checked"}[found["hash_matches"]]
    for engine, refusal in found["loads"].items():
        yield engine, refusal or "loads"
    if found["network"]:
        yield from _network_rows(found["network"])


def _network_rows(network: Mapping[str, Any]) -> Iterator[Row]:
    yield "file", f"{_size(network['bytes'])}, sha256 {network['sha256']}"
    if network["external_files"]:
        yield "weights in", _list(network["external_files"])
    opset = ", ".join(f"{domain} {version}" for domain, version in network["opset"].items())
    yield "producer", f"{network['producer'] or 'unknown'}; opset {opset}; IR version {network['ir_version']}"
    yield "checker", network["check"] or "finds nothing wrong"
    for part in ("inputs", "outputs"):
        yield from _tensor_rows(part, network[part])
    yield "sizes", "some left open" if network["dynamic"] else "all fixed"
    weights = (f"{counts['parameters']:,} {dtype}" for dtype, counts in network["weights"].items())
    yield "parameters", f"{network['parameters']:,} ({', '.join(weights)})"
    yield "weights", _size(sum(counts["bytes"] for counts in network["weights"].values()))
    work = f"{network['macs'] / 1e9:.3f} GMACs, {network['flops'] / 1e9:.3f} GFLOPs in {network['counted']} layers"
    if network["uncounted"]:
        work += f"; of unknown size and not counted: {_counts(network['uncounted'])}"
    yield "work", work
    yield "", f"(convolutions and matrix products; without {NOT_COUNTED})"
    for precision, counts in network["precisions"].items():
        yield "layers in", f"{precision}: {counts['layers']}, {counts['macs'] / 1e9:.3f} GMACs"
    peak = network["activation_peak_bytes"]
    yield "activations", "unknown: sizes are left open" if peak is None else f"about {_size(peak)} at the peak"
    yield "operators", f"{network['nodes']}: {_counts(network['ops'])}"


def _plan_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    hash_matches = {True: "matches the sidecar's", False: "differs from the sidecar's", None: "the sidecar has none"}
    yield "file", f"{_size(found['bytes'])}, sha256 {found['sha256']}: {hash_matches[found['hash_matches']]}"
    yield "loads here", "yes" if found["refusal"] is None else f"no: {found['refusal']}"
    yield from _sidecar_rows("", found["sidecar"])


def _sidecar_rows(prefix: str, entries: Mapping[str, Any]) -> Iterator[Row]:
    for name, value in entries.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _sidecar_rows(f"{key}.", value)
        elif (
            isinstance(value, list) and value and all(isinstance(e, dict) and {"name", "shape"} <= {*e} for e in value)
        ):
            yield from _tensor_rows(key, value)
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)


def _tensor_rows(title: str, tensors: list[Mapping[str, Any]]) -> Iterator[Row]:
    """A line for each tensor: name, shape, dtype and whatever else is known of it."""
    cells = []
    for tensor in tensors:
        sizes = ["unknown"] if tensor["shape"] is None else tensor["shape"]
        shape = "x".join("?" if size is None else str(size) for size in sizes)
        rest = [str(value) for key, value in tensor.items() if key not in ("name", "shape")]
        cells.append((str(tensor["name"]), shape or "scalar", *rest))
    widths = [max(len(row[column]) for row in cells) for column in (0, 1)] if cells else []
    for index, (name, shape, *rest) in enumerate(cells):
        yield title if index == 0 else "", f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {' '.join(rest)}"


def _list(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "none"


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in values.items())


def _size(n_bytes: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"
