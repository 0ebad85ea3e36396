"""A Kalman filter of numbers that move steadily, for many tracks at once.

Each number is filtered by itself: its state is a value and a speed, disturbed by an acceleration that is white noise
(Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, section 6.2.2).
"""

import numpy as np

MOVING = np.dtype([(name, np.float64) for name in ("value", "speed", "vv", "vs", "ss")])
"""A number's state: value, speed for each second, and their covariance: of the value, of both, of the speed."""


def start(values: np.ndarray, variance: np.ndarray, speed_variance: np.ndarray | float) -> np.ndarray:
    """States of numbers that were measured for the first time: MOVING, of the values' shape."""
    states = np.zeros(np.shape(values), MOVING)
    states["value"], states["vv"], states["ss"] = values, variance, speed_variance
    return states


def predict(states: np.ndarray, seconds: float, noise: np.ndarray | float) -> None:
    """Moves the states on, in place. Args: noise: the acceleration's power spectral density, of the states' shape."""
    states["value"] += seconds * states["speed"]
    states["vv"] += seconds * (2 * states["vs"] + seconds * (states["ss"] + seconds * noise / 3))
    states["vs"] += seconds * (states["ss"] + seconds * noise / 2)
    states["ss"] += seconds * noise


def update(states: np.ndarray, measured: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """What the states become with measured values; all arrays have one shape."""
    updated = states.copy()
    surprise, total = measured - states["value"], states["vv"] + variance
    gain, speed_gain = states["vv"] / total, states["vs"] / total
    updated["value"] += gain * surprise
    updated["speed"] += speed_gain * surprise
    updated["ss"] -= speed_gain * states["vs"]
    updated["vs"] -= gain * states["vs"]
    updated["vv"] -= gain * states["vv"]
    return updated
