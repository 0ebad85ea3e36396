"""How right the node was, where the footage is a bag that knows: measures, and a picture of both side by side."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_node.bags import is_bag, open_bag
from perception_node.evaluate import evaluate
from perception_node.evaluate.bags import TRUTH, pair_bags
from perception_node.evaluate.report import compare
from perception_node.metrics import FrameLabels

N_FRAMES = 4
GRID_COLORS = {0: (120, 190, 120), 100: (70, 70, 190), -1: (225, 225, 225)}
"""BGR by the cell's value."""
_GAP = 4


def knows_the_truth(source: Path) -> bool:
    """Whether it is a bag with what `perception evaluate` needs."""
    if not is_bag(source):
        return False
    with open_bag(source) as bag:
        return {f"{TRUTH}/class_map", f"{TRUTH}/instance_map", f"{TRUTH}/label_info"} <= bag.topics.keys()


def measure_against(bag: Path, truth: Path, picture: Path) -> dict[str, Any]:
    """The measures of the demo's bag, and a picture of some frames, spread over the drive.

    Args:
        bag: with the node's topics.
        truth: a bag with /truth/...
        picture: JPEG file to write: the image, the truth, what the node saw, and both drivable grids from above.

    Returns:
        The main ones of perception_node.evaluate's figures; None for what neither bag has.
    """
    pairs = pair_bags(bag, truth, None, None)
    wanted = set(np.linspace(0, pairs.n_frames - 1, min(N_FRAMES, pairs.n_frames)).astype(int))
    rows = []
    for index, pair in enumerate(pairs.frames()):
        if index in wanted:
            seen = compare(pair, pairs.taxonomy)
            grids = [from_above(side.read(), seen.shape[0]) for side in (pair.truth, pair.predicted)]
            rows.append(np.hstack([seen, *grids]))
    cv2.imwrite(str(picture), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])
    summary = evaluate(bag, truth)
    return {
        "frames": summary["frames"],
        **{key: summary[key] for key in ("pq", "pq_things", "pq_stuff", "miou")},
        "drivable_iou": summary.get("drivable", {}).get("iou"),
        "grid_iou": summary.get("grid", {}).get("iou"),
        "distance_error": summary.get("distance", {}).get("median"),
    }


def from_above(labels: FrameLabels, height: int) -> np.ndarray:
    """The drivable grid as uint8 (height, height * 3 // 4, 3) BGR, ahead at the top; gray where there is none."""
    width = height * 3 // 4
    panel = np.full((height, width + _GAP, 3), 255, np.uint8)
    panel[:, _GAP:] = GRID_COLORS[-1]
    if labels.grid is not None:
        cells = labels.grid.cells.T[::-1, ::-1]  # x up, y to the left
        colors = np.zeros((*cells.shape, 3), np.uint8)
        for value, color in GRID_COLORS.items():
            colors[cells == value] = color
        panel[:, _GAP:] = cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)
    return panel


def lines(truth: dict[str, Any]) -> list[str]:
    """The figures for a terminal."""
    rates = {"PQ": "pq", "things": "pq_things", "stuff": "pq_stuff", "mIoU": "miou"}
    parts = [", ".join(f"{name} {_shown(truth[key])}" for name, key in rates.items())]
    parts.append(f"drivable area IoU {_shown(truth['drivable_iou'])}, free cells IoU {_shown(truth['grid_iou'])}")
    error = truth["distance_error"]
    parts[-1] += f", distance error {'-' if error is None else f'{error:.1%}'} (median)"
    return [f"against the truth of {truth['frames']} frames: {parts[0]}", f"  {parts[1]}"]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
