"""`perception import`: makes a model folder of an ONNX network that was made elsewhere.

What a manifest says of a network is read from its graph as far as a graph can tell (graph.py, roles.py,
ultralytics.py); the rest (classes, normalisation) the user says. The folder is proved before it is there: its network
is loaded as the node would, and one frame goes through the pipeline.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception_node.engine import TensorSpec
from perception_node.engine.onnxruntime import OnnxRuntimeEngine
from perception_node.errors import ModelError, UserError, one_line
from perception_node.fuse import parse_options
from perception_node.fusion import FAMILIES
from perception_node.model import MANIFEST, load_model
from perception_node.pipeline import Pipeline
from perception_node.taxonomy import Taxonomy

try:
    from perception_node.importing import ultralytics
    from perception_node.importing.graph import (
        before_argmax,
        before_probabilities,
        class_names,
        fix_input,
        read_network,
        replace_outputs,
        write_network,
    )
    from perception_node.importing.roles import describe, match_outputs
except ModuleNotFoundError as error:
    if error.name not in ("onnx", "google", "google.protobuf"):
        raise
    raise UserError("import needs the onnx package; expected: pip install 'perception_node[engines]'") from error

IMAGENET = "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375"
LOGITS = {"semantic": (1, -3), "foreground": (1, -3), "class_logits": (2, -1), "mask_logits": (1, -3)}
"""The tensors of which fusion makes probabilities, and the axes of a softmax that would have done so before it."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What the network was trained with: (pixel - mean) / std, in 0..255 units, in the channels' order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Imported:
    """A model folder that was made.

    Attributes:
        folder: where it lies.
        notes: what was found and decided, name -> text, in order.
        milliseconds: of each stage of the frame that proved it.
    """

    folder: Path
    notes: Mapping[str, str]
    milliseconds: Mapping[str, float]


def import_network(
    network: Path,
    family: str,
    taxonomy: Taxonomy,
    out: Path,
    *,
    size_hw: tuple[int, int] | None = None,
    normalisation: Normalisation | None = None,
    color: str = "rgb",
    resize: str = "letterbox",
    tensors: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    description: str | None = None,
    force: bool = False,
) -> Imported:
    """Makes a model folder of an ONNX file.

    Args:
        network: the ONNX file; weights in files beside it are taken into the one that is written.
        family: of its outputs, a key of perception_node.fusion.FAMILIES.
        taxonomy: the classes that it was trained with, in the order of its channels.
        out: the folder; written beside and renamed when it is proved, so it is there whole or not at all.
        size_hw: height and width of the input in pixels; None takes those that the graph has.
        normalisation: None is known of Ultralytics' networks only.
        color: order of the input's channels, "rgb" or "bgr".
        resize: how images of another shape are fitted, "letterbox" or "stretch".
        tensors: the family's name of an output -> its name in the graph, where shapes and names do not tell.
        options: of the family's fusion, each "NAME=VALUE".
        description: one line for people; None says what was imported.
        force: replace `out` if it is a model folder.

    Raises:
        UserError: anything that a user can get wrong, in one line.
    """
    if family not in FAMILIES:
        raise UserError(f"family {family!r}: there is no such; expected: one of {', '.join(FAMILIES)}")
    fusion = parse_options(family, FAMILIES[family], options)
    with _beside(out, force) as folder:
        model = read_network(network)
        image, size_hw = fix_input(model, size_hw)
        notes = {"input": f"{image} float32 (1, 3, {size_hw[0]}, {size_hw[1]})"}
        given = dict(tensors or {})
        outputs = _run(model, folder, size_hw)
        layout = ultralytics.find_layout(model, outputs, taxonomy) if family == "prototype" and not given else None
        if layout:
            notes["layout"] = f"Ultralytics, {layout.detections} is {layout}; taken apart by nodes that were appended"
            given = ultralytics.adapt(model, layout)
            normalisation = normalisation or Normalisation(ultralytics.MEAN, ultralytics.STD)
            if layout.end_to_end:
                fusion = {"nms_threshold": None, **fusion}
        elif "semantic" in FAMILIES[family].inputs:
            notes |= _cut_argmax(model, outputs, given)
        if layout or "argmax" in notes:
            outputs = _run(model, folder, size_hw)
        match = match_outputs(family, outputs, taxonomy, size_hw, given)
        shapes, tensors = {spec.name: spec for spec in outputs}, {}
        for role, name in match.tensors.items():
            notes[role] = f"{describe([shapes[name]])}, {'appended' if layout else match.reasons[role]}"
            tensors[role] = name
            if role in LOGITS and (found := before_probabilities(model, name, LOGITS[role])):
                tensors[role], function = found
                notes[role] += f"; its {function} is left out, fusion makes the probabilities: {tensors[role]}"
        notes["stride"] = str(match.stride)
        if differing := _differing(class_names(model), taxonomy):
            notes["classes"] = differing
        if normalisation is None:
            raise UserError(
                "the graph does not tell how images are normalised; expected: --mean and --std in 0..255 units, as in "
                f"training, e.g. ImageNet's: {IMAGENET}"
            )
        notes["pixels"] = f"(x - {list(normalisation.mean)}) / {list(normalisation.std)}, {color}, {resize}"
        replace_outputs(model, list(tensors.values()))
        write_network(model, folder / "model.onnx")
        manifest = {
            "description": description or f"{network.name}, imported as {family}",
            "onnx": "model.onnx",
            "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
            "input": {
                "tensor": image,
                "size": list(size_hw),
                "color": color,
                "mean": list(normalisation.mean),
                "std": list(normalisation.std),
                "resize": resize,
            },
            "output": {"family": family, "tensors": tensors, "stride": match.stride},
            "fusion": fusion,
            "classes": taxonomy.entries(),
        }
        text = yaml.safe_dump(manifest, sort_keys=False, default_flow_style=None, width=120)
        (folder / MANIFEST).write_text(text)
        milliseconds = _prove(folder, out)
    return Imported(out, notes, milliseconds)


