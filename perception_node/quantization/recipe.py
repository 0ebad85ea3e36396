"""A recipe says how a calibration is made, so that anybody can make it again.

`recipe.schema.yaml` beside this file says what it may hold and, in its descriptions, what each entry means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from perception_node.checked_yaml import fill_defaults, read_yaml, validate, yaml_error
from perception_node.errors import ModelError, UserError
from perception_node.model import Model
from perception_node.paths import shipped

_SCHEMA = yaml.safe_load(Path(__file__).with_name("recipe.schema.yaml").read_text())
METHODS = tuple(_SCHEMA["properties"]["method"]["enum"])


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a calibration is made. The entries are those of recipe.schema.yaml.

    Attributes:
        footage: as a path from here; None where the recipe names none.
        path: of the file; None if there is none and all entries are defaults.
        tree: the file as YAML nodes, which know their lines.
    """

    frames: int
    held_out: int
    layerwise: int
    seed: int
    method: str
    percentile: float
    keep: tuple[str, ...]
    model: str | None = None
    footage: Path | None = None
    topic: str | None = None
    description: str | None = None
    path: Path | None = field(default=None, compare=False)
    tree: yaml.Node | None = field(default=None, repr=False, compare=False)

    def error(self, key: str, problem: str, remedy: str) -> UserError:
        """What is wrong with an entry, e.g. "keep.0", with its line if it is in the file, and the remedy."""
        if self.path is None:
            return UserError(f"{key}: {problem}; {remedy}")
        keys = [int(part) if part.isdigit() else part for part in key.split(".")]
        return yaml_error(self.path, self.tree, keys, problem, remedy)

    def check_keep(self, names: Sequence[str]) -> None:
        """Raises ModelError for a layer to be kept that is none of `names`, the network's."""
        for index, name in enumerate(self.keep):
            if name not in names:
                similar = get_close_matches(name, names, 3) or names[:3]
                problem = f"there is no layer {name!r} that would be quantized"
                remedy = f"a name as the report gives it, e.g. {', '.join(similar)}" if names else "nothing"
                raise self.error(f"keep.{index}", problem, remedy)


def load_recipe(model: Model, path: Path | None = None, **given: Any) -> Recipe:
    """Reads and checks a recipe for a model.

    Args:
        model: what is to be quantized.
        path: of the file; None takes calibration/int8/MODEL.yaml if such a one came with the package, else defaults.
        given: entries that go before the file's; None leaves the file's.

    Raises:
        ModelError: naming the file, the line, what is wrong there and the remedy; or it is for another model.
    """
    if path is None:
        path = _shipped_for(model)
    elif not path.is_file():
        raise ModelError(f"--recipe {path}: no such file; leave it out, or see calibration/int8 for examples")
    document, tree = read_yaml(path) if path else ({}, None)
    document = {} if document is None else document
    if path:
        validate(path, tree, document, _SCHEMA, [])
        if document.get("model", model.name) != model.name:
            remedy = f"{model.name}, or another --recipe: the layers of another network have other names and ranges"
            raise yaml_error(path, tree, ["model"], f"{document['model']!r}, but this is {model.name}", remedy)
        if "footage" in document:
            document["footage"] = path.parent / document["footage"]
    fill_defaults(document, _SCHEMA)
    document |= {name: value for name, value in given.items() if value is not None}
    document["keep"] = tuple(document["keep"])
    return Recipe(**document, path=path, tree=tree)


def _shipped_for(model: Model) -> Path | None:
    try:
        path = shipped("calibration") / "int8" / f"{model.name}.yaml"
    except UserError:  # a recipe is no must
        return None
    return path if path.is_file() else None
