"""What both methods share: the result, least squares (Levenberg 1944, Marquardt 1963), what it is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception_node.camera import Camera
from perception_node.errors import BadCalibration
from perception_node.mounting import Mounting

POSE = ("height", "pitch", "roll", "yaw", "x", "y")
"""Height, x and y in metres, angles in radians."""

_MAX_SIGMA = {"height": 0.25, "x": 0.5, "y": 0.5} | dict.fromkeys(("pitch", "roll", "yaw"), np.radians(3))
"""What one pixel of error may do; lengths in heights of the camera."""
_MAX_MISFIT = 0.02


@dataclass(frozen=True)
class GroundCalibration:
    """What was found, and how well.

    Attributes:
        mounting: the camera's.
        sigmas: of each that was found, its standard deviation; metres or radians.
        given, assumed: names of the others; what is assumed is 0.
        residuals_px: float64 (n,), the distance of each point to where it should be seen, or of each point of a line to
            the line, pixels.
        residuals_m: float64 (n,), the same on the ground, metres; infinite above the horizon; none for lines.
        lane_width_m: between neighbouring lines, given or, with a height that was, found; None for points.
    """

    mounting: Mounting
    sigmas: Mapping[str, float]
    given: tuple[str, ...]
    assumed: tuple[str, ...]
    residuals_px: np.ndarray
    residuals_m: np.ndarray
    lane_width_m: float | None = None

    @property
    def rms_px(self) -> float:
        return float(np.sqrt((self.residuals_px**2).mean()))


def checked_known(known: Mapping[str, float] | None) -> dict[str, float]:
    known = dict(known or {})
    for name, value in known.items():
        if name not in POSE or not np.isfinite(value):
            raise BadCalibration(name, f"{value}; expected: a finite number for one of {', '.join(POSE)}")
    if known.get("height", 1.0) <= 0:
        raise BadCalibration("height", f"{known['height']:g} m; expected: above 0")
    return known


def rays_of(camera: Camera, pixels: np.ndarray, what: str) -> np.ndarray:
    rays = camera.rays(pixels)
    blind = np.flatnonzero(np.isnan(rays).any(1))
    if blind.size:
        u, v = pixels[blind[0]]
        raise BadCalibration(
            f"{what} {blind[0] + 1}", f"pixel ({u:g}, {v:g}) is beyond what the lens model describes; expected: another"
        )
    return rays


def pixels_per_radian(camera: Camera) -> float:
    """In the middle of the image."""
    middle = np.array([[camera.width / 2, camera.height / 2]])
    first, second = camera.rays(np.concatenate([middle, middle + 1]))
    return float(np.sqrt(2) / np.linalg.norm(second - first))


def mounting_of(names: Sequence[str], values: np.ndarray, known: Mapping[str, float]) -> Mounting:
    pose = dict(known) | dict(zip(names, values.tolist(), strict=True))
    # The search may try a camera below the ground; a mounting cannot be there.
    return Mounting.from_angles(min(max(pose.pop("height"), 1e-3), 999.0), **pose)


def on_ground(mounting: Mounting, rays: np.ndarray) -> np.ndarray:
    """Where rays (n, 3) meet the ground, (n, 2) in the base frame; infinity for those that do not."""
    directions = rays @ mounting.rotation.T
    down = directions[:, 2] < 0
    reach = np.where(down, -mounting.height_m / np.where(down, directions[:, 2], 1), np.inf)
    return mounting.translation[:2] + np.where(down[:, None], reach[:, None] * directions[:, :2], np.inf)


def jacobian_of(residuals: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    steps = 1e-6 * np.eye(values.size)
    return np.stack([(residuals(values + step) - residuals(values - step)) / 2e-6 for step in steps], 1)


def least_squares(
    residuals: Callable[[np.ndarray], np.ndarray], values: np.ndarray, n_steps: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """The values of least squares near `values`, and the residuals' derivatives there, (residuals, values)."""
    damping, error = 1e-3, residuals(values)
    jacobian = jacobian_of(residuals, values)
    for _ in range(n_steps):
        normal = jacobian.T @ jacobian
        scale = np.maximum(np.diag(normal), 1e-9)
        step = np.linalg.lstsq(normal + damping * np.diag(scale), -jacobian.T @ error, rcond=None)[0]
        if (np.abs(step) < 1e-12 * (1 + np.abs(values))).all():
            break
        new_error = residuals(values + step)
        if new_error @ new_error < error @ error:  # false for NaN: such a step is too far
            gain = error @ error - new_error @ new_error
            values, error, damping = values + step, new_error, max(damping / 10, 1e-12)
            jacobian = jacobian_of(residuals, values)
            if gain < 1e-14 * (1 + error @ error):
                break
        else:
            damping *= 10
            if damping > 1e12:
                break
    return values, jacobian


def covariance(jacobian: np.ndarray) -> np.ndarray:
    """Of the values, for residuals with an error of 1 pixel each; its diagonal infinite where nothing is determined."""
    if not np.isfinite(jacobian).all():
        return np.full((jacobian.shape[1],) * 2, np.inf)
    _, singular, vectors = np.linalg.svd(jacobian, full_matrices=False)
    # A direction in which nothing moves has all its weight in the values that are not determined.
    variances = 1 / np.maximum(singular, 1e-6) ** 2
    return vectors.T * variances @ vectors


def check_determined(what: str, names: Sequence[str], jacobian: np.ndarray, height_m: float) -> None:
    sigmas = np.sqrt(np.diag(covariance(jacobian)))
    loose = []
    for name, sigma in zip(names, sigmas, strict=True):
        is_angle = name in ("pitch", "roll", "yaw")
        limit = _MAX_SIGMA.get(name, np.inf) * (1 if is_angle else height_m)
        if not sigma <= limit:
            size = f"{np.degrees(sigma):.3g} degrees" if is_angle else f"{sigma:.3g} m"
            loose.append(f"{name} (an error of one pixel changes it by {size})")
    if loose:
        raise BadCalibration(
            what, f"they do not determine {', '.join(loose)}; expected: more of them, farther apart, or given values"
        )


def check_fit(what: str, camera: Camera, residuals: np.ndarray, expected: str) -> None:
    rms, limit = float(np.sqrt((residuals**2).mean())), _MAX_MISFIT * np.hypot(camera.width, camera.height)
    if not rms <= limit:
        raise BadCalibration(
            what,
            f"no mounting fits them: {rms:.1f} pixels off (root mean square), at worst {residuals.max():.1f} "
            f"(number {int(np.argmax(residuals)) + 1}); expected: {expected}, and the calibration of this camera",
        )


def sigmas_of(names: Sequence[str], jacobian: np.ndarray, residuals: np.ndarray, n_equations: int) -> dict[str, float]:
    """Standard deviations, for the pixel error that the residuals show, at least half a pixel."""
    spare = n_equations - len(names)
    error = max(0.5, float(np.sqrt((residuals**2).sum() / spare))) if spare else 1.0
    return dict(zip(names, (error * np.sqrt(np.diag(covariance(jacobian)))).tolist(), strict=True))