@contextmanager
def _beside(out: Path, force: bool) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends well, and otherwise goes."""
    if out.exists():
        if not force:
            raise UserError(f"{out}: exists already; expected: another --out, or --force to replace it")
        if not (out / MANIFEST).is_file():
            raise UserError(f"{out}: is no model folder (it has no {MANIFEST}), so it is not replaced; another --out")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    old = part.with_suffix(".old")
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            out.rename(old)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not out.exists():  # stopped between the two renames
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _run(model: Any, folder: Path, size_hw: tuple[int, int]) -> list[TensorSpec]:
    """The outputs' names, shapes and types, learnt from a run on noise: graphs leave sizes open that are not."""
    path = folder / "model.onnx"
    write_network(model, path)
    try:
        engine = OnnxRuntimeEngine(path)
        noise = np.random.default_rng(0).standard_normal((1, 3, *size_hw), np.float32)
        answers = engine.infer(noise)
    except ModelError as error:
        raise UserError(str(error).removeprefix(f"{path}: ").replace(str(path), path.name)) from error
    except Exception as error:  # the library's exceptions share no base class
        size = f"{size_hw[0]}x{size_hw[1]}"
        remedy = "expected: a --size it was made for"
        raise UserError(f"the network cannot run at {size}; {remedy}: {one_line(error)}") from error
    return [TensorSpec(name, array.shape, array.dtype.name) for name, array in answers.items()]


def _cut_argmax(model: Any, outputs: Sequence[TensorSpec], given: dict[str, str]) -> dict[str, str]:
    """Makes the logits the output where the graph ends with class ids: fusion samples between the output's pixels."""
    names, notes = [spec.name for spec in outputs], {}
    for index, spec in enumerate(outputs):
        is_map = spec.dtype.startswith(("int", "uint")) and len(spec.shape) in (3, 4)
        if is_map and (logits := before_argmax(model, spec.name)):
            names[index] = logits
            notes["argmax"] = f"{spec.name} is the argmax of {logits}, which is taken instead"
            given |= {role: logits for role, name in given.items() if name == spec.name}
    if notes:
        replace_outputs(model, list(dict.fromkeys(names)))
    return notes


def _differing(names: Sequence[str], taxonomy: Taxonomy) -> str | None:
    """Where the names in the file are not the taxonomy's, for people."""
    classes = [c.name for c in taxonomy if c.thing or len(names) == len(taxonomy)]
    pairs = [
        f"{i} {ours!r}, there {theirs!r}"
        for i, (ours, theirs) in enumerate(zip(classes, names, strict=False))
        if theirs not in (ours, f"{i}", f"LABEL_{i}")  # the libraries' way to say nothing
    ]
    return f"the file calls some otherwise, look whether they are meant: {'; '.join(pairs[:5])}" if pairs else None


def _prove(folder: Path, out: Path) -> dict[str, float]:
    """Loads the model as the node would and runs a frame; milliseconds of its stages."""
    try:
        model = load_model(folder)
        pipeline = Pipeline(model)
        pipeline.warm_up()
        image = np.random.default_rng(0).integers(0, 256, (*model.input.size_hw, 3), np.uint8)
        frame = pipeline(image)
        frame.check(set(model.taxonomy.thing_ids))
    except (UserError, ValueError) as error:
        raise UserError(f"{str(error).replace(str(folder), str(out))} (nothing was written)") from error
    return {stage: values["p50"] for stage, values in pipeline.timer.percentiles().items()}
