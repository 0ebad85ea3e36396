"""`perception quantize`: footage in, an int8 network with its report out, for `perception build --precision int8`.

ONNX and ONNX Runtime do all of it. nvidia-modelopt would bring torch (2 GB) for the same operators. ONNX Runtime's own
quantize_static keeps the activations of all frames in memory for its histograms, places Q/DQ without regard to residual
additions, and has float32 scales, which float16 layers would round after the weights were quantized with them.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import onnxruntime
from tqdm import tqdm

from perception_node.device import open_device
from perception_node.engine.network import WITH_WEIGHTS, prepare, to_fp16
from perception_node.engine.plan import write_files
from perception_node.errors import SourceError, UserError
from perception_node.labels import read_class_ids
from perception_node.model import Model
from perception_node.pipeline import Pipeline
from perception_node.preprocess import Preprocess
from perception_node.quantization.frames import Frame, choose_frames
from perception_node.quantization.network import at_opset, find_layers, quantized
from perception_node.quantization.ranges import measure
from perception_node.quantization.recipe import Recipe
from perception_node.quantization.report import compare, judge_layers, recommend
from perception_node.sources import Source

ONNX_NAME = "quantized.onnx"


def quantize(
    model: Model,
    source: Source,
    recipe: Recipe,
    out: Path | None = None,
    truth: Path | None = None,
    progress: Callable[..., Iterable] = tqdm,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Calibrates a model's network on footage and writes quantized.onnx and calibration.json, both or neither.

    The same model, footage, recipe and versions give the same bytes on the same kind of CPU. On another one the last
    bits of activations can differ, and a scale with them that lies where float16 rounds either way.

    Args:
        model: what to quantize.
        source: the footage.
        recipe: how; see perception_node.quantization.recipe.load_recipe.
        out: folder, made if missing; None is int8/ in the model's, where read_calibration looks.
        truth: folder of labels, NAME.png with a class id per pixel, for the frames held out.
        progress: shows an iterable's progress, as tqdm does.
        say: is told what did not go as planned.

    Returns:
        What calibration.json holds: onnx, sha256, model_sha256, recipe, footage, frames, held_out, layers (see
        judge_layers), unquantized, outliers, recommended, compared (see compare) and versions.

    Raises:
        UserError: naming what is wrong and the remedy; nothing was written.
    """
    folder = out or model.folder / "int8"
    _check_writable(folder)
    network = prepare(model, say=say).onnx
    import onnx  # not before prepare, which says what to do where it is missing

    graph = at_opset(network, str(model.onnx_path))
    candidates = find_layers(graph)
    recipe.check_keep([layer.name for layer in candidates])
    layers = [layer for layer in candidates if layer.name not in recipe.keep]
    if not layers:
        raise UserError(f"{model.onnx_path}: no layer is left to quantize; take --precision fp16")
    frames, held_out = choose_frames(source, recipe, progress, say)
    labels = _read_labels(truth, held_out, model) if truth else {}

    device = open_device("cpu")
    preprocess = Preprocess(device, model.input)

    def images(chosen: Sequence[Frame]) -> Iterator[np.ndarray]:
        for frame in chosen:
            yield np.array(device.download(preprocess(frame.image)[0]))

    tensors = list(dict.fromkeys(layer.tensor for layer in layers))
    ranges = measure(graph, tensors, lambda: progress(images(frames), total=len(frames), desc="ranges"), recipe)
    int8 = quantized(graph, layers, ranges)
    half = to_fp16(int8, list(images(frames[:4])))  # a few will do: it keeps clear of float16's end
    content = half.SerializeToString(deterministic=True)

    with TemporaryDirectory(prefix="perception_node-") as temporary:
        path = Path(temporary) / ONNX_NAME
        path.write_bytes(content)
        pipelines = Pipeline(model), Pipeline(dataclasses.replace(model, onnx_path=path))
        compared = compare(*pipelines, held_out, labels, progress)
    some = list(images(held_out[: max(1, recipe.layerwise)]))
    entries = judge_layers(graph, layers, ranges, some, recipe.layerwise > 0, progress)
    outliers, recommended = recommend(entries)
    names = {layer.name for layer in layers}
    result = {
        "onnx": ONNX_NAME,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model_sha256": model.sha256,
        "recipe": _as_dict(recipe, model),
        "footage": str(source.path),
        "frames": [{"name": frame.name, "stamp_ns": frame.stamp_ns} for frame in frames],
        "held_out": [{"name": frame.name, "stamp_ns": frame.stamp_ns} for frame in held_out],
        "layers": entries,
        "unquantized": [n.name for n in graph.graph.node if n.op_type in WITH_WEIGHTS and n.name not in names],
        "outliers": outliers,
        "recommended": recommended,
        "compared": compared,
        "versions": {library.__name__: library.__version__ for library in (np, onnxruntime, cv2, onnx)},
    }
    text = json.dumps(result, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_files({folder / ONNX_NAME: content, folder / "calibration.json": text.encode()})
    except OSError as error:
        remedy = "make room, or name another folder with --out"
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); {remedy}") from error
    return result


def _check_writable(folder: Path) -> None:
    """Before minutes of work, as far as can be told."""
    present = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written; name another folder with --out, and to build with --calibration")


def _read_labels(truth: Path, frames: Sequence[Frame], model: Model) -> dict[str, np.ndarray]:
    labels = {}
    for frame in frames:
        shape = frame.image.height, frame.image.width
        try:
            labels[frame.name] = read_class_ids(truth / f"{frame.name}.png", model.taxonomy, shape)
        except SourceError as error:
            raise SourceError(f"--truth: {error}") from error
    return labels


def _as_dict(recipe: Recipe, model: Model) -> dict[str, Any]:
    """The recipe in full, as it could be written again."""
    entries = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name not in ("path", "tree")}
    entries |= {"model": model.name, "keep": list(recipe.keep)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in entries.items() if v is not None}
