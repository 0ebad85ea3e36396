"""Measures on the ground plane, in metres: free cells of the drivable grid, and the distance of objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_node.metrics.pixels import BinaryCounts

UNKNOWN, FREE = -1, 0
GRID_DISTANCE_M = 30.0


@dataclass(frozen=True, slots=True)
class Grid:
    """An occupancy grid in the base frame, x ahead and y to the left.

    Attributes:
        cells: int8 (H, W), rows along y, columns along x; 0 free, 1..100 not free, -1 unknown.
        resolution: metres a cell.
        origin_xy: the corner of cell (0, 0) with the least x and y, in metres.
    """

    cells: np.ndarray
    resolution: float
    origin_xy: tuple[float, float]

    def centers(self) -> tuple[np.ndarray, np.ndarray]:
        """x (1, W) and y (H, 1) of the cells' middles."""
        rows, columns = self.cells.shape
        x = self.origin_xy[0] + (np.arange(columns) + 0.5) * self.resolution
        y = self.origin_xy[1] + (np.arange(rows) + 0.5) * self.resolution
        return x[None], y[:, None]

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The cells that the points are in, UNKNOWN outside of the grid; x and y are broadcast together."""
        column = np.floor((x - self.origin_xy[0]) / self.resolution).astype(int)
        row = np.floor((y - self.origin_xy[1]) / self.resolution).astype(int)
        rows, columns = self.cells.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return np.where(inside, self.cells[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)], UNKNOWN)


def free_cells(truth: Grid, predicted: Grid, distance_m: float) -> BinaryCounts:
    """Free or not, of the truth's known cells whose middles are at most `distance_m` from the base frame's origin.

    The prediction is looked up at these middles; cells that it does not know are not free.
    """
    x, y = truth.centers()
    known = (truth.cells != UNKNOWN) & (np.hypot(x, y) <= distance_m)
    return BinaryCounts.of(truth.cells == FREE, predicted.at(x, y) == FREE, known)


def distance_summary(relative_errors: Sequence[float]) -> dict[str, Any]:
    """objects, how many; of |predicted - true| / true their median, 90th percentile and mean, None without objects."""
    errors = np.asarray(relative_errors, np.float64)
    if not errors.size:
        return {"objects": 0, "median": None, "p90": None, "mean": None}
    median, p90 = np.percentile(errors, [50, 90])
    return {"objects": errors.size, "median": float(median), "p90": float(p90), "mean": float(errors.mean())}
