"""A scene whose truth is exact: boxes on flat ground, seen by casting a ray through the middle of every pixel.

Everything is in the base frame and metres. Slow and obvious: each ray tries each box.
"""

from dataclasses import dataclass

import numpy as np

from perception_node.camera import Camera
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Taxonomy


@dataclass(frozen=True)
class Box:
    """An upright cuboid; `id` 0 for stuff.

    Attributes:
        bottom: metres above the ground; above 0 it hangs.
    """

    name: str
    x: float
    y: float
    length: float
    width: float
    height: float
    yaw: float = 0.0
    id: int = 0
    bottom: float = 0.0

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """How many times their length rays (N, 3) go until they enter the box: (N,), infinite if never."""
        x, y = origin[0] - self.x, origin[1] - self.y
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        start = c * x + s * y, c * y - s * x, origin[2]
        dx, dy, dz = directions.T
        along = c * dx + s * dy, c * dy - s * dx, dz
        sides = (
            (-self.length / 2, self.length / 2),
            (-self.width / 2, self.width / 2),
            (self.bottom, self.bottom + self.height),
        )
        enter, leave = np.full(len(directions), -np.inf), np.full(len(directions), np.inf)
        for begin, step, (low, high) in zip(start, along, sides, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                a, b = (low - begin) / step, (high - begin) / step
            enter, leave = np.maximum(enter, np.minimum(a, b)), np.minimum(leave, np.maximum(a, b))
        return np.where((enter <= leave) & (enter > 0), enter, np.inf)

    def nearest(self, xy: np.ndarray) -> np.ndarray:
        """The point (2,) of its ground plan that is nearest to another, outside of it."""
        x, y = xy[0] - self.x, xy[1] - self.y
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        own = np.clip(c * x + s * y, -self.length / 2, self.length / 2), np.clip(
            c * y - s * x, -self.width / 2, self.width / 2
        )
        return np.array([self.x + c * own[0] - s * own[1], self.y + s * own[0] + c * own[1]])


@dataclass(frozen=True)
class Scene:
    """A road along x, pavement beside it.

    Attributes:
        half_road: where it ends to either side.
        bend: the road's middle is at y = bend * x².
    """

    taxonomy: Taxonomy
    boxes: tuple[Box, ...] = ()
    half_road: float = 4.0
    bend: float = 0.0

    def on_road(self, xy: np.ndarray) -> np.ndarray:
        """bool (N,) of points (N, 2)."""
        return np.abs(xy[:, 1] - self.bend * xy[:, 0] ** 2) <= self.half_road

    def first(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far rays go, and the box that they meet, by index; -1 the ground, -2 nothing."""
        with np.errstate(divide="ignore"):
            reach = np.where(directions[:, 2] < 0, -origin[2] / directions[:, 2], np.inf)
        met = np.where(np.isfinite(reach), -1, -2)
        for index, box in enumerate(self.boxes):
            distance = box.hit(origin, directions)
            met = np.where(distance < reach, index, met)
            reach = np.minimum(reach, distance)
        return reach, met

    def frame(self, camera: Camera, mounting: Mounting) -> PanopticFrame:
        """What a perfect network would see. Pixels that the lens does not fill are unlabelled."""
        optical = camera.rays(camera.pixel_grid())
        directions = np.nan_to_num(optical) @ mounting.rotation.T
        reach, met = self.first(mounting.translation, directions)
        ids = {category.name: category.id for category in self.taxonomy}
        hit = mounting.translation[:2] + directions[:, :2] * np.where(np.isfinite(reach), reach, 0)[:, None]
        classes = np.where(self.on_road(hit), ids["road"], ids["pavement"]).astype(np.uint8)
        classes[met == -2] = ids["sky"]
        instances = np.zeros(len(classes), np.uint16)
        for index, box in enumerate(self.boxes):
            classes[met == index], instances[met == index] = ids[box.name], box.id
        is_filled = np.isfinite(optical).all(1)
        classes[~is_filled], instances[~is_filled] = 255, 0
        size = camera.height, camera.width
        confidence = np.where(is_filled, 255, 0).astype(np.uint8)
        return PanopticFrame.from_maps(classes.reshape(size), instances.reshape(size), confidence.reshape(size))

    def free(self, camera: Camera, mounting: Mounting, middles: np.ndarray) -> np.ndarray:
        """bool (N,): whether the road at points (N, 2) is in view and nothing stands in the way."""
        points = np.column_stack([middles, np.zeros(len(middles))])
        directions = points - mounting.translation
        reach, _ = self.first(mounting.translation, directions)
        u, v = camera.project(directions @ mounting.rotation).T
        with np.errstate(invalid="ignore"):
            in_view = (u >= -0.5) & (u < camera.width - 0.5) & (v >= -0.5) & (v < camera.height - 0.5)
        return in_view & (reach > 1 - 1e-9) & self.on_road(middles)
