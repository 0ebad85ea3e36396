"""A model is a folder with a manifest: read it, check it, verify its network's hash.

`model.schema.yaml` beside this file says what a manifest may hold and, in its descriptions, what each entry means.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from perception_node.errors import ModelError
from perception_node.paths import shipped
from perception_node.taxonomy import Category, Taxonomy

MANIFEST = "model.yaml"
DEFAULT_MODEL = "camvid_lite0"
_SCHEMA = yaml.safe_load(Path(__file__).with_name("model.schema.yaml").read_text())


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the network takes: float32 (1, 3, *size), (pixel - mean) / std.

    Attributes:
        tensor: name of the ONNX graph's input.
        size_hw: height and width in pixels.
        color: order of the channels, "rgb" or "bgr".
        mean, std: for each channel in that order, in 0..255 units.
        resize: "letterbox" or "stretch".
    """

    tensor: str
    size_hw: tuple[int, int]
    color: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder whose manifest is right and whose network is the one that the manifest means.

    Attributes:
        folder: where it lies.
        onnx_path: the network.
        sha256: the network's hash, verified.
        input: what the network takes.
        family: of its outputs; a key of perception_node.fusion.FAMILIES.
        tensors: the family's name of each output -> name of the ONNX graph's output.
        stride: input pixels for each output pixel.
        fusion: the family's thresholds.
        taxonomy: the classes.
    """

    folder: Path
    onnx_path: Path
    sha256: str
    input: InputSpec
    family: str
    tensors: Mapping[str, str]
    stride: int
    fusion: Mapping[str, Any]
    taxonomy: Taxonomy

    @property
    def name(self) -> str:
        return self.folder.name


def load_model(model: str | Path = DEFAULT_MODEL) -> Model:
    """Reads and checks a model folder.

    Args:
        model: path of the folder, or the name of one of the models that come with this package.

    Raises:
        ModelError: naming the file, the line, what is wrong there and the remedy.
    """
    folder = find_model(model)
    path = folder / MANIFEST
    text = path.read_text()
    try:
        document = yaml.safe_load(text)
        tree = yaml.compose(text)
    except yaml.YAMLError as error:
        raise ModelError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    validator = jsonschema.Draft7Validator(_SCHEMA)
    for error in sorted(validator.iter_errors(document), key=lambda error: (len(error.path), str(error.path))):
        raise _error(path, tree, error.absolute_path, error.message, error.schema.get("description"))
    _fill_defaults(document, _SCHEMA)

    for index, entry in enumerate(document["classes"]):
        if entry["id"] != index:
            raise _error(
                path,
                tree,
                ["classes", index, "id"],
                f"{entry['id']} where {index} is due",
                "list the classes in the order of the semantic output's channels, ids from 0",
            )
    onnx_path = folder / document["onnx"]
    if not onnx_path.is_file():
        raise _error(
            path, tree, ["onnx"], f"there is no file {onnx_path}", "put the network there, or correct the name"
        )
    actual = hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    if actual != document["sha256"]:
        raise _error(
            path,
            tree,
            ["sha256"],
            f"is {document['sha256'][:12]}…, but {onnx_path.name} has {actual}",
            "restore the file that the manifest means or, if you trust the new one, write its hash here",
        )
    inputs, output = document["input"], document["output"]
    return Model(
        folder=folder,
        onnx_path=onnx_path,
        sha256=actual,
        input=InputSpec(
            inputs["tensor"],
            tuple(inputs["size"]),
            inputs["color"],
            tuple(inputs["mean"]),
            tuple(inputs["std"]),
            inputs["resize"],
        ),
        family=output["family"],
        tensors=output["tensors"],
        stride=output["stride"],
        fusion=document["fusion"],
        taxonomy=Taxonomy(Category(**{**entry, "color": tuple(entry["color"])}) for entry in document["classes"]),
    )


def find_model(model: str | Path) -> Path:
    """The folder meant by a path or by the name of a model that came with the package."""
    given = Path(model).expanduser()
    by_name = [shipped("engines") / given] if len(given.parts) == 1 else []
    for folder in (given, *by_name):
        if (folder / MANIFEST).is_file():
            return folder
    if given.is_dir():
        raise ModelError(f"{given}: has no {MANIFEST}; the README's section on networks says how to write one")
    names = sorted(path.parent.name for path in shipped("engines").glob(f"*/{MANIFEST}"))
    raise ModelError(f"model {str(model)!r}: no such folder, and no model of that name; there are: {', '.join(names)}")


def _fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    """Writes the schema's defaults into the parts of a valid document that leave them out."""
    for key, child in schema.get("properties", {}).items():
        if "default" in child:
            value.setdefault(key, type(child["default"])(child["default"]))
        if key in value:
            _fill_defaults(value[key], child)
    if "items" in schema:
        for item in value:
            _fill_defaults(item, schema["items"])


def _error(path: Path, tree: yaml.Node | None, keys: Any, problem: str, remedy: str | None) -> ModelError:
    """A ModelError at the line of the entry that `keys` lead to, or of the nearest one that exists."""
    keys = list(keys)
    node, line = tree, 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            entries = {k.value: (k, v) for k, v in node.value}
            if key not in entries:
                break
            line = entries[key][0].start_mark.line + 1
            node = entries[key][1]
        elif isinstance(node, yaml.SequenceNode):
            node = node.value[key]
            line = node.start_mark.line + 1
    entry = ".".join(map(str, keys)) or "the manifest"
    return ModelError(f"{path}:{line}: {entry}: {problem}" + (f"; expected: {remedy}" if remedy else ""))
