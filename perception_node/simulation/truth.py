"""What is true of a frame beyond its labels: depth, the grid in metres, where objects are."""

from collections.abc import Iterable, Mapping
from functools import cached_property

import cv2
import numpy as np

from perception_node.camera import Camera
from perception_node.ground import DrivableGrid, GridOptions
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.simulation.frame import EgoPose, StreetObject
from perception_node.simulation.layout import Actor
from perception_node.simulation.raycast import Geometry
from perception_node.simulation.render import Scene, Surface

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
_LANE_M, _AHEAD_M = 0.8, 12.0
"""Half the width, and the length, of the ground ahead of the vehicle from which the rest must be reachable."""
_SAME_M = 0.02
"""Of the height of what a ray hits over the ground that it was sent to."""
_FOOT_M = 0.04
"""Above the lowest point seen of an instance: what is within touches the ground."""


class View:
    """A camera somewhere in the street.

    Args:
        camera: its lens.
        rays: float32 (H * W, 3), optical directions of its pixels' middles, NaN where there is none.
        mounting: on the vehicle.
        ego: where the vehicle is.
    """

    def __init__(self, camera: Camera, rays: np.ndarray, mounting: Mounting, ego: EgoPose):
        self.camera, self.mounting, self.ego, self._optical_rays = camera, mounting, ego, rays
        c, s = np.cos(ego.heading), np.sin(ego.heading)
        self._base = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        self._shift = np.array([ego.x, ego.y, 0])
        self._rotation = self._base @ mounting.rotation
        self.origin = self._shift + self._base @ mounting.translation
        self.shape = camera.height, camera.width

    def to_world(self, rays: np.ndarray) -> np.ndarray:
        """Float32 (N, 3) directions of optical ones."""
        return rays @ self._rotation.T.astype(np.float32)

    @cached_property
    def blind(self) -> np.ndarray:
        """bool (H * W,): pixels to which the lens brings no light."""
        return ~np.isfinite(self._optical_rays).all(1)

    @cached_property
    def rays(self) -> np.ndarray:
        """Float32 (H * W, 3), unit directions of the pixels' middles; up where they are blind."""
        rays = self.to_world(self._optical_rays)
        rays[self.blind] = 0, 0, 1
        return rays

    @property
    def pixel(self) -> float:
        """The angle that a pixel covers, radians."""
        return 1 / float(self.camera.K[0, 0])

    def base_points(self, world: np.ndarray) -> np.ndarray:
        """(N, 3) in the base frame."""
        return (world - self._shift) @ self._base

    def world_points(self, base: np.ndarray) -> np.ndarray:
        return base @ self._base.T + self._shift

    def depth(self, surface: Surface) -> np.ndarray:
        """Float32 (H, W), metres along the optical axis."""
        ahead = np.nan_to_num(self._optical_rays[:, 2])
        with np.errstate(invalid="ignore"):
            depth = np.where(surface.hit, surface.hits.distance * ahead, np.inf)
        return depth.astype(np.float32).reshape(self.shape)

    def sees(self, base: np.ndarray) -> np.ndarray:
        """bool (N,): whether points of the base frame are in the image, if nothing hides them."""
        optical = (base - self.mounting.translation) @ self.mounting.rotation
        u, v = self.camera.project(optical).T
        with np.errstate(invalid="ignore"):
            return (u >= -0.5) & (v >= -0.5) & (u < self.camera.width - 0.5) & (v < self.camera.height - 0.5)


