"""A camera's mounting from lines on the ground that are straight and parallel to the vehicle: lane markings, kerbs.

They meet in a vanishing point, which is where the vehicle heads (Caprile and Torre 1990). That gives pitch and yaw,
once the roll is known, and nothing of x and y. Roll and height show in the slopes of the lines, together with one
unknown more, where the camera is across them; so it depends on what else is known:

    two lines                       pitch, yaw; the height must be given, the roll is assumed 0
    two, and how far apart          pitch, yaw, height; the roll is assumed 0
    two, and how far apart, height  pitch, yaw, roll, unless the lines lie alike to the left and right of the camera
    three or more, and how far      pitch, yaw, height, roll
"""

from collections.abc import Mapping, Sequence

import numpy as np

from perception_node.camera import Camera
from perception_node.errors import BadCalibration
from perception_node.ground_calibration.fit import (
    POSE,
    GroundCalibration,
    check_determined,
    check_fit,
    checked_known,
    covariance,
    least_squares,
    mounting_of,
    pixels_per_radian,
    rays_of,
    sigmas_of,
)
from perception_node.mounting import BODY_FROM_OPTICAL, Angles, Mounting

_MAX_ROLL_SIGMA = np.radians(0.5)
"""What one pixel of error may do to the roll; where it does more, 0 is nearer to the truth."""


def calibrate_from_lines(
    camera: Camera,
    lines: Sequence[np.ndarray],
    lane_width_m: float | None = None,
    known: Mapping[str, float] | None = None,
    facing: float = 0.0,
) -> GroundCalibration:
    """The mounting from lines; see the module.

    Args:
        camera: of the image.
        lines: two or more, each (n, 2), n >= 2, pixels (u, v) on it; in any order.
        lane_width_m: how far each is from the next, if that is known.
        known: values of names in POSE that need not be found; x, y and, where it cannot be found, roll are 0 otherwise.
        facing: roughly where the camera looks, radians: 0 ahead, positive to the left. (Lines have no direction.)

    Raises:
        BadCalibration: the lines do not determine what is to be found, or do not fit.
    """
    known = checked_known(known)
    if lane_width_m is not None and not 0 < lane_width_m < np.inf:
        raise BadCalibration("lane width", f"{lane_width_m}; expected: metres, above 0")
    lines = [np.asarray(line, np.float64).reshape(-1, 2) for line in lines]
    if len(lines) < 2 or min(map(len, lines)) < 2:
        counts = ", ".join(str(len(line)) for line in lines) or "none"
        raise BadCalibration(
            "lines", f"{len(lines)} lines ({counts} points); expected: at least 2, of 2 points or more"
        )
    if lane_width_m is None and "height" not in known:
        raise BadCalibration("lines", "they show no lengths; expected: the lane width, or the height of the camera")
    rays = [rays_of(camera, line, f"line {index + 1}, point") for index, line in enumerate(lines)]
    assumed = [name for name in ("x", "y") if name not in known]
    if "roll" not in known:
        if lane_width_m is not None and (len(rays) > 2 or "height" in known):
            try:
                return _fit(camera, rays, lane_width_m, known, assumed, facing)
            except _RollUndetermined:
                pass
        assumed.append("roll")
    return _fit(camera, rays, lane_width_m, known, assumed, facing)


class _RollUndetermined(Exception):
    pass


