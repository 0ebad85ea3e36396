"""A model is a folder with a manifest: read it, check it, verify its network's hash.

`model.schema.yaml` beside this file says what a manifest may hold and, in its descriptions, what each entry means.
"""

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from perception_node.errors import ModelError, one_line
from perception_node.paths import shipped
from perception_node.taxonomy import Taxonomy, builtin_taxonomy

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
        tree: the manifest as YAML nodes, which know their lines.
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
    tree: yaml.Node = field(repr=False, compare=False)

    def error(self, key: str, problem: str, remedy: str) -> ModelError:
        """What is wrong with an entry of the manifest, e.g. "output.tensors.center", with its line and the remedy."""
        return _error(self.folder / MANIFEST, self.tree, key.split("."), problem, remedy)

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
    document, tree = _read(path)
    _validate(path, tree, document, _SCHEMA, [])
    _fill_defaults(document, _SCHEMA)
    family = _SCHEMA["families"][document["output"]["family"]]
    _validate(path, tree, document["output"]["tensors"], family["tensors"], ["output", "tensors"])
    _validate(path, tree, document["fusion"], family["fusion"], ["fusion"])
    _fill_defaults(document["fusion"], family["fusion"])

    _check_classes(path, tree, document["classes"])
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
        taxonomy=Taxonomy.from_entries(document["classes"]),
        tree=tree,
    )


def read_taxonomy(name: str) -> Taxonomy:
    """The taxonomy of a built-in name, or of a YAML file with `classes` as in a manifest (a manifest will do).

    Raises:
        UserError: there is no such file and no taxonomy of that name.
        ModelError: the file's classes are wrong, with the line and the remedy.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        return builtin_taxonomy(name)
    document, tree = _read(path)
    schema = _SCHEMA["properties"]["classes"]
    if not isinstance(document, dict) or "classes" not in document:
        raise _error(path, tree, [], "has no classes", schema["description"])
    classes = document["classes"]
    _validate(path, tree, classes, schema, ["classes"])
    _fill_defaults(classes, schema)
    _check_classes(path, tree, classes)
    return Taxonomy.from_entries(classes)


def tensor_sets(family: str) -> list[tuple[str, ...]]:
    """The sets of tensors of which a manifest of the family must have one, e.g. [("semantic", "center", "offset")]."""
    schema = _SCHEMA["families"][family]["tensors"]
    return [(*schema["required"], *choice["required"]) for choice in schema.get("oneOf", [{"required": []}])]


def check_options(family: str, options: Mapping[str, Any]) -> None:
    """Raises ModelError for an option of the family that a manifest's `fusion` could not have."""
    schema = _SCHEMA["families"][family]["fusion"]
    for error in jsonschema.Draft7Validator(schema).iter_errors(options):
        name = ".".join(map(str, error.path)) or "options"
        raise ModelError(f"{name}: {error.message}; expected: {error.schema['description']}")


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


# JSON Schema takes 8.0 for an integer and NaN for a number; what reads the manifest does not.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft7Validator,
    type_checker=jsonschema.Draft7Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) in (int, float) and math.isfinite(value),
        }
    ),
)


def _read(path: Path) -> tuple[Any, yaml.Node | None]:
    """A YAML file as values, and as nodes, which know their lines."""
    text = path.read_bytes()
    try:
        document = yaml.safe_load(text)
        tree = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ModelError(f"{path}: not valid YAML: {one_line(error)}") from error
    _refuse_repeated_keys(path, tree)
    return document, tree


def _check_classes(path: Path, tree: yaml.Node | None, classes: list[dict[str, Any]]) -> None:
    for index, entry in enumerate(classes):
        if entry["name"] in [other["name"] for other in classes[:index]]:
            problem = f"{entry['name']!r} is another class's name"
            raise _error(path, tree, ["classes", index, "name"], problem, "a name of its own")
        if entry["id"] != index:
            raise _error(
                path,
                tree,
                ["classes", index, "id"],
                f"{entry['id']} where {index} is due",
                "list the classes in the order of the semantic output's channels, ids from 0",
            )


def _validate(path: Path, tree: yaml.Node | None, value: Any, schema: Mapping[str, Any], keys: list) -> None:
    """Raises ModelError for the entry nearest to the top that is not as the schema has it. `keys` lead to `value`."""
    errors = _Validator(schema).iter_errors(value)
    for error in sorted(errors, key=lambda error: (len(error.path), str(error.path))):
        expected = error.schema.get("description") or schema["description"]
        raise _error(path, tree, [*keys, *error.absolute_path], error.message, expected)


def _refuse_repeated_keys(path: Path, tree: yaml.Node | None) -> None:
    """YAML would silently take the last of two entries with the same key."""
    nodes = [tree] if tree else []
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += [value for _, value in node.value]
            seen: dict[str, int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise ModelError(
                        f"{path}:{line}: {key.value}: given in line {seen[key.value]} already; expected: once"
                    )
                seen[key.value] = line


def _fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    """Writes the schema's defaults into the parts of a valid document that leave them out."""
    for key, child in schema.get("properties", {}).items():
        if "default" in child:
            value.setdefault(key, copy.copy(child["default"]))
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
