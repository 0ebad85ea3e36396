"""A camera's mounting from points on the ground whose place in the base frame was measured."""

from collections.abc import Mapping

import numpy as np

from perception_node.camera import Camera
from perception_node.errors import BadCalibration
from perception_node.ground_calibration.fit import (
    POSE,
    GroundCalibration,
    check_determined,
    check_fit,
    checked_known,
    jacobian_of,
    least_squares,
    mounting_of,
    on_ground,
    pixels_per_radian,
    rays_of,
    sigmas_of,
)

_FIRST_STEPS = 15


def calibrate_from_points(
    camera: Camera, pixels: np.ndarray, ground_xy: np.ndarray, known: Mapping[str, float] | None = None
) -> GroundCalibration:
    """The mounting from points on the ground.

    Args:
        camera: of the image.
        pixels: (n, 2), where they are seen, (u, v).
        ground_xy: (n, 2), where they are in the base frame, metres ahead and to the left.
        known: values of names in POSE that need not be found.

    Raises:
        BadCalibration: the points do not determine what is to be found, or do not fit.
    """
    known = checked_known(known)
    pixels, ground_xy = (np.asarray(array, np.float64).reshape(-1, 2) for array in (pixels, ground_xy))
    if len(pixels) != len(ground_xy) or not np.isfinite(ground_xy).all():
        raise BadCalibration("points", f"{len(pixels)} pixels, {len(ground_xy)} places; expected: u, v, x, y of each")
    unknown = [name for name in POSE if name not in known]
    if 2 * len(pixels) <= len(unknown):
        raise BadCalibration(
            "points",
            f"{len(pixels)} points for {len(unknown)} unknown values ({', '.join(unknown)}); "
            f"expected: at least {len(unknown) // 2 + 1}, or some of the values given",
        )
    rays = rays_of(camera, pixels, "point")
    focal = pixels_per_radian(camera)
    places = np.column_stack([ground_xy, np.zeros(len(ground_xy))])

    def towards(values: np.ndarray) -> np.ndarray:
        mounting = mounting_of(unknown, values, known)
        return (places - mounting.translation) @ mounting.rotation

    def in_directions(values: np.ndarray) -> np.ndarray:
        points = towards(values)
        return focal * (points / np.linalg.norm(points, axis=1, keepdims=True) - rays).ravel()

    def in_pixels(values: np.ndarray) -> np.ndarray:
        return (camera.project(towards(values)) - pixels).ravel()

    # The error of directions is finite for any pose, even one that has the points behind the camera: it finds the way
    # from far, and of several valleys the deepest is taken.
    distance = float(np.median(np.hypot(*(ground_xy - [known.get("x", 0.0), known.get("y", 0.0)]).T)))
    best, values = np.inf, np.zeros(len(unknown))
    for yaw in np.radians([0, 90, 180, 270]):
        for pitch in np.radians([5, 40]):
            guess = {"height": 0.2 * distance, "pitch": pitch, "yaw": yaw}
            found, _ = least_squares(in_directions, np.array([guess.get(name, 0.0) for name in unknown]), _FIRST_STEPS)
            if (error := (in_directions(found) ** 2).sum()) < best:
                best, values = error, found
    values, _ = least_squares(in_directions, values)
    if np.isfinite(in_pixels(values)).all():
        values, jacobian = least_squares(in_pixels, values)
    else:
        jacobian = jacobian_of(in_directions, values)
    mounting = mounting_of(unknown, values, known)
    residuals = np.hypot(*(camera.project(towards(values)) - pixels).T)
    residuals[np.isnan(residuals)] = np.inf
    check_fit("points", camera, residuals, "x ahead and y to the left, in metres")
    check_determined("points", unknown, jacobian, mounting.height_m)
    residuals_m = np.hypot(*(on_ground(mounting, rays) - ground_xy).T)
    sigmas = sigmas_of(unknown, jacobian, residuals.ravel(), 2 * len(pixels))
    return GroundCalibration(mounting, sigmas, tuple(known), (), residuals, residuals_m)
