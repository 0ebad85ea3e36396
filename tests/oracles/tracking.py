"""What the kernels of tracking do with instance maps, pixel by pixel."""

import numpy as np


def joint_histogram(
    before: np.ndarray, row_of: np.ndarray, motions: np.ndarray, now: np.ndarray, column_of: np.ndarray, n_columns: int
) -> np.ndarray:
    """As InstanceMaps.joint_histogram."""
    height, width = now.shape
    counts = np.zeros((len(motions), n_columns), np.uint32)
    for y, x in np.argwhere(row_of[before] > 0).tolist():
        row = int(row_of[before[y, x]]) - 1
        motion = {name: int(motions[name][row]) for name in motions.dtype.names}
        moved_x = (motion["scale_x"] * x + motion["offset_x"]) // 65536
        moved_y = (motion["scale_y"] * y + motion["offset_y"]) // 65536
        if 0 <= moved_x < width and 0 <= moved_y < height:
            counts[row, column_of[now[moved_y, moved_x]]] += 1
    return counts


def relabel(
    instance_map: np.ndarray, class_map: np.ndarray, id_of: np.ndarray, class_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As InstanceMaps.relabel."""
    return id_of[instance_map], np.where(instance_map > 0, class_of[instance_map], class_map)
