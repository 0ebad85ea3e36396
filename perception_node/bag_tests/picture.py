"""A picture of a frame that is not as it was: its golden class map, that of now, and in red where any map differs."""

from pathlib import Path

import cv2
import numpy as np

from perception_node.bag_tests.differences import values_of
from perception_node.bag_tests.golden import FrameDifferences
from perception_node.bag_tests.results import ResultFrame
from perception_node.coco import save_png
from perception_node.errors import BadImage

MAPS = ("class_map", "instance_map", "confidence", "drivable_area")
RED_BGR = (40, 40, 255)
_TEXT_BGR, _TEXT_HEIGHT = (255, 255, 255), 24
_LEAST_HEIGHT = 240
_FEW = 200
"""So many pixels or fewer could be overlooked: a ring is drawn around them."""


def draw_differences(frame: FrameDifferences, colors_bgr: np.ndarray, folder: Path) -> list[str]:
    """Writes FOLDER/frame_000012.png if the frame is in both bags and a map differs.

    Args:
        colors_bgr: uint8 (256, 3), of the class map's values.

    Returns:
        The picture's path, or nothing.
    """
    if frame.golden is None or frame.actual is None:
        return []
    try:
        golden, actual = _maps(frame.golden), _maps(frame.actual)
    except BadImage:
        return []
    if golden["class_map"].shape != actual["class_map"].shape:
        return []
    differs = np.zeros(golden["class_map"].shape, bool)
    for name in golden.keys() & actual.keys():
        if golden[name].shape == actual[name].shape == differs.shape:
            differs |= golden[name] != actual[name]
    if not differs.any():
        return []
    panels = [_classes(maps, colors_bgr) for maps in (golden, actual)]
    grey = cv2.cvtColor(cv2.cvtColor(panels[1], cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) // 3
    panels.append(np.where(differs[..., None], np.uint8(RED_BGR), grey))
    scale = max(1, -(-_LEAST_HEIGHT // differs.shape[0]))
    panels = [np.repeat(np.repeat(panel, scale, axis=0), scale, axis=1) for panel in panels]
    if np.count_nonzero(differs) <= _FEW:
        ys, xs = (np.append(places, places.max() + 1) * scale for places in np.nonzero(differs))
        radius = round(np.hypot(np.ptp(xs), np.ptp(ys)) / 2) + 10
        cv2.circle(panels[2], (int(np.ptp(xs) / 2 + xs.min()), int(np.ptp(ys) / 2 + ys.min())), radius, RED_BGR, 2)
    titles = ("golden", "now", f"{np.count_nonzero(differs)} pixels differ")
    path = folder / f"frame_{frame.golden.index:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, np.hstack([_titled(panel, title) for panel, title in zip(panels, titles, strict=True)]))
    return [str(path)]


def _maps(frame: ResultFrame) -> dict[str, np.ndarray]:
    return {name: values_of(frame[name]) for name in MAPS if name in frame}


def _classes(maps: dict[str, np.ndarray], colors_bgr: np.ndarray) -> np.ndarray:
    """The class map in colours, instances with white edges."""
    picture = colors_bgr[maps["class_map"]]
    ids = maps.get("instance_map")
    if ids is not None and ids.shape == picture.shape[:2]:
        edge = np.zeros(ids.shape, bool)
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        edge[1:] |= ids[1:] != ids[:-1]
        picture[edge & (ids > 0)] = _TEXT_BGR
    return picture


def _titled(panel: np.ndarray, title: str) -> np.ndarray:
    bar = np.zeros((_TEXT_HEIGHT, panel.shape[1], 3), np.uint8)
    cv2.putText(bar, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TEXT_BGR, 1, cv2.LINE_AA)
    return np.vstack([bar, panel])
