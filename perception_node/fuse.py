"""`perception fuse`: fuses a network's outputs that were saved in an npz file, for debugging and comparison.

What a family takes is read from its class's `inputs`, which options it has from the constructor: its parameters after
device, taxonomy and stride.
"""

import inspect
import math
import statistics
import time
import types
import typing
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.device import Device
from perception_node.errors import UserError
from perception_node.fusion import FAMILIES
from perception_node.fusion.base import Fusion, Input, conform, output_hw
from perception_node.model import check_options
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy

MAX_SIDE = 16384  # as in model.schema.yaml


def fuse(
    path: Path,
    family: str,
    taxonomy: Taxonomy,
    size_hw: tuple[int, int],
    out: Path,
    device: Device,
    runs: int = 10,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Fuses the outputs in an npz file and writes the frame.

    Args:
        path: npz with an array for each of the family's inputs; a batch axis of 1 may lead.
        family: a key of perception_node.fusion.FAMILIES.
        taxonomy: the classes.
        size_hw: height and width of the frame; the outputs are scaled to fill it. Boxes and offsets are in its pixels.
        out: npz to write, see `save_frame`.
        device: what computes.
        runs: how often to fuse, after one run that is not timed.
        options: of the family, each "NAME=VALUE".

    Returns:
        family, size, device, dtype, segments, instances, runs, and the runs' median_ms, min_ms and max_ms, from outputs
        on the device to the frame on the host.

    Raises:
        UserError: anything that a user can get wrong, in one line.
    """
    if family not in FAMILIES:
        raise UserError(f"family {family!r}: there is no such; expected: one of {', '.join(FAMILIES)}")
    if runs < 1:
        raise UserError(f"runs {runs}: expected: 1 or more")
    cls = FAMILIES[family]
    keywords = parse_options(family, cls, options)
    arrays = read_outputs(path, family, cls.inputs, taxonomy, size_hw)
    geometry = Geometry(size_hw, (1.0, 1.0))
    outputs = {name: device.upload(array) for name, array in arrays.items()}
    try:
        height, width = output_hw(arrays, cls.inputs)
        fusion = cls(device, taxonomy, (size_hw[0] / height, size_hw[1] / width), **keywords)
        frame = fusion(outputs, geometry)  # compiles the kernels and makes the buffers
    except ValueError as error:
        raise UserError(f"{path}: {family}: {error}") from error
    milliseconds = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        frame = fusion(outputs, geometry)
        milliseconds.append((time.perf_counter_ns() - start) / 1e6)
    save_frame(out, frame)
    return {
        "family": family,
        "size": list(size_hw),
        "device": device.name,
        "dtype": next(arrays[name].dtype.name for name, spec in cls.inputs.items() if _is_logit(spec, name, arrays)),
        "segments": len(frame.segments),
        "instances": len(frame.instances),
        "runs": runs,
        "median_ms": round(statistics.median(milliseconds), 3),
        "min_ms": round(min(milliseconds), 3),
        "max_ms": round(max(milliseconds), 3),
    }


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "HxW"."""
    height, _, width = text.partition("x")
    if all(side.isascii() and side.isdigit() and 1 <= int(side) <= MAX_SIDE for side in (height, width)):
        return int(height), int(width)
    raise UserError(f"size {text!r}: expected: HEIGHTxWIDTH, each 1..{MAX_SIDE}, e.g. 1024x2048")


# ---- options ----


def parse_options(family: str, cls: type[Fusion], options: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments for the family's class, of the types that its constructor has, within a manifest's limits."""
    known = list(inspect.signature(cls).parameters.values())[3:]  # after device, taxonomy, stride
    hints = typing.get_type_hints(cls.__init__)
    defaults = ", ".join(f"{parameter.name}={_written(parameter.default)}" for parameter in known)
    keywords = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or name not in {parameter.name for parameter in known}:
            raise UserError(f"option {option!r}: expected: NAME=VALUE of {family}: {defaults}")
        try:
            keywords[name] = _parse(text, hints[name])
        except ValueError as error:
            raise UserError(f"option {option!r}: expected: {error}; {family} has {defaults}") from error
    check_options(family, keywords)
    return keywords


def _parse(text: str, kind: Any) -> Any:
    """The value that the text means for a parameter of type `kind`; ValueError says what is expected."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        *others, last = [k for k in typing.get_args(kind) if k is not types.NoneType]
        assert not others, f"{kind}: only `TYPE | None` is known"
        return None if text.lower() == "none" else _parse(text, last)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a whole number" if kind is int else "a number")
    return value


def _written(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


# ---- inputs ----


def read_outputs(
    path: Path, family: str, inputs: Mapping[str, Input], taxonomy: Taxonomy, size_hw: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The arrays in an npz file, as the family takes them: without a batch axis, contiguous, of its types."""
    arrays = _load(path)
    _check_names(path, family, inputs, arrays)
    sizes = {"C": len(taxonomy), "H": size_hw[0], "W": size_hw[1]}
    for name, spec in inputs.items():
        if name in arrays:
            # Masks of 0 and 1 are the image's; those with probabilities have a resolution of their own.
            shape = spec.shape.replace("H W", "mh mw") if arrays[name].dtype.kind == "f" else spec.shape
            arrays[name] = _check_shape(path, name, arrays[name], shape, sizes)
            arrays[name] = _convert(path, name, arrays[name], spec)
    return conform(arrays, inputs)


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    problem = "cannot be read as an npz file"
    try:
        if zipfile.is_zipfile(path):
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            if all(isinstance(array, np.ndarray) for array in arrays.values()):
                return arrays
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            problem = "holds objects, not numbers"
    raise UserError(f"{path}: {problem}; expected: what numpy.savez writes, e.g. semantic=array")


def _check_names(path: Path, family: str, inputs: Mapping[str, Input], arrays: Mapping[str, np.ndarray]) -> None:
    wanted = ", ".join(
        f"{name} ({spec.shape.replace(' ', ', ')}{', if there is one' if spec.optional else ''})"
        for name, spec in inputs.items()
    )
    wants = f"there are {', '.join(arrays) or 'none'}; {family} takes {wanted}"
    if missing := [name for name, spec in inputs.items() if not spec.optional and name not in arrays]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {wants}")
    if unknown := [name for name in arrays if name not in inputs]:
        raise UserError(f"{path}: {', '.join(unknown)}: unknown; {wants}")
    if "masks28" in inputs and ("masks" in arrays) == ("masks28" in arrays and "boxes" in arrays):
        raise UserError(f"{path}: needs either masks, or masks28 and boxes; {wants}")


def _check_shape(path: Path, name: str, array: np.ndarray, shape: str, sizes: dict[str, int]) -> np.ndarray:
    """The array without a batch axis. `sizes` holds what the letters stand for; those not seen before are added."""
    wanted = shape.split()
    given = array.shape
    if len(given) == len(wanted) + 1 and given[0] == 1:
        array = array[0]
    bound = dict(sizes)
    right = array.ndim == len(wanted)
    for size, symbol in zip(array.shape, wanted, strict=False):
        letter, _, more = symbol.partition("+")
        expected = int(symbol) if symbol.isdigit() else bound.setdefault(letter, size) + int(more or 0)
        # There may be no instance or query, but never an image without pixels.
        right &= size == expected and (size > 0 or letter in "NQ")
    if not right:
        letters = shape.replace("+", " ").split()
        known = " and ".join(f"{letter} = {size}" for letter, size in sizes.items() if letter in letters)
        expected = f"({shape.replace(' ', ', ')})" + (f" with {known}" if known else "")
        raise UserError(f"{path}: {name} has shape {given}; expected: {expected}")
    sizes |= bound
    return array


def _convert(path: Path, name: str, array: np.ndarray, spec: Input) -> np.ndarray:
    """The array in the family's type; float64 becomes float32, integers the family's integers, masks 0 or 1."""
    is_mask = spec.shape.endswith("H W")
    if spec.dtype not in ("logit", "float32"):
        limits = np.iinfo(spec.dtype)
        if array.dtype.kind in "biu" and (not array.size or limits.min <= array.min() <= array.max() <= limits.max):
            return array.astype(spec.dtype)
        expected = f"whole numbers, {limits.min}..{limits.max}"
    elif is_mask and array.dtype.kind in "biu":
        return (array != 0).astype(np.uint8)
    elif array.dtype.kind == "f":
        keeps_half = spec.dtype == "logit" and array.dtype.itemsize == 2
        with np.errstate(over="ignore"):
            return array.astype(np.float16 if keeps_half else np.float32)
    else:
        expected = "bool, float32 or float16" if is_mask else "float32 or float16"
    raise UserError(f"{path}: {name} is {array.dtype}; expected: {expected}")


def _is_logit(spec: Input, name: str, arrays: Mapping[str, np.ndarray]) -> bool:
    return spec.dtype == "logit" and name in arrays and arrays[name].dtype.kind == "f"


# ---- result ----


def save_frame(path: Path, frame: PanopticFrame) -> None:
    """Writes a frame as npz, whole or not at all.

    It holds class_map uint8, instance_map uint16 and confidence uint8, all (H, W). Each of the S segments has, in the
    frame's order, segment_id uint16, segment_class uint8, segment_score float64, segment_area int64, segment_box int32
    (S, 4) xyxy, the far sides exclusive, and segment_centroid float64 (S, 2) xy.
    """
    segments = frame.segments
    columns = {
        "segment_id": np.array([segment.id for segment in segments], np.uint16),
        "segment_class": np.array([segment.class_id for segment in segments], np.uint8),
        "segment_score": np.array([segment.score for segment in segments], np.float64),
        "segment_area": np.array([segment.area for segment in segments], np.int64),
        "segment_box": np.array([segment.box_xyxy for segment in segments], np.int32).reshape(-1, 4),
        "segment_centroid": np.array([segment.centroid_xy for segment in segments], np.float64).reshape(-1, 2),
    }
    maps = {name: getattr(frame, name) for name in ("class_map", "instance_map", "confidence")}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **maps, **columns)
    part.replace(path)