def _fit(
    camera: Camera,
    rays: list[np.ndarray],
    lane_width_m: float | None,
    known: Mapping[str, float],
    assumed: Sequence[str],
    facing: float,
) -> GroundCalibration:
    fixed = dict(known) | dict.fromkeys(assumed, 0.0)
    angles = _angles(rays, fixed, facing)
    across, rays = _side_by_side(rays, angles)
    # The search starts where all but the roll is right already.
    if lane_width_m is None:
        height = fixed["height"]
        places, place_names = across * height, [f"place of line {index + 1}" for index in range(len(rays))]
    else:
        height = fixed.get("height", lane_width_m / float(np.diff(across).mean()))
        places, place_names = across[:1] * height, ["place of the lines"]
    pose = [name for name in POSE if name not in fixed]
    start = angles._asdict() | {"height": height}
    focal = pixels_per_radian(camera)

    def apart(values: np.ndarray) -> np.ndarray:
        """How far each ray is from the plane of its line and the camera, in pixels of the image's middle."""
        mounting = mounting_of(pose, values[: len(pose)], fixed)
        y = values[len(pose) :]
        if lane_width_m is not None:
            y = y[0] + lane_width_m * np.arange(len(rays))
        normals = np.stack([np.zeros_like(y), np.full_like(y, mounting.height_m), y], 1) / np.hypot(
            mounting.height_m, y
        ).reshape(-1, 1)
        errors = [line @ mounting.rotation.T @ normal for line, normal in zip(rays, normals, strict=True)]
        return focal * np.concatenate(errors)

    values, jacobian = least_squares(apart, np.array([*(start[name] for name in pose), *places]))
    if "roll" in pose and not covariance(jacobian)[pose.index("roll")][pose.index("roll")] < _MAX_ROLL_SIGMA**2:
        raise _RollUndetermined
    mounting = mounting_of(pose, values[: len(pose)], fixed)
    residuals = np.abs(apart(values))
    unknown = [*pose, *place_names]
    check_fit("lines", camera, residuals, "straight parallel lines on flat ground, each the lane width from the next")
    check_determined("lines", unknown, jacobian, mounting.height_m)
    sigmas = sigmas_of(unknown, jacobian, residuals, residuals.size)
    return GroundCalibration(
        mounting,
        {name: sigmas[name] for name in pose},
        tuple(known),
        tuple(assumed),
        residuals,
        np.empty(0),
        lane_width_m or float(np.diff(values[len(pose) :]).mean()),
    )


def _angles(rays: list[np.ndarray], fixed: Mapping[str, float], facing: float) -> Angles:
    """Pitch and yaw from the vanishing point, for the roll that is fixed, or 0."""
    # Each line and the camera span a plane; the planes meet in the direction of the lines.
    normals = np.stack([np.linalg.svd(line)[2][2] for line in rays])
    heading = BODY_FROM_OPTICAL @ np.linalg.svd(normals)[2][2]
    heading *= np.sign(heading @ [np.cos(facing), -np.sin(facing), 0]) or 1.0
    roll = fixed.get("roll", 0.0)
    turned = np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]) @ heading
    # turned = (cos yaw cos pitch, -sin yaw, cos yaw sin pitch)
    ahead = 1.0 if np.cos(facing) >= 0 else -1.0
    pitch = np.arctan2(ahead * turned[2], ahead * turned[0])
    yaw = np.arctan2(-turned[1], ahead * np.hypot(turned[0], turned[2]))
    return Angles(fixed.get("pitch", float(pitch)), roll, fixed.get("yaw", float(yaw)))


def _side_by_side(rays: list[np.ndarray], angles: Angles) -> tuple[np.ndarray, list[np.ndarray]]:
    """How far to the left each line is, in heights of the camera, and the lines in that order."""
    rotation = Mounting.from_angles(1.0, **angles._asdict()).rotation
    across = []
    for index, line in enumerate(rays):
        # The plane through the camera (0, 0, 1) and the line (t, y, 0).
        _, b, c = np.linalg.svd(line @ rotation.T)[2][2]
        if abs(b) < 1e-3 * abs(c):
            raise BadCalibration("lines", f"line {index + 1} lies in the horizon; expected: lines on the ground")
        across.append(c / b)
    order = np.argsort(across)
    sorted_across = np.array(across)[order]
    if np.diff(sorted_across).min() < 1e-3:
        raise BadCalibration("lines", "two of them are one and the same on the ground; expected: lines side by side")
    return sorted_across, [rays[index] for index in order]
