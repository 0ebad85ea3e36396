"""What ground.cu computes, in plain loops over the tables of perception_node.ground."""

import numpy as np

from perception_node.ground import BLOCKED, BODY, DOUBTFUL, FOOT, FREE, HIDDEN, NO_GROUND, OUTSIDE, SKYWARD, Ground
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Taxonomy


def look(ground: Ground, frame: PanopticFrame, connected: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """uint8 (H, W), as GroundSight.sights."""
    classes, ids, nearer = frame.class_map.ravel(), frame.instance_map.ravel(), np.asarray(ground.nearer)

    def category(pixel):
        return None if classes[pixel] == UNLABELLED else taxonomy[classes[pixel]]

    def is_obstacle(pixel):
        return ids[pixel] > 0 or (category(pixel) is not None and category(pixel).is_obstacle)

    def sight(pixel):
        below = nearer[pixel]
        if is_obstacle(pixel):
            if below == SKYWARD:
                return BODY
            if below == OUTSIDE:
                return HIDDEN if ids[pixel] else BODY
            if is_obstacle(below):
                return HIDDEN if ids[pixel] and ids[below] != ids[pixel] else BODY
            return BODY if category(below) is not None and category(below).sky else FOOT
        known = category(pixel)
        if known is None or known.sky or below == SKYWARD:
            return NO_GROUND
        if ground.footprint.ravel()[pixel] > ground.options.max_footprint:
            return NO_GROUND
        if frame.confidence.ravel()[pixel] < ground.options.min_confidence * 255:
            return DOUBTFUL
        if not known.drivable:
            return BLOCKED
        return FREE if connected.ravel()[pixel] else DOUBTFUL

    return np.array([sight(pixel) for pixel in range(classes.size)], np.uint8).reshape(frame.class_map.shape)


def grid(ground: Ground, frame: PanopticFrame, sights: np.ndarray) -> np.ndarray:
    """int8 (H, W), as DrivableGrid.cells."""
    options, seen_by = ground.options, np.asarray(ground.seen_by)
    rows, columns = options.shape
    values = {FREE: 0, BLOCKED: 100, FOOT: 100}
    cells = np.array([-1 if pixel < 0 else values.get(sights.ravel()[pixel], -1) for pixel in seen_by], np.int8)
    cells = cells.reshape(rows, columns)
    filled = cells.copy()
    seen_free = (seen_by >= 0) & (sights.ravel()[seen_by] == FREE)
    seen_other = ((seen_by >= 0) & ~seen_free).reshape(rows, columns)
    one = np.float32(1)
    y, x = np.mgrid[:rows, :columns].astype(np.float32) + one / 2
    for pixel in np.flatnonzero((sights.ravel() == FOOT) & (ground.footprint.ravel() <= options.max_footprint)):
        corner = np.float32([options.grid_x_min, -options.grid_half_width])
        resolution = np.float32(options.grid_resolution)
        column, row = (ground.feet_xy.reshape(-1, 2)[pixel] - corner) / resolution
        around = (np.abs(x - column) <= 1) & (np.abs(y - row) <= 1)
        # Of two middles that are as far on either side, the upper right ones are left out.
        around &= (x - column < 1) | (x - column == 1) & (column % one != one / 2)
        around &= (y - row < 1) | (y - row == 1) & (row % one != one / 2)
        around &= seen_other
        cells[around] = 100
        if not around.any() and 0 <= column < columns and 0 <= row < rows:
            cells[int(row), int(column)] = 100
        reach = np.float32(options.grid_margin) / resolution
        if frame.instance_map.ravel()[pixel] and reach > 0:
            cells[((x - column) ** 2 + (y - row) ** 2 <= reach**2) & (filled == 0)] = 100
    return cells


def free_space(ground: Ground, sights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges and ends, as those of FreeSpace."""
    starts, passed, distances = (np.asarray(table) for table in (ground.starts, ground.passed, ground.distances))
    ranges, ends = [], []
    for bearing, begin in enumerate(starts[:-1]):
        seen = [sights.ravel()[pixel] for pixel in passed[begin : starts[bearing + 1]]]
        stop = next((i for i, sight in enumerate(seen) if sight != FREE), len(seen))
        ranges.append(distances[begin + bearing + stop] if seen else np.nan)
        ends.append(seen[stop] if stop < len(seen) else NO_GROUND)
    return np.float32(ranges), np.uint8(ends)


def points(ground: Ground, sights: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3), as GroundSight.points."""
    found = np.full((*sights.shape, 3), np.nan, np.float32)
    for place in np.argwhere(np.isin(sights, (FREE, DOUBTFUL, BLOCKED))):
        found[tuple(place)] = [*ground.ground_xy[tuple(place)], ground.mounting.ground_z]
    for place in np.argwhere((sights == FOOT) & (ground.footprint <= ground.options.max_footprint)):
        found[tuple(place)] = [*ground.feet_xy[tuple(place)], ground.mounting.ground_z]
    return found
