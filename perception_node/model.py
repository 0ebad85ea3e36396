"""A model is a folder with a manifest: read it, check it, verify its network's hash.

`model.schema.yaml` beside this file says what a manifest may hold and, in its descriptions, what each entry means.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from perception_node.checked_yaml import fill_defaults, read_yaml, validate, yaml_error
from perception_node.errors import ModelError
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
        return yaml_error(self.folder / MANIFEST, self.tree, key.split("."), problem, remedy)

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
    document, tree = read_yaml(path)
    validate(path, tree, document, _SCHEMA, [])
    fill_defaults(document, _SCHEMA)
    family = _SCHEMA["families"][document["output"]["family"]]
    validate(path, tree, document["output"]["tensors"], family["tensors"], ["output", "tensors"])
    validate(path, tree, document["fusion"], family["fusion"], ["fusion"])
    fill_defaults(document["fusion"], family["fusion"])

    _check_classes(path, tree, document["classes"])
    onnx_path = folder / document["onnx"]
    if not onnx_path.is_file():
        raise yaml_error(
            path, tree, ["onnx"], f"there is no file {onnx_path}", "put the network there, or correct the name"
        )
    actual = hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    if actual != document["sha256"]:
        raise yaml_error(
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
    document, tree = read_yaml(path)
    schema = _SCHEMA["properties"]["classes"]
    if not isinstance(document, dict) or "classes" not in document:
        raise yaml_error(path, tree, [], "has no classes", schema["description"])
    classes = document["classes"]
    validate(path, tree, classes, schema, ["classes"])
    fill_defaults(classes, schema)
    _check_classes(path, tree, classes)
    return Taxonomy.from_entries(classes)


def check_entries(path: Path, tree: yaml.Node | None, document: dict[str, Any], keys: list[str | int]) -> None:
    """Checks `input`, `fusion` (center_offset's) and `classes` that stand as in a manifest elsewhere in a file, and
    fills in their defaults. `keys` lead to `document`, which holds them.

    Raises:
        ModelError: one is wrong, with its line and the remedy.
    """
    parts = {name: _SCHEMA["properties"][name] for name in ("input", "classes")}
    parts["fusion"] = _SCHEMA["families"]["center_offset"]["fusion"]
    for name, schema in parts.items():
        validate(path, tree, document[name], schema, [*keys, name])
        fill_defaults(document[name], schema)
    _check_classes(path, tree, document["classes"], keys)


def tensor_sets(family: str) -> list[tuple[str, ...]]:
    """The sets of tensors of which a manifest of the family must have one, e.g. [("semantic", "center", "offset")]."""
    schema = _SCHEMA["families"][family]["tensors"]
    return [(*schema["required"], *choice["required"]) for choice in schema.get("oneOf", [{"required": []}])]


def fusion_options(family: str) -> dict[str, Any]:
    """What a manifest's `fusion` may hold for the family: name -> JSON schema."""
    return _SCHEMA["families"][family]["fusion"]["properties"]


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


def _check_classes(path: Path, tree: yaml.Node | None, classes: list[dict[str, Any]], keys: Sequence = ()) -> None:
    for index, entry in enumerate(classes):
        if entry["name"] in [other["name"] for other in classes[:index]]:
            problem = f"{entry['name']!r} is another class's name"
            raise yaml_error(path, tree, [*keys, "classes", index, "name"], problem, "a name of its own")
        if entry["id"] != index:
            raise yaml_error(
                path,
                tree,
                [*keys, "classes", index, "id"],
                f"{entry['id']} where {index} is due",
                "list the classes in the order of the semantic output's channels, ids from 0",
            )
