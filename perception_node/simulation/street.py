"""A drive along a simulated street, each frame with its exact truth."""

from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np

from perception_node.camera import Camera
from perception_node.drivable import drivable_area
from perception_node.errors import UserError
from perception_node.ground import GridOptions
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.simulation import render, truth
from perception_node.simulation.frame import EgoPose, StreetFrame
from perception_node.simulation.layout import Actor, Layout
from perception_node.simulation.light import WEATHERS, Light
from perception_node.simulation.mesh import Mesh, join, quad
from perception_node.simulation.raycast import Geometry
from perception_node.simulation.road import Road
from perception_node.simulation.sensor import Sensor
from perception_node.simulation.traffic import Traffic, Wardrobe
from perception_node.taxonomy import Taxonomy, builtin_taxonomy

_WINDOW_M = 40.0
_BEHIND_M, _AHEAD_M = 30.0, 220.0
_GRID = GridOptions()


def default_camera(width: int, height: int) -> Camera:
    """A lens of 56 degrees with a little barrel distortion."""
    focal = 0.94 * width
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    distortion = np.array([-0.12, 0.04, 0.0004, -0.0003, 0.0])
    return Camera(width, height, "plumb_bob", distortion, matrix, np.eye(3), np.zeros((3, 4)), "camera_optical_frame")


