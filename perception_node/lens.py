"""Lens models: from a direction's normalised coordinates to the distorted ones, which K takes to pixels, and back.

The models and their coefficients are OpenCV's (calib3d: "Detailed Description", and fisheye), after Brown 1966,
Claus and Fitzgibbon 2005 and Kannala and Brandt 2006. OpenCV's functions are the oracle in the tests but not used here:
past the radius where its polynomial turns, a lens model folds the outside back into the image, and they do not say so;
`undistortPoints` stops before it has converged; and `fisheye.projectPoints` knows nothing beyond 90 degrees.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_TABLE_SIZE = 4096
_FAR = 100.0
_MAX_STEPS = 50
_TOLERANCE = 1e-12


def first_positive_root(ascending: np.ndarray) -> float:
    """The least positive real root of a polynomial, infinity if there is none; coefficients from the constant on."""
    descending = np.trim_zeros(np.asarray(ascending, np.float64)[::-1], "f")
    if descending.size < 2:
        return np.inf
    # Tiny leading coefficients have roots that overflow; those are far outside of any lens.
    with np.errstate(all="ignore"):
        leading = np.abs(descending) > 1e-14 * np.abs(descending).max()
        roots = np.roots(descending[np.argmax(leading) :])
    real = roots.real[(np.abs(roots.imag) < 1e-9 * np.maximum(1.0, np.abs(roots))) & (roots.real > 0)]
    return float(real.min()) if real.size else np.inf


def _polynomial_times_odd(coefficients: np.ndarray) -> np.ndarray:
    """N + 2 s N' of N(s), s = r²: the derivative of r N(r²) by r."""
    return coefficients * (1 + 2 * np.arange(coefficients.size))


