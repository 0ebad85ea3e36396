"""The classes of a network: which are things, which can be driven on, how they are drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception_node.errors import UserError
from perception_node.panoptic import UNLABELLED

BUILTIN = Path(__file__).with_name("taxonomies")
"""Folder of NAME.yaml files with `classes` as in a manifest."""


@dataclass(frozen=True, slots=True)
class Category:
    """One class.

    Attributes:
        id: 0..254, the network's channel and the pixels' value in the class map.
        name: for people and for vision_msgs/LabelInfo.
        color: (red, green, blue), 0..255.
        thing: has countable instances.
        drivable: a vehicle may drive on it.
        ground: flat ground that is not drivable, such as pavement and grass.
        sky: is the sky. What is neither ground nor sky is an obstacle: it stands on the ground, and hides some.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    thing: bool = False
    drivable: bool = False
    ground: bool = False
    sky: bool = False

    @property
    def is_obstacle(self) -> bool:
        return not (self.drivable or self.ground or self.sky)


class Taxonomy(tuple[Category, ...]):
    """The categories of a network, in the order of its channels: category i has id i."""

    def __new__(cls, categories: Sequence[Category]):
        return super().__new__(cls, categories)

    @classmethod
    def from_entries(cls, classes: Iterable[Mapping[str, Any]]) -> "Taxonomy":
        """Of the `classes` of a manifest, which were checked before."""
        return cls(Category(**{**entry, "color": tuple(entry["color"])}) for entry in classes)

    def entries(self) -> list[dict[str, Any]]:
        """The `classes` of a manifest."""
        entries = []
        for category in self:
            entry = {"id": category.id, "name": category.name, "color": list(category.color)}
            flags = (key for key in ("thing", "drivable", "ground", "sky") if getattr(category, key))
            entries.append(entry | dict.fromkeys(flags, True))
        return entries

    @property
    def thing_ids(self) -> tuple[int, ...]:
        return tuple(category.id for category in self if category.thing)

    def table(self, attribute: str) -> np.ndarray:
        """bool (256,): an attribute, e.g. `drivable`, of every possible class map value; False for unlabelled."""
        table = np.zeros(256, bool)
        table[[category.id for category in self if getattr(category, attribute)]] = True
        return table

    def colors_bgr(self) -> np.ndarray:
        """uint8 (256, 3): the colour of every class map value, black for unlabelled, in OpenCV's channel order."""
        colors = np.zeros((UNLABELLED + 1, 3), np.uint8)
        for category in self:
            colors[category.id] = category.color[::-1]
        return colors


def builtin_taxonomy(name: str) -> Taxonomy:
    """A taxonomy that comes with the package: cityscapes, camvid or coco.

    Raises:
        UserError: there is none of that name.
    """
    files = {path.stem: path for path in sorted(BUILTIN.glob("*.yaml"))}
    if name not in files:
        raise UserError(f"taxonomy {name!r}: there is no such; expected: one of {', '.join(files)}")
    return Taxonomy.from_entries(yaml.safe_load(files[name].read_text())["classes"])