class Street:
    """
    Args:
        seed: of all that is random; the same seed gives the same bytes.
        n_frames: of the drive; one that is longer begins with the same frames.
        fps: frames a second.
        camera: any; by default `default_camera` of `size`.
        mounting: by default 1.4 m above the ground and looking down a little, both by the seed.
        weather: one of WEATHERS, by default by the seed.
        size: (width, height) of the default camera's images.
        reach_m: how far ahead there is anything; less is made faster.
        grid: of the true drivable grid: where it is, and from which pixel footprint on ground is too far.

    Raises:
        UserError: an argument is not what it can be, or Embree is not installed.

    Example:
        street = Street(seed=7)
        for frame in street.drive():
            frame.image, frame.class_map, frame.instance_map
    """

    def __init__(
        self,
        seed: int = 0,
        n_frames: int = 300,
        fps: float = 10.0,
        camera: Camera | None = None,
        mounting: Mounting | None = None,
        weather: str | None = None,
        size: tuple[int, int] = (480, 360),
        reach_m: float = _AHEAD_M,
        grid: GridOptions = _GRID,
    ):
        if seed < 0:
            raise UserError(f"seed {seed}: expected: 0 or more")
        if n_frames < 1:
            raise UserError(f"frames {n_frames}: expected: 1 or more")
        if not 0 < fps <= 1000:
            raise UserError(f"fps {fps}: expected: above 0, at most 1000")
        if weather is not None and weather not in WEATHERS:
            raise UserError(f"weather {weather!r}: expected: one of {', '.join(WEATHERS)}")
        self.seed, self.n_frames, self.fps, self._reach_m, self._grid = seed, n_frames, fps, reach_m, grid
        self.taxonomy: Taxonomy = builtin_taxonomy("camvid")
        self._ids = {category.name: category.id for category in self.taxonomy}
        rng = self._rng(0)
        self.weather = weather or str(rng.choice(WEATHERS, p=[0.45, 0.25, 0.12, 0.18]))
        self.light = Light.make(self._rng(1), self.weather)
        self._sensor = Sensor.make(self._rng(2))
        self.camera = camera or default_camera(*size)
        self.mounting = mounting or Mounting.from_angles(
            float(rng.uniform(1.25, 1.6)), float(np.radians(rng.uniform(0.5, 4))), x=1.5
        )
        wardrobe = Wardrobe(self._rng(3), self.light.lamps)
        longest = 13.0 * n_frames / fps
        self._road = Road(self._rng(4), longest + _AHEAD_M + 120)
        self.layout = Layout(seed, self._road, self.light, wardrobe.parked)
        self._traffic = Traffic(self._rng(5), self.layout, wardrobe, n_frames / fps)
        self._wardrobe = wardrobe
        self._window = lru_cache(maxsize=1)(self._build_window)
        self._build = lru_cache(maxsize=1000)(lambda item: item.build())

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1000, *key])

    def __len__(self) -> int:
        return self.n_frames

    def drive(self, n_frames: int | None = None) -> Iterator[StreetFrame]:
        """The first n_frames frames, by default all, in order."""
        for index in range(self.n_frames if n_frames is None else min(n_frames, self.n_frames)):
            yield self.frame(index)

    def frame(self, index: int) -> StreetFrame:
        """Frame `index`, whichever were made before.

        Raises:
            IndexError: it is not in the drive.
        """
        if not 0 <= index < self.n_frames:
            raise IndexError(f"frame {index}: expected: 0 to {self.n_frames - 1}")
        t = index / self.fps
        ego = self.ego_pose(t)
        s = self._traffic.ego.s(t)
        standing, parked, ground, materials = self._window(int(np.floor(s / _WINDOW_M)))
        moving = self._traffic.at(t)
        geometry = self._geometry([("", None)], moving)
        scene = render.Scene([standing, (geometry, materials.of(geometry.mesh))], materials, self.light)
        view = truth.View(self.camera, self._rays[0], self.mounting, ego)
        sub_rays = [lambda chosen, rays=rays: view.to_world(rays[chosen]) for rays in self._rays[1:]]
        light, surface = render.picture(scene, view.origin, view.rays, sub_rays, view.shape, view.pixel)
        exposure = self.light.exposure * (1 + 0.08 * float(np.sin(0.4 * t + self.seed)))
        image = self._sensor.expose(light, exposure, self._rng(6, index))
        class_map, instance_map = scene.labels(surface.part, surface.hits.triangle, self._ids["sky"])
        class_map, instance_map = (labels.reshape(view.shape) for labels in (class_map, instance_map))
        unseen = view.blind.reshape(view.shape)
        class_map[unseen], instance_map[unseen] = 255, 0
        image[unseen] = 0
        confidence = np.where(unseen, 0, 255).astype(np.uint8)
        panoptic = PanopticFrame.from_maps(class_map, instance_map, confidence)
        actors = {actor.id: actor for actor in (*parked, *moving)}
        return StreetFrame(
            index,
            t,
            image,
            panoptic,
            view.depth(surface),
            drivable_area(panoptic, self.taxonomy, margin=0),
            truth.grid(view, scene, ground, actors.values(), self._ids["road"], self._grid),
            truth.objects(view, surface, panoptic, actors, self._ids),
            ego,
            self.camera,
            self.mounting,
        )

    def ego_pose(self, t: float) -> EgoPose:
        """At t seconds."""
        ego, step = self._traffic.ego, 0.05
        poses = [self.layout.pose(ego.s(t + d), ego.lateral(t + d)) for d in (-step, 0, step)]
        (x0, y0, _), (x, y, _), (x1, y1, _) = poses
        heading = float(np.arctan2(y1 - y0, x1 - x0))
        turn_rate = (poses[2][2] - poses[0][2]) / (2 * step)
        return EgoPose(x, y, heading, float(np.hypot(x1 - x0, y1 - y0) / (2 * step)), turn_rate)

    @cached_property
    def _rays(self) -> list[np.ndarray]:
        """Float32 (H * W, 3): optical directions of the pixels' middles, and of other points of theirs."""
        pixels = self.camera.pixel_grid()
        middle = self.camera.rays(pixels).astype(np.float32)
        others = [self.camera.rays(pixels + offset).astype(np.float32) for offset in render.sub_pixels()]
        return [middle] + [np.nan_to_num(np.where(np.isfinite(rays), rays, middle)) for rays in others]

    def _build_window(self, number: int):
        """(what stands with its materials, parked cars, the ground alone, all materials) of a stretch of the road."""
        start, end = number * _WINDOW_M - _BEHIND_M, (number + 1) * _WINDOW_M + self._reach_m
        items = self.layout.near(start, end)
        built = [(item, self._build(item)) for item in items]
        parked = [thing for _, thing in built if isinstance(thing, Actor)]
        stuff = [pair for _, thing in built if not isinstance(thing, Actor) for pair in thing]
        x, y, _ = self.layout.pose((start + end) / 2, 0)
        far = 3000
        corners = [
            (x - far, y - far, -0.02),
            (x + far, y - far, -0.02),
            (x + far, y + far, -0.02),
            (x - far, y + far, -0.02),
        ]
        lawn = quad(corners, self.layout.textures["grass"], (far / 2, far / 2))
        standing = self._geometry([*stuff, ("tree", lawn)], parked)
        floor = [pair for item, thing in built if item.ground for pair in thing]
        ground = self._geometry([*floor, ("tree", lawn)], [])
        textures = dict(standing.mesh.textures)
        for vehicle in self._wardrobe.vehicles:
            textures |= vehicle.mesh.textures
        for person in (*self._wardrobe.pedestrians, *self._wardrobe.cyclists):
            textures |= person.textures
        materials = render.Materials(textures)
        return (standing, materials.of(standing.mesh)), parked, ground, materials

    def _geometry(self, stuff: list[tuple[str, Mesh | None]], actors: list[Actor]) -> Geometry:
        stuff = [(name, mesh) for name, mesh in stuff if mesh is not None]
        mesh = join([mesh for _, mesh in stuff] + [actor.mesh for actor in actors])
        sizes = [len(mesh.corners) for _, mesh in stuff] + [len(actor.mesh.corners) for actor in actors]
        names = [name for name, _ in stuff] + [actor.category for actor in actors]
        instances = [0] * len(stuff) + [actor.id for actor in actors]
        class_ids = np.repeat(np.array([self._ids[name] for name in names], np.uint8), sizes)
        return Geometry(mesh, class_ids, np.repeat(np.array(instances, np.uint16), sizes))