@dataclass(frozen=True, eq=False)
class BrownLens:
    """plumb_bob and rational_polynomial: a pinhole, then radial and tangential distortion.

    Attributes:
        coefficients: float64 (8,): k1, k2, p1, p2, k3, k4, k5, k6, zeros where the model has fewer.
    """

    coefficients: np.ndarray

    @cached_property
    def limit(self) -> float:
        """The radius (the tangent of the angle to the axis) up to which the radial distortion grows."""
        k1, k2, _, _, k3, k4, k5, k6 = self.coefficients
        n, m = np.array([1, k1, k2, k3]), np.array([1, k4, k5, k6])
        # d/dr (r n/m) = ((n + 2 s n') m - 2 s n m') / m², with s = r².
        n_odd, m_even = _polynomial_times_odd(n), m * 2 * np.arange(4)
        turns = np.convolve(n_odd, m) - np.convolve(n, m_even)
        return float(np.sqrt(min(first_positive_root(turns), first_positive_root(m))))

    def distort(self, directions: np.ndarray) -> np.ndarray:
        """Distorted coordinates, float64 (N, 2), of directions (N, 3); NaN behind the camera and beyond the limit."""
        x, y, z = directions.T
        ahead = z > 0
        undistorted = np.stack([x, y], 1) / np.where(ahead, z, np.nan)[:, None]
        distorted, jacobian = self._distort(undistorted)
        distorted[~self._is_regular(undistorted, jacobian)] = np.nan
        return distorted

    def directions(self, distorted: np.ndarray) -> np.ndarray:
        """Unit vectors, float64 (N, 3), that `distort` takes to these coordinates (N, 2); NaN where there are none."""
        finite = np.isfinite(distorted).all(1)
        distorted = np.where(finite[:, None], distorted, np.nan)
        radius = np.hypot(*distorted.T)
        # A radial table gives the start, then Newton's method, which the tangential part needs.
        radii, distorted_radii = self._radial_table
        start = np.interp(radius, distorted_radii, radii)
        undistorted = distorted * np.divide(start, radius, out=np.ones_like(radius), where=radius > 0)[:, None]
        open_ = np.flatnonzero(finite)
        residual = np.full(radius.shape, np.inf)
        for _ in range(_MAX_STEPS):
            image, jacobian = self._distort(undistorted[open_])
            error = image - distorted[open_]
            residual[open_] = np.abs(error).max(1, initial=0.0)
            unfinished = residual[open_] > _TOLERANCE * (1 + radius[open_])
            open_, error, (a, b, d) = open_[unfinished], error[unfinished], jacobian[:, unfinished]
            if not open_.size:
                break
            determinant = a * d - b * b
            determinant[np.abs(determinant) < 1e-12] = np.nan
            undistorted[open_, 0] -= (d * error[:, 0] - b * error[:, 1]) / determinant
            undistorted[open_, 1] -= (a * error[:, 1] - b * error[:, 0]) / determinant
        _, jacobian = self._distort(undistorted)
        found = (residual < 1e3 * _TOLERANCE * (1 + radius)) & self._is_regular(undistorted, jacobian)
        rays = np.concatenate([undistorted, np.ones((len(undistorted), 1))], 1)
        rays[~found] = np.nan
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def _is_regular(self, undistorted: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        """bool (N,): neither the radial part has turned nor the tangential one folded the image over."""
        a, b, d = jacobian
        return (np.hypot(*undistorted.T) < self.limit) & (a * d - b * b > 0) & (a + d > 0)

    def _distort(self, undistorted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distorted coordinates (N, 2), and (3, N): dx/dx, dx/dy = dy/dx, dy/dy of the distortion."""
        k1, k2, p1, p2, k3, k4, k5, k6 = self.coefficients
        x, y = undistorted.T
        with np.errstate(all="ignore"):  # far outside it may overflow or meet a pole; that is then not regular
            s = x * x + y * y
            n, m = 1 + s * (k1 + s * (k2 + s * k3)), 1 + s * (k4 + s * (k5 + s * k6))
            slope_n, slope_m = k1 + s * (2 * k2 + s * 3 * k3), k4 + s * (2 * k5 + s * 3 * k6)
            radial, slope = n / m, (slope_n * m - n * slope_m) / (m * m)
            distorted = np.stack(
                [
                    x * radial + 2 * p1 * x * y + p2 * (s + 2 * x * x),
                    y * radial + p1 * (s + 2 * y * y) + 2 * p2 * x * y,
                ],
                1,
            )
            jacobian = np.stack(
                [
                    radial + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x,
                    2 * slope * x * y + 2 * p1 * x + 2 * p2 * y,
                    radial + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x,
                ]
            )
        return distorted, jacobian

    @cached_property
    def _radial_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Radii up to the limit, or nearly across, and what the radial part makes of them."""
        k1, k2, _, _, k3, k4, k5, k6 = self.coefficients
        # Equal steps of the angle: small near the axis, where pixels are, though the end may be far.
        r = np.tan(np.linspace(0, np.arctan(min(self.limit, _FAR)), _TABLE_SIZE))
        s = r * r
        with np.errstate(all="ignore"):  # at a pole the last value is no number
            distorted = r * (1 + s * (k1 + s * (k2 + s * k3))) / (1 + s * (k4 + s * (k5 + s * k6)))
        return r, np.maximum.accumulate(np.nan_to_num(distorted, nan=np.inf))


@dataclass(frozen=True, eq=False)
class FisheyeLens:
    """equidistant: the distorted radius is a polynomial of the angle to the axis, which may exceed 90 degrees.

    Attributes:
        coefficients: float64 (4,): k1 to k4.
    """

    coefficients: np.ndarray

    @cached_property
    def _slope(self) -> np.ndarray:
        """Of theta_d = theta (1 + k1 theta² + ...), a polynomial of theta²."""
        return _polynomial_times_odd(np.concatenate([[1.0], self.coefficients]))

    @cached_property
    def limit(self) -> float:
        """The angle in radians up to which the distorted radius grows; at most half a turn."""
        return float(min(np.sqrt(first_positive_root(self._slope)), np.pi))

    @cached_property
    def _angle_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles up to the limit, and their distorted radii."""
        angles = np.linspace(0, self.limit, _TABLE_SIZE)
        return angles, np.maximum.accumulate(self._radius(angles))

    def _radius(self, theta: np.ndarray) -> np.ndarray:
        return theta * np.polynomial.polynomial.polyval(theta * theta, np.concatenate([[1.0], self.coefficients]))

    def distort(self, directions: np.ndarray) -> np.ndarray:
        """Distorted coordinates, float64 (N, 2), of directions (N, 3); NaN beyond the limit."""
        x, y, z = directions.T
        across = np.hypot(x, y)
        theta = np.arctan2(across, z)
        # On the axis theta_d / across is 1 / z in the limit, and the numerator 0.
        scale = np.divide(self._radius(theta), across, out=np.ones_like(theta), where=across > 0)
        distorted = np.stack([x, y], 1) * scale[:, None]
        outside = ~(theta < self.limit) | ((across == 0) & ~(z > 0))
        distorted[outside] = np.nan
        return distorted

    def directions(self, distorted: np.ndarray) -> np.ndarray:
        """Unit vectors, float64 (N, 3), that `distort` takes to these coordinates (N, 2); NaN where there are none."""
        distorted = np.where(np.isfinite(distorted), distorted, np.nan)
        radius = np.hypot(*distorted.T)
        angles, distorted_radii = self._angle_table
        theta = np.interp(radius, distorted_radii, angles)
        for _ in range(_MAX_STEPS):
            # The slope is 0 at the limit: a step past it is cut, and its radius then compared.
            slope = np.maximum(np.polynomial.polynomial.polyval(theta * theta, self._slope), 1e-9)
            step = (self._radius(theta) - radius) / slope
            theta = np.clip(theta - step, 0, self.limit)
            if np.nanmax(np.abs(self._radius(theta) - radius), initial=0.0, where=radius < distorted_radii[-1]) < (
                _TOLERANCE
            ):
                break
        found = (np.abs(self._radius(theta) - radius) < 1e3 * _TOLERANCE) & (theta < self.limit)
        across = np.divide(np.sin(theta), radius, out=np.ones_like(radius), where=radius > 0)
        rays = np.concatenate([distorted * across[:, None], np.cos(theta)[:, None]], 1)
        rays[~found] = np.nan
        return rays
