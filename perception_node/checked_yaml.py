"""YAML files that people write, checked against a schema: what is wrong is named with its file, line and the remedy."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from perception_node.errors import ModelError, one_line

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


def read_yaml(path: Path) -> tuple[Any, yaml.Node | None]:
    """A YAML file as values, and as nodes, which know their lines."""
    text = path.read_bytes()
    try:
        document = yaml.safe_load(text)
        tree = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ModelError(f"{path}: not valid YAML: {one_line(error)}") from error
    _refuse_repeated_keys(path, tree)
    return document, tree


def validate(path: Path, tree: yaml.Node | None, value: Any, schema: Mapping[str, Any], keys: list) -> None:
    """Raises ModelError for the entry nearest to the top that is not as the schema has it. `keys` lead to `value`."""
    errors = _Validator(schema).iter_errors(value)
    for error in sorted(errors, key=lambda error: (len(error.path), str(error.path))):
        expected = error.schema.get("description") or schema["description"]
        raise yaml_error(path, tree, [*keys, *error.absolute_path], error.message, expected)


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


def fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    """Writes the schema's defaults into the parts of a valid document that leave them out."""
    for key, child in schema.get("properties", {}).items():
        if "default" in child:
            value.setdefault(key, copy.copy(child["default"]))
        if key in value:
            fill_defaults(value[key], child)
    if "items" in schema:
        for item in value:
            fill_defaults(item, schema["items"])


def yaml_error(path: Path, tree: yaml.Node | None, keys: Any, problem: str, remedy: str | None) -> ModelError:
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
    entry = ".".join(map(str, keys)) or "the file"
    return ModelError(f"{path}:{line}: {entry}: {problem}" + (f"; expected: {remedy}" if remedy else ""))
