"""From pixels to metres: the drivable grid, the free space and the pixels' points, on flat ground.

The ground is the plane z = ground_z of the base frame. Which ground a pixel shows depends on the calibration alone and
is kept in tables; a frame then takes a few look-ups a pixel (inverse perspective mapping; Mallot et al. 1991 used it
first for obstacles). The kernels are in ground.cu.

What stands on the ground hides what is behind: of an obstacle's pixels only those at its foot, where the next nearer
ground on the same bearing shows something else, say where it is. Ground that shows above an obstacle is seen again.
Things that hang over the road below the horizon (a crown of leaves, a car's bumper between its wheels) have their foot
where their lower edge covers the ground: farther away than they are, by their height over the camera's.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from math import ceil, hypot, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.camera import Camera
from perception_node.device import Array, Device
from perception_node.errors import BadCalibration, UserError, without_trace
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Taxonomy

KERNEL = Path(__file__).with_suffix(".cu")
NOTHING, GROUND, DRIVABLE, OBSTACLE = range(4)
"""enum Role in ground.cu."""
NO_GROUND, FREE, DOUBTFUL, BLOCKED, FOOT, BODY, HIDDEN = range(7)
"""enum Sight in ground.cu: what a pixel shows."""
OUTSIDE, SKYWARD = -1, -2
GRID = np.dtype(
    [(name, np.float32) for name in ("x", "y", "resolution", "margin")]
    + [(name, np.int32) for name in ("columns", "rows")]
)
"""struct Grid in ground.cu."""
MAX_CELLS = 4_000_000
STEPS_PER_CELL, MAX_STEPS = 10, 4000
"""Of a bearing, where the pixels along it are looked for."""

RANGES = {
    "grid_resolution": (0.01, 10),
    "grid_x_min": (-1000, 1000),
    "grid_x_max": (-1000, 1000),
    "grid_half_width": (0.1, 1000),
    "grid_margin": (0, 10),
    "max_footprint": (0.001, 1000),
    "min_confidence": (0, 1),
    "free_space_bearings": (1, 3600),
    "pitch_sigma": (0, 45),
}
"""Of the options: the least and the most."""


@dataclass(frozen=True, slots=True)
class GridOptions:
    """What of the ground is looked at; the fields are parameters of the node.

    Attributes:
        grid_resolution: side of a cell, metres.
        grid_x_min, grid_x_max: how far the grid reaches ahead in the base frame, metres.
        grid_half_width: how far to either side, metres.
        grid_margin: around the feet of instances, metres: cells whose middle is within it are occupied. Costmaps
            inflate what they get anyway.
        max_footprint: what shows more metres of ground in a pixel is too far.
        min_confidence: 0 to 1; ground of which the network is less sure is unknown.
        free_space_bearings: of the free space.
        pitch_sigma: standard deviation of the camera's pitch as the vehicle moves, degrees.

    Raises:
        UserError: a field is out of range, or there would be too many cells.
    """

    grid_resolution: float = 0.2
    grid_x_min: float = 0.0
    grid_x_max: float = 40.0
    grid_half_width: float = 15.0
    grid_margin: float = 0.0
    max_footprint: float = 2.0
    min_confidence: float = 0.5
    free_space_bearings: int = 181
    pitch_sigma: float = 0.3

    def __post_init__(self):
        for field in fields(self):
            value, (least, most) = getattr(self, field.name), RANGES[field.name]
            if not isfinite(value) or not least <= value <= most:
                raise UserError(f"{field.name} {value}: expected: {least} to {most}")
        if self.grid_x_max - self.grid_x_min < self.grid_resolution:
            raise UserError(
                f"grid_x_max {self.grid_x_max}: expected: more than grid_x_min {self.grid_x_min}, by a cell at least"
            )
        columns, rows = self.shape[::-1]
        if columns * rows > MAX_CELLS:
            raise UserError(
                f"grid_resolution {self.grid_resolution}: {columns} x {rows} cells; expected: at most {MAX_CELLS}; "
                "take larger cells or a smaller grid_x_max, grid_half_width"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, along y, and columns, along x; the last ones may reach beyond what was asked for."""
        # To a millionth of a cell: 0.6 / 0.2 is 3.
        return (
            max(1, ceil(2 * self.grid_half_width / self.grid_resolution - 1e-6)),
            max(1, ceil((self.grid_x_max - self.grid_x_min) / self.grid_resolution - 1e-6)),
        )


