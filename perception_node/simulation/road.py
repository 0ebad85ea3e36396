"""The centre line of the street: straights and bends, by arc length."""

import numpy as np

STEP_M = 0.5
MAX_HEADING = np.radians(65)


class Road:
    """A line of piecewise linear curvature (clothoids, as roads are built), from s = -`before` on.

    Args:
        rng: says how it bends.
        before: metres before s = 0, straight.
        length: metres after it.

    Attributes:
        straights: (start, end) of the parts without curvature, metres.
    """

    def __init__(self, rng: np.random.Generator, length: float, before: float = 80.0):
        knots, curvatures, self.straights = [-before, 30.0], [0.0, 0.0], [(-before, 30.0)]
        heading = 0.0
        while knots[-1] < length:
            sharp = rng.random() < 0.4
            radius = rng.uniform(28, 45) if sharp else rng.uniform(70, 220)
            turn = rng.uniform(0.5, 1.0) if sharp else rng.uniform(0.12, 0.4)
            sign = rng.choice([-1, 1])
            if abs(heading + sign * turn) > MAX_HEADING:
                sign = -np.sign(heading)
            heading += sign * turn
            ramp = turn * radius / 2  # as long as the arc between two of them
            for share, curvature in ((1, sign / radius), (1, sign / radius), (1, 0.0)):
                knots.append(knots[-1] + ramp * share)
                curvatures.append(curvature)
            straight = rng.uniform(25, 70)
            self.straights.append((knots[-1], knots[-1] + straight))
            knots.append(knots[-1] + straight)
            curvatures.append(0.0)
        self._s = np.arange(-before, knots[-1], STEP_M)
        curvature = np.interp(self._s, knots, curvatures)
        self._heading = np.concatenate([[0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * STEP_M)])
        self._heading -= np.interp(0, self._s, self._heading)
        middle = (self._heading[1:] + self._heading[:-1]) / 2
        self._x = np.concatenate([[0], np.cumsum(np.cos(middle) * STEP_M)])
        self._y = np.concatenate([[0], np.cumsum(np.sin(middle) * STEP_M)])
        self._x -= np.interp(0, self._s, self._x)
        self._y -= np.interp(0, self._s, self._y)
        self.start, self.end = float(self._s[0]), float(self._s[-1])

    def heading(self, s: np.ndarray | float) -> np.ndarray:
        """Radians, counterclockwise from x."""
        return np.interp(s, self._s, self._heading)

    def points(self, s: np.ndarray | float, t: np.ndarray | float, z: float = 0.0) -> np.ndarray:
        """(..., 3): `s` metres along, `t` metres to the left of the centre line."""
        s, t = np.broadcast_arrays(np.asarray(s, float), np.asarray(t, float))
        heading = self.heading(s)
        x = np.interp(s, self._s, self._x) - t * np.sin(heading)
        y = np.interp(s, self._s, self._y) + t * np.cos(heading)
        return np.stack([x, y, np.full_like(x, z)], -1)

    def pose(self, s: float, t: float) -> tuple[float, float, float]:
        """(x, y, heading)."""
        x, y, _ = self.points(s, t)
        return float(x), float(y), float(self.heading(s))