def grid(
    view: View, scene: Scene, ground: Geometry, actors: Iterable[Actor], road: int, options: GridOptions
) -> DrivableGrid:
    """From the geometry: what the ground of each cell's middle is, and whether a ray from the camera reaches it.

    Where the ray ends at something that stands within a cell or so of the middle, that is a foot: the cell is occupied,
    as is what is seen of the ground under an instance.

    Args:
        view: the camera.
        scene: all that can hide the ground.
        ground: the ground alone.
        actors: the instances.
        road: the class that is drivable.
        options: extent and resolution; and which cells are too far for the camera.
    """
    rows, columns = options.shape
    side, x_min, y_min = options.grid_resolution, options.grid_x_min, -options.grid_half_width
    x, y = np.meshgrid(x_min + (np.arange(columns) + 0.5) * side, y_min + (np.arange(rows) + 0.5) * side)
    middles = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1)
    world = view.world_points(middles)
    below = ground.cast(world + np.array([0, 0, 1]), np.broadcast_to(np.float32([0, 0, -1]), world.shape))
    world[:, 2] = 1 - below.distance
    taken = _footprints(view, actors, (rows, columns), side, (x_min, y_min))
    free = (ground.class_ids[below.triangle] == road).reshape(rows, columns) & ~taken
    _, component = cv2.connectedComponents(free.view(np.uint8), connectivity=4)
    ahead = component[(np.abs(y) < _LANE_M) & (x > 0) & (x < _AHEAD_M)]
    free &= np.isin(component, np.unique(ahead[ahead > 0]))
    toward = world - view.origin
    distance = np.linalg.norm(toward, axis=1)
    toward /= distance[:, None]
    footprint = distance * view.pixel / np.maximum(-toward[:, 2], 1e-6)
    looked_at = np.flatnonzero(view.sees(middles) & (footprint <= options.max_footprint))
    toward, distance = toward[looked_at], distance[looked_at]
    _, hits = scene.cast(np.broadcast_to(view.origin, toward.shape).astype(np.float32), toward)
    short = distance - hits.distance
    seen = short * np.abs(toward[:, 2]) <= _SAME_M
    foot = ~seen & (short * np.hypot(toward[:, 0], toward[:, 1]) < side * 1.5)
    cells = np.full(x.size, UNKNOWN, np.int8)
    cells[looked_at[seen]] = np.where(free.ravel()[looked_at[seen]], FREE, OCCUPIED)
    cells[looked_at[foot]] = OCCUPIED
    return DrivableGrid(cells.reshape(rows, columns), side, (x_min, y_min))


def _footprints(
    view: View, actors: Iterable[Actor], shape: tuple[int, int], side: float, corner: tuple[float, float]
) -> np.ndarray:
    """bool (H, W): cells whose middle is under an instance's box."""
    taken = np.zeros(shape, np.uint8)
    for actor in actors:
        length, width, _ = actor.size
        c, s = np.cos(actor.heading), np.sin(actor.heading)
        corners = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * (length / 2, width / 2)
        world = np.column_stack([corners @ [[c, s], [-s, c]] + (actor.x, actor.y), np.zeros(4)])
        pixels = (view.base_points(world)[:, :2] - corner) / side - 0.5
        if (np.abs(pixels) < 1e4).all():
            cv2.fillConvexPoly(taken, (pixels * 16).round().astype(np.int32), 1, shift=4)
    return taken > 0


def objects(
    view: View, surface: Surface, panoptic: PanopticFrame, actors: Mapping[int, Actor], class_ids: Mapping[str, int]
) -> tuple[StreetObject, ...]:
    """Of the instances in a frame."""
    instances, positions = panoptic.instance_map, surface.positions.reshape(*view.shape, 3)
    found = []
    for segment in panoptic.instances:
        actor = actors[segment.id]
        middle = view.base_points(np.array([[actor.x, actor.y, actor.z + actor.size[2] / 2]]))[0]
        x0, y0, x1, y1 = segment.box_xyxy
        inside = np.flatnonzero(instances[y0:y1, x0:x1] == segment.id)
        rows, columns = np.divmod(inside, x1 - x0)
        own = view.base_points(positions[rows + y0, columns + x0])
        low = own[own[:, 2] < own[:, 2].min() + _FOOT_M]
        near = low[np.argmin(np.hypot(low[:, 0], low[:, 1]))]
        heading = (actor.heading - view.ego.heading + np.pi) % (2 * np.pi) - np.pi
        found.append(
            StreetObject(
                segment.id,
                class_ids[actor.category],
                tuple(middle.tolist()),
                float(heading),
                actor.size,
                segment.area,
                (float(near[0]), float(near[1])),
            )
        )
    return tuple(found)