@dataclass(frozen=True, slots=True)
class DrivableGrid:
    """What a nav_msgs/OccupancyGrid says.

    Attributes:
        cells: int8 (H, W); rows along y, columns along x: 0 free, 100 occupied, -1 unknown.
        resolution: side of a cell, metres.
        origin_xy: of the outer corner of cell [0, 0] in the base frame, metres.
    """

    cells: np.ndarray
    resolution: float
    origin_xy: tuple[float, float]


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """How far the known free space reaches, as seen from the base frame's origin.

    Attributes:
        angles: float32 (N,), radians, counterclockwise from ahead, in equal steps.
        ranges: float32 (N,), metres from the base frame's origin; NaN where no ground is seen. What lies before the
            first ground that is seen (under the bonnet, below the image) is not judged.
        ends: uint8 (N,), what is there: BLOCKED, FOOT, BODY or HIDDEN; DOUBTFUL, or NO_GROUND at the limit of sight.
        range_max: metres.
    """

    angles: np.ndarray
    ranges: np.ndarray
    ends: np.ndarray
    range_max: float


class Ground:
    """The ground as one camera sees it; for another calibration make another.

    Args:
        device: where the kernels run.
        camera: of the images whose frames come.
        mounting: of the camera.
        taxonomy: of the frames' classes.
        options: what of the ground is looked at.

    Attributes:
        camera, mounting, options: as given.
        ground_xy: float32 (H, W, 2), metres in the base frame: what the middle of each pixel shows; NaN for none.
        feet_xy: float32 (H, W, 2): where an obstacle stands whose lowest pixel this is: half-way to the next
            nearer pixel.
        footprint: float32 (H, W), metres of ground in a pixel, along the longer side; infinite for none.
        pixels_per_radian: in the middle of the image.

    Raises:
        BadCalibration: the camera sees nothing of the grid's ground.

    Example:
        ground = Ground(open_device("cpu"), camera, mounting, model.taxonomy)
        sight = ground(frame, connected_surface(frame, model.taxonomy))
        print(sight.grid.cells)
    """

    def __init__(
        self,
        device: Device,
        camera: Camera,
        mounting: Mounting,
        taxonomy: Taxonomy,
        options: GridOptions = GridOptions(),
    ):
        self.device, self.camera, self.mounting, self.options = device, camera, mounting, options
        directions = camera.rays(camera.pixel_grid()) @ mounting.rotation.T
        ground = self._hit(directions)
        size = camera.height, camera.width
        self.footprint = _footprint(ground.reshape(*size, 2))
        left, right = camera.rays([(camera.width / 2 + step, camera.height / 2) for step in (-1, 1)])
        self.pixels_per_radian = 2 / float(np.linalg.norm(right - left))
        nearer = self._nearer(ground)
        feet = np.full_like(ground, np.nan)
        has_nearer = nearer >= 0
        feet[has_nearer] = self._hit(directions[has_nearer] + directions[nearer[has_nearer]])
        self.ground_xy = ground.reshape(*size, 2).astype(np.float32)
        self.feet_xy = feet.reshape(*size, 2).astype(np.float32)
        seen_by = self._pixels_of(self._cell_middles())
        if not (seen_by >= 0).any():
            raise BadCalibration("pitch", self._why_unseen())
        starts, passed, distances = self._bearings()
        upload = device.upload
        self.nearer, self.seen_by, self.starts, self.passed, self.distances = map(
            upload, (nearer, seen_by, starts, passed, distances)
        )
        self.tables = tuple(map(upload, (self.ground_xy, self.feet_xy, self.footprint)))
        self.roles = upload(_roles(taxonomy))
        self.kernels = device.kernels(KERNEL, RUN=device.pixels_per_thread)

    def __call__(self, frame: PanopticFrame, connected: np.ndarray) -> "GroundSight":
        """What a frame shows of the ground.

        Args:
            frame: of an image of the camera's size.
            connected: uint8 (H, W), not 0 where drivable ground is connected to that ahead; see
                perception_node.drivable.
        """
        return GroundSight(self, frame, connected)

    # ---- the tables ----

    def _hit(self, directions: np.ndarray) -> np.ndarray:
        """float64 (N, 2): where directions (N, 3) from the camera, in the base frame, meet the ground; NaN if never."""
        x, y, _ = self.mounting.translation
        with np.errstate(invalid="ignore", divide="ignore"):
            reach = np.where(directions[:, 2] < 0, self.mounting.height_m / -directions[:, 2], np.nan)
            hit = directions[:, :2] * reach[:, None] + (x, y)
        hit[~(np.abs(hit) < 1e6).all(1)] = np.nan  # as good as the horizon
        return hit

    def _project(self, ground: np.ndarray) -> np.ndarray:
        """float64 (N, 2): the pixels (u, v) that show points (N, 2) of the ground."""
        points = np.column_stack([ground, np.full(len(ground), self.mounting.ground_z)])
        return self.camera.project((points - self.mounting.translation) @ self.mounting.rotation)

    def _nearer(self, ground: np.ndarray) -> np.ndarray:
        """int32 (pixels,): the neighbour towards the camera's own place on the ground, OUTSIDE, or SKYWARD."""
        height, width = self.camera.height, self.camera.width
        shows = np.flatnonzero(np.isfinite(ground).all(1))
        pixels, ground = self.camera.pixel_grid()[shows], ground[shows]
        below_camera = self.mounting.translation[:2]
        with np.errstate(invalid="ignore", divide="ignore"):
            step = self._project(ground + (below_camera - ground) * 1e-3) - pixels
            u, v = np.floor(pixels + step / np.abs(step).max(1, keepdims=True) + 0.5).T
            inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        nearer = np.full(height * width, SKYWARD, np.int32)
        nearer[shows] = OUTSIDE
        neighbour = (v[inside] * width + u[inside]).astype(np.int32)
        nearer[shows[inside]] = np.where(nearer[neighbour] == OUTSIDE, neighbour, OUTSIDE)  # it shows ground, too
        nearer[nearer == np.arange(len(nearer))] = OUTSIDE  # the camera stands on what this pixel shows
        return nearer

    def _pixels_of(self, ground: np.ndarray) -> np.ndarray:
        """int32 (N,): the index of the pixel that shows each point (N, 2) of the ground well enough, or -1."""
        with np.errstate(invalid="ignore"):
            u, v = np.floor(self._project(ground) + 0.5).T
            inside = (u >= 0) & (u < self.camera.width) & (v >= 0) & (v < self.camera.height)
        seen_by = np.full(len(ground), -1, np.int32)
        seen_by[inside] = (v[inside] * self.camera.width + u[inside]).astype(np.int32)
        footprint = self.footprint.reshape(-1)[seen_by]
        seen_by[~(footprint <= self.options.max_footprint)] = -1
        return seen_by

    def _cell_middles(self) -> np.ndarray:
        """float64 (cells, 2)."""
        options = self.options
        rows, columns = options.shape
        x = options.grid_x_min + (np.arange(columns) + 0.5) * options.grid_resolution
        y = -options.grid_half_width + (np.arange(rows) + 0.5) * options.grid_resolution
        return np.stack(np.meshgrid(x, y), 2).reshape(-1, 2)

    def _bearings(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pixels along each bearing from the base frame's origin, as far as the ground is seen without a gap.

        Returns:
            int32 (N + 1,), where those of a bearing begin; int32 (M,), pixels from near to far; float32 (M + N,), where
            the bearing enters each of them and, last, where it leaves the last.
        """
        options = self.options
        self.range_max = max(hypot(x, options.grid_half_width) for x in (options.grid_x_min, options.grid_x_max))
        steps = min(MAX_STEPS, ceil(self.range_max / options.grid_resolution * STEPS_PER_CELL))
        reach = (np.arange(steps) + 0.5) * (self.range_max / steps)
        usable = self.ground_xy[self.footprint <= options.max_footprint]
        usable = usable[np.hypot(*usable.T) <= self.range_max]
        bearing = np.arctan2(usable[:, 1], usable[:, 0])
        # Around their mean direction, which may be behind; 0 for a camera that sees all around.
        east, north = np.cos(bearing).sum(), np.sin(bearing).sum()
        middle = np.arctan2(north, east) if hypot(east, north) > 0.01 * bearing.size else 0.0
        aside = np.arctan2(np.sin(bearing - middle), np.cos(bearing - middle))
        least, most = middle + aside.min(initial=0), middle + aside.max(initial=0)
        self.angles = np.linspace(least, most, options.free_space_bearings)
        starts, passed, distances = [0], [], []
        for angle in self.angles:
            pixels = self._pixels_of(reach[:, None] * (np.cos(angle), np.sin(angle)))
            seen = np.flatnonzero(pixels >= 0)
            if seen.size:
                gap = np.flatnonzero(pixels[seen[0] :] < 0)
                end = seen[0] + gap[0] if gap.size else steps
                pixels = pixels[seen[0] : end]
                enters = np.flatnonzero(np.r_[True, pixels[1:] != pixels[:-1]])
                passed.append(pixels[enters])
                distances.append((np.r_[enters, len(pixels)] + seen[0]) * (self.range_max / steps))
            else:
                distances.append([0.0])
            starts.append(starts[-1] + (len(passed[-1]) if seen.size else 0))
        empty = np.zeros(0, np.int32)
        return np.int32(starts), np.concatenate([empty, *passed]), np.concatenate(distances).astype(np.float32)

    def _why_unseen(self) -> str:
        options, angles = self.options, np.degrees(self.mounting.angles())
        return (
            f"{angles[0]:.1f} degrees (positive looks down; roll {angles[1]:.1f}, yaw {angles[2]:.1f}, "
            f"{self.mounting.height_m:.2f} m above the ground): the camera sees no ground within {options.grid_x_min} "
            f"to {options.grid_x_max} m ahead, {options.grid_half_width} m to the sides, at {options.max_footprint} m "
            "a pixel at most; expected: a mounting that looks at the ground, or a larger grid"
        )


class Grounds:
    """The ground as a camera sees it, made when it is first wanted and anew when the calibration changes.

    Args:
        device: where the kernels run. One of its own, where several threads work: a device takes one at a time.
        taxonomy: of the frames' classes.
        options: what of the ground is looked at.
        base_frame: of the mounting; the frame_id of all in metres.

    Attributes:
        problem: why there is none for the last calibration; None if there is one.
    """

    def __init__(self, device: Device, taxonomy: Taxonomy, options: GridOptions, base_frame: str):
        self.base_frame = base_frame
        self.problem: BadCalibration | None = None
        self._arguments = device, taxonomy, options
        self._calibration: tuple[Camera, Mounting] | None = None
        self._ground: Ground | None = None

    def __call__(self, calibration: tuple[Camera, Mounting]) -> Ground | None:
        """None if the camera sees no ground; `problem` says why."""
        if calibration is not self._calibration:
            device, taxonomy, options = self._arguments
            self._calibration, self._ground, self.problem = calibration, None, None
            try:
                self._ground = Ground(device, *calibration, taxonomy, options)
            except BadCalibration as error:
                self.problem = without_trace(error)
        return self._ground


class GroundSight:
    """What one frame shows of the ground; what is asked for is computed then.

    Attributes:
        ground: of the camera.
    """

    def __init__(self, ground: Ground, frame: PanopticFrame, connected: np.ndarray):
        camera = ground.camera
        if frame.class_map.shape != (camera.height, camera.width):
            height, width = frame.class_map.shape
            raise ValueError(f"frame of {width}x{height}; expected: {camera.width}x{camera.height}, the camera's")
        self.ground, self._device, self._pixels = ground, ground.device, frame.class_map.size
        upload = ground.device.upload
        self._ids = upload(frame.instance_map)
        maps = upload(frame.class_map), self._ids, upload(frame.confidence), upload(connected)
        self._sights = self._device.empty(frame.class_map.shape, np.uint8)
        least_confidence = ceil(ground.options.min_confidence * 255)
        limit = ground.tables[2], float(ground.options.max_footprint)
        arguments = *maps, ground.roles, least_confidence, ground.nearer, *limit, self._sights
        self._start("look", self._pixels, *arguments)

    def _start(self, kernel: str, items: int, *arguments: Any) -> None:
        threads = -(-items // self._device.pixels_per_thread)
        self.ground.kernels.each(kernel, threads, items, *arguments)

    @cached_property
    def sights(self) -> np.ndarray:
        """uint8 (H, W): what each pixel shows, from NO_GROUND to HIDDEN."""
        return self._device.download(self._sights)

    @cached_property
    def grid(self) -> DrivableGrid:
        ground, options = self.ground, self.ground.options
        _, feet, footprint = ground.tables
        rows, columns = options.shape
        cells = self._device.empty((rows, columns), np.int8)
        origin = options.grid_x_min, -options.grid_half_width
        shape = np.array((*origin, options.grid_resolution, options.grid_margin, columns, rows), GRID)
        self._start("fill_cells", rows * columns, ground.seen_by, self._sights, cells)
        arguments = self._sights, self._ids, feet, footprint, float(options.max_footprint), shape, ground.seen_by, cells
        self._start("mark_feet", self._pixels, *arguments)
        return DrivableGrid(self._device.download(cells), options.grid_resolution, origin)

    @cached_property
    def free_space(self) -> FreeSpace:
        ground, bearings = self.ground, len(self.ground.angles)
        ranges, ends = (self._device.empty(bearings, dtype) for dtype in (np.float32, np.uint8))
        tables = ground.starts, ground.passed, ground.distances
        ground.kernels.each("march", bearings, bearings, *tables, self._sights, ranges, ends)
        download = self._device.download
        return FreeSpace(ground.angles.astype(np.float32), download(ranges), download(ends), ground.range_max)

    @cached_property
    def points(self) -> np.ndarray:
        """float32 (H, W, 3), metres in the base frame: the ground that each pixel shows, NaN where it shows none.

        Of an obstacle only the foot has a point: what is above it would lie behind, on ground that it hides.
        """
        points: Array = self._device.empty((*self._sights.shape, 3), np.float32)
        limit, ground_z = float(self.ground.options.max_footprint), float(self.ground.mounting.ground_z)
        arguments = self._sights, *self.ground.tables, limit, ground_z, points
        self._start("place_points", self._pixels, *arguments)
        return self._device.download(points)


def _footprint(ground: np.ndarray) -> np.ndarray:
    """float32 (H, W): the longest extent on the ground (H, W, 2) of a circle one pixel across; infinite where none."""
    # The larger singular value of the derivative by u and v.
    derivatives = [
        np.gradient(ground, axis=axis) if ground.shape[axis] > 1 else np.zeros_like(ground) for axis in (1, 0)
    ]
    (a, b), (c, d) = (np.moveaxis(derivative, 2, 0) for derivative in derivatives)
    total, product = a * a + b * b + c * c + d * d, (a * d - b * c) ** 2
    with np.errstate(invalid="ignore"):
        largest = np.sqrt((total + np.sqrt(np.maximum(total * total - 4 * product, 0))) / 2)
    return np.where(np.isfinite(largest), largest, np.inf).astype(np.float32)


def _roles(taxonomy: Taxonomy) -> np.ndarray:
    """uint8 (256,): of every possible class map value."""
    roles = np.full(256, NOTHING, np.uint8)
    for name, role in (("is_obstacle", OBSTACLE), ("ground", GROUND), ("drivable", DRIVABLE)):
        roles[taxonomy.table(name)] = role
    return roles
