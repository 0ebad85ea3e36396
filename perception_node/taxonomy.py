"""The classes of a network: which are things, which can be driven on, how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_node.panoptic import UNLABELLED


@dataclass(frozen=True, slots=True)
class Category:
    """One class.

    Attributes:
        id: 0..254, the network's channel and the pixels' value in the class map.
        name: for people and for vision_msgs/LabelInfo.
        color: (red, green, blue), 0..255.
        thing: has countable instances.
        drivable: a vehicle may drive on it.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    thing: bool = False
    drivable: bool = False


class Taxonomy(tuple[Category, ...]):
    """The categories of a network, in the order of its channels: category i has id i."""

    def __new__(cls, categories: Sequence[Category]):
        return super().__new__(cls, categories)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        return tuple(category.id for category in self if category.thing)

    def table(self, attribute: str) -> np.ndarray:
        """bool (256,): `thing` or `drivable` of every possible class map value; False for unlabelled."""
        table = np.zeros(256, bool)
        table[[category.id for category in self if getattr(category, attribute)]] = True
        return table

    def colors_bgr(self) -> np.ndarray:
        """uint8 (256, 3): the colour of every class map value, black for unlabelled, in OpenCV's channel order."""
        colors = np.zeros((UNLABELLED + 1, 3), np.uint8)
        for category in self:
            colors[category.id] = category.color[::-1]
        return colors
