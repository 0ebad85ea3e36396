"""A picture to check a mounting by eye: a grid of metres on the ground, the horizon, and what was measured."""

from collections.abc import Sequence

import cv2
import numpy as np

from perception_node.camera import Camera
from perception_node.mounting import Mounting

_GRID, _GRID_5, _AXIS, _HORIZON = (170, 170, 170), (255, 255, 255), (80, 220, 80), (60, 60, 255)
_MEASURED, _EXPECTED = (0, 200, 255), (255, 60, 255)
_FAR_M = (15, 20, 25, 30, 40, 50, 75, 100)
_LABELLED_M = (3, 5, 10, 15, 20, 30, 50)
_ASIDE_M = 10
_SHIFT = 4


def draw_ground(
    image: np.ndarray,
    camera: Camera,
    mounting: Mounting,
    points: tuple[np.ndarray, np.ndarray] | None = None,
    lines: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """The image with the ground drawn over it.

    Args:
        image: uint8 (H, W, 3) BGR.
        camera, mounting: as calibrated.
        points: (n, 2) pixels that were measured, and (n, 2) their places on the ground, metres.
        lines: each (n, 2), pixels on a line.

    Returns:
        uint8 (H, W, 3) BGR. Grey and white: every metre to 10 m from the camera, then some farther ones, as
        labelled; green: the base frame's x axis; red: the horizon; yellow: what was measured; pink: where the mounting
        has it.
    """
    canvas = image.copy()
    ahead = camera.rays(np.array([[camera.width / 2, camera.height / 2]]))[0] @ mounting.rotation.T
    # A camera that looks back or aside has the grid there: `forward` is the base frame's axis that it looks along.
    turn = np.round(np.arctan2(ahead[1], ahead[0]) / (np.pi / 2)) * np.pi / 2
    axes = np.round([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    foot_forward, foot_left = np.round(axes @ mounting.translation[:2])

    def seen(forward: np.ndarray | float, left: np.ndarray | float) -> np.ndarray:
        """Pixels of places on the ground, metres along these axes from the base frame's origin."""
        xy = np.stack(np.broadcast_arrays(forward, left), 1) @ axes
        return _project(camera, mounting, np.column_stack([xy, np.zeros(len(xy))]))

    metres = [*range(int(foot_forward), int(foot_forward) + 11), *_FAR_M]
    along = foot_forward + np.geomspace(0.2, _FAR_M[-1], 300)
    for left in range(int(foot_left) - _ASIDE_M, int(foot_left) + _ASIDE_M + 1):
        _curve(canvas, seen(along, left), _GRID_5 if left % 5 == 0 else _GRID)
    across = foot_left + np.linspace(-_ASIDE_M, _ASIDE_M, 200)
    for forward in metres:
        _curve(canvas, seen(forward, across), _GRID_5 if forward % 5 == 0 else _GRID)
    for forward in metres:
        if forward in _LABELLED_M and forward > foot_forward:
            _label(canvas, seen(np.array([forward]), foot_left)[0], f"{forward} m")
    axis = np.column_stack([np.geomspace(0.1, _FAR_M[-1], 300), np.zeros((300, 2))])
    _curve(canvas, _project(camera, mounting, axis), _AXIS, 2)
    around = np.linspace(0, 2 * np.pi, 1441)
    level = np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], 1)
    _curve(canvas, camera.project(level @ mounting.rotation), _HORIZON)

    for line in lines:
        _marks(canvas, line, _MEASURED)
        # Straight on the ground through its ends, and on a little, as far as that is below the horizon.
        first, last = camera.rays(line[[0, -1]]) @ mounting.rotation.T
        steps = np.linspace(-0.3, 1.3, 200)[:, None]
        directions = (1 - steps) * first + steps * last
        directions[directions[:, 2] > 0] = np.nan
        _curve(canvas, camera.project(directions @ mounting.rotation), _MEASURED)
    if points is not None:
        pixels, places = points
        expected = _project(camera, mounting, np.column_stack([places, np.zeros(len(places))]))
        for measured, should_be in zip(pixels, expected, strict=True):
            _curve(canvas, np.stack([measured, should_be]), _EXPECTED, 1)
        _marks(canvas, expected, _EXPECTED, cv2.MARKER_TILTED_CROSS)
        _marks(canvas, pixels, _MEASURED)
    return canvas


def _project(camera: Camera, mounting: Mounting, places: np.ndarray) -> np.ndarray:
    return camera.project((places - mounting.translation) @ mounting.rotation)


def _curve(canvas: np.ndarray, pixels: np.ndarray, color: tuple[int, int, int], thickness: int = 1) -> None:
    """A polyline, broken where its points are not seen."""
    height, width = canvas.shape[:2]
    # Far outside of the image OpenCV's integers end.
    near = (np.abs(pixels - [width / 2, height / 2]) < 4 * max(height, width)).all(1)
    fixed = np.where(near[:, None], np.round(pixels * 2**_SHIFT), 0).astype(np.int32)
    for start, end in zip(np.flatnonzero(near[:-1] & near[1:]), np.flatnonzero(near[:-1] & near[1:]) + 1, strict=True):
        cv2.line(canvas, fixed[start].tolist(), fixed[end].tolist(), color, thickness, cv2.LINE_AA, _SHIFT)


def _marks(canvas: np.ndarray, pixels: np.ndarray, color: tuple[int, int, int], shape: int = cv2.MARKER_CROSS) -> None:
    for pixel in pixels[np.isfinite(pixels).all(1)]:
        cv2.drawMarker(canvas, np.round(pixel).astype(int).tolist(), color, shape, 13, 2, cv2.LINE_AA)


def _label(canvas: np.ndarray, pixel: np.ndarray, text: str) -> None:
    height, width = canvas.shape[:2]
    if np.isfinite(pixel).all() and (pixel >= 0).all() and (pixel < [width, height]).all():
        place = np.round(pixel + np.array([4, -4])).astype(int).tolist()
        for color, thickness in (((0, 0, 0), 3), (_GRID_5, 1)):
            cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, thickness, cv2.LINE_AA)
