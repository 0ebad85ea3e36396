"""The configuration of a training, which is one YAML file.

`config.schema.yaml` beside this file says what it may hold and, in its descriptions, what each entry means.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from perception_node.checked_yaml import fill_defaults, read_yaml, validate, yaml_error
from perception_node.errors import UserError
from perception_node.model import InputSpec, check_entries
from perception_node.taxonomy import Taxonomy

_SCHEMA = yaml.safe_load(Path(__file__).with_name("config.schema.yaml").read_text())


@dataclass(frozen=True)
class Config:
    """A checked configuration, defaults filled in.

    Attributes:
        document: the whole, as in the file; what a checkpoint remembers.
    """

    document: dict[str, Any]

    def __getitem__(self, section: str) -> Any:
        return self.document[section]

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy.from_entries(self["manifest"]["classes"])

    @property
    def input(self) -> InputSpec:
        entry = self["manifest"]["input"]
        numbers = {name: tuple(entry[name]) for name in ("mean", "std")}
        return InputSpec(entry["tensor"], tuple(entry["size"]), entry["color"], resize=entry["resize"], **numbers)

    def difference(self, other: dict[str, Any]) -> list[str]:
        """The entries, e.g. "schedule.epochs", in which another document differs; what is only exported may."""
        mine, theirs = _flat(self.document), _flat(other)
        free = ("manifest.description", "manifest.fusion")
        return [key for key in sorted(mine | theirs) if mine.get(key) != theirs.get(key) and key not in free]


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{name}" if name else section: value
        for section, entries in document.items()
        for name, value in (entries.items() if isinstance(entries, dict) else [("", entries)])
    }


def load_config(path: Path) -> Config:
    """Reads and checks a configuration.

    Raises:
        UserError: there is no such file.
        ModelError: naming the file, the line, what is wrong there and the remedy.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; training/camvid.yaml in the repository is an example")
    document, tree = read_yaml(path)
    validate(path, tree, document, _SCHEMA, [])
    fill_defaults(document, _SCHEMA)
    manifest = document["manifest"]
    check_entries(path, tree, manifest, ["manifest"])
    for frames in (*document["data"]["train"], *document["data"]["val"]):
        frames.setdefault("rename", {})
    shares = [frames.get("share") for frames in document["data"]["train"]]
    if None not in shares:
        remedy = "leave it out for the frames that an epoch sees once each"
        raise yaml_error(path, tree, ["data", "train", 0, "share"], "all frames have one", remedy)
    if sum(share or 0 for share in shares) >= 1:
        raise yaml_error(path, tree, ["data", "train"], "shares are 1 or more together", "less than 1")
    if (smallest := document["augmentation"]["scales"])[0] > smallest[1]:
        raise yaml_error(path, tree, ["augmentation", "scales"], "the first is larger", "smallest, then largest")
    names = {entry["name"] for entry in manifest["classes"]}
    for split, sets in document["data"].items():
        for index, frames in enumerate(sets):
            for theirs, ours in frames["rename"].items():
                if ours not in names:
                    keys = ["data", split, index, "rename", theirs]
                    raise yaml_error(path, tree, keys, f"{ours!r} is no class", ", ".join(sorted(names)))
    return Config(document)
