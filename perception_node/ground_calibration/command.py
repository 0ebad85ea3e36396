"""`perception calibrate ground`: footage, a camera and what was measured in; a mounting file and a picture out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_node.calibration_file import write_whole
from perception_node.camera import Camera
from perception_node.errors import BadImage, SourceError, UserError
from perception_node.ground_calibration.fit import GroundCalibration
from perception_node.ground_calibration.lines import calibrate_from_lines
from perception_node.ground_calibration.picture import draw_ground
from perception_node.ground_calibration.points import calibrate_from_points
from perception_node.image import CameraImage
from perception_node.messages import camera_image
from perception_node.sources import Source, check_outside
from perception_node.topics import CAMERA_INFO, IMAGE

_CAMERA_INFO_WITHIN = 10
"""How many images later a bag's first camera_info may come."""
_ANGLES = ("pitch", "roll", "yaw")


def calibrate_ground(
    source: Source,
    frame: int,
    camera_path: Path | None,
    rectified: bool,
    points: np.ndarray | None,
    lines: Sequence[np.ndarray],
    lane_width_m: float | None,
    known: Mapping[str, float],
    facing: float,
    out: Path,
) -> tuple[GroundCalibration, Path]:
    """Finds the mounting and writes it to `out`, and beside it the picture, whose path is returned.

    Args:
        source: footage.
        frame: which of its images was measured in, from 0.
        camera_path: the camera's file; None takes the camera_info of a bag.
        rectified: the images are rectified.
        points: (n, 4), u, v, x, y, or None.
        lines: each (n, 2), u, v; for the other method.
        lane_width_m, known, facing: see calibrate_from_lines.
        out: the mounting's file.

    Raises:
        UserError: something does not fit; nothing is written then.
    """
    if (points is None) == (not lines):
        raise UserError("points and lines: expected: either of them (--points, --point; --lines, --line)")
    picture_path = out.with_suffix(".png")
    for path in (out, picture_path):
        check_outside(source.path, path)
    image, camera_info = _frame(source, frame)
    if camera_path is not None:
        camera = Camera.from_yaml(camera_path, rectified)
    elif camera_info is not None:
        camera = Camera.from_message(camera_info, rectified)
    else:
        raise UserError(f"{source.path}: holds no camera_info; name the camera's file with --camera")
    camera = camera.scaled_to(image.width, image.height)
    if points is not None:
        result = calibrate_from_points(camera, points[:, :2], points[:, 2:], known)
        shown: dict[str, Any] = {"points": (points[:, :2], points[:, 2:])}
    else:
        result = calibrate_from_lines(camera, lines, lane_width_m, known, facing)
        shown = {"lines": lines}
    picture = draw_ground(image.bgr(), camera, result.mounting, **shown)
    text = "\n".join(["Made by `perception calibrate ground`.", *describe(result)])
    result.mounting.to_yaml(out, text)
    write_whole(picture_path, cv2.imencode(".png", picture)[1].tobytes())
    return result, picture_path


def describe(result: GroundCalibration) -> list[str]:
    """Lines for people: each value, how it came about, and what is left over."""
    x, y, height = result.mounting.translation
    values = {"height": height, "x": x, "y": y} | result.mounting.angles()._asdict()
    said = []
    for name in ("height", *_ANGLES, "x", "y"):
        unit, value = ("deg", np.degrees(values[name])) if name in _ANGLES else ("m", values[name])
        if name in result.sigmas:
            sigma = np.degrees(result.sigmas[name]) if name in _ANGLES else result.sigmas[name]
            how = f"found, +- {sigma:.2g} {unit}"
        else:
            how = "given" if name in result.given else "assumed, not found"
        said.append(f"{name:<7}{value:9.3f} {unit:<4} {how}")
    said.append(f"{result.residuals_px.size} points, {result.rms_px:.2f} pixels off (root mean square)")
    if result.lane_width_m is not None:
        said.append(f"{result.lane_width_m:.3f} m from line to line")
    for index, (px, m) in enumerate(zip(result.residuals_px, result.residuals_m, strict=False), 1):
        said.append(f"  point {index}: {px:.2f} pixels, {m:.3f} m on the ground")
    return said


def as_dict(result: GroundCalibration) -> dict[str, Any]:
    """For JSON: metres and degrees."""
    x, y, height = result.mounting.translation.tolist()
    angles = {f"{name}_deg": float(np.degrees(value)) for name, value in result.mounting.angles()._asdict().items()}
    sigmas = {
        f"{name}_deg" if name in _ANGLES else f"{name}_m": float(np.degrees(sigma)) if name in _ANGLES else sigma
        for name, sigma in result.sigmas.items()
    }
    return {
        "height_m": height,
        **angles,
        "x_m": x,
        "y_m": y,
        "standard_deviations": sigmas,
        "given": list(result.given),
        "assumed": list(result.assumed),
        "rms_px": result.rms_px,
        "residuals_px": result.residuals_px.tolist(),
        "residuals_m": [value if np.isfinite(value) else None for value in result.residuals_m.tolist()],
        "lane_width_m": result.lane_width_m,
    }


def _frame(source: Source, wanted: int) -> tuple[CameraImage, Any]:
    """Its image number `wanted`, and the camera_info nearest before it, or else the first; None if there is none."""
    image, camera_info, n_images = None, None, 0
    for item in source:
        if item.topic == CAMERA_INFO:
            camera_info = item.message
        elif item.topic == IMAGE:
            n_images += 1
            if n_images == wanted + 1:
                try:
                    image = camera_image(item.message)
                except BadImage as error:
                    raise SourceError(f"{source.path}: {item.name}: {error}") from error
        if image is not None and (camera_info is not None or n_images > wanted + _CAMERA_INFO_WITHIN):
            return image, camera_info
    if image is None:
        raise SourceError(f"{source.path}: has no image number {wanted}; it has {n_images}, from 0")
    return image, camera_info
