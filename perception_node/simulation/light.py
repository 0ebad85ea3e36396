"""Light and weather: where the sun is, what the sky looks like, how far one sees.

Light is linear RGB; 1 is what a white surface sends back under an evenly overcast sky.
"""

from dataclasses import dataclass, replace

import numpy as np

from perception_node.simulation.textures import noise

WEATHERS = ("day", "overcast", "dusk", "rain")
_CLOUD_SIZE = 512


@dataclass(frozen=True, eq=False)
class Light:
    """
    Attributes:
        weather: one of WEATHERS.
        to_sun: float32 (3,), unit vector.
        sun: float32 (3,), colour and strength of the direct light; zeros where clouds hide the sun.
        zenith, horizon: float32 (3,), colours of the sky.
        clouds: float32 (_CLOUD_SIZE, _CLOUD_SIZE), how dense they are, 0..1; repeats.
        fog: per metre, how much of the light is lost.
        wet: 0..1, how much the ground mirrors.
        exposure: of the camera.
        lamps: lit windows, lamps and headlights.
    """

    weather: str
    to_sun: np.ndarray
    sun: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: np.ndarray
    fog: float
    wet: float
    exposure: float
    lamps: bool

    @classmethod
    def make(cls, rng: np.random.Generator, weather: str) -> "Light":
        """One of many of its kind."""
        azimuth = rng.uniform(0, 2 * np.pi)
        elevation = np.radians({"day": rng.uniform(22, 60), "dusk": rng.uniform(4, 11)}.get(weather, 50))
        to_sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        warm = np.clip(1 - elevation / np.radians(45), 0, 1)
        field = noise(rng, _CLOUD_SIZE, 1.3) + rng.uniform(-1.2, 0.6)
        clouds = np.clip(field * 0.7, 0, 1)
        base = cls(
            weather,
            to_sun.astype(np.float32),
            _color(2.5, 2.4 - 0.5 * warm, 2.1 - 1.0 * warm) * rng.uniform(0.9, 1.2),
            _color(0.24, 0.42, 0.78),
            _color(0.72, 0.82, 0.95),
            clouds,
            rng.uniform(0.0003, 0.002),
            0.0,
            rng.uniform(0.72, 0.9),
            False,
        )
        if weather == "day":
            return base
        if weather == "dusk":
            return replace(
                base,
                sun=_color(1.0, 0.5, 0.22) * rng.uniform(0.3, 0.9),
                zenith=_color(0.16, 0.2, 0.34),
                horizon=_color(0.78, 0.5, 0.36) * rng.uniform(0.6, 1),
                fog=rng.uniform(0.001, 0.004),
                exposure=rng.uniform(1.6, 2.2),
                lamps=True,
            )
        gray = rng.uniform(0.9, 1.1)
        overcast = replace(
            base,
            sun=_color(0, 0, 0),
            zenith=_color(0.86, 0.9, 0.96) * gray,
            horizon=_color(0.98, 1.0, 1.03) * gray,
            clouds=np.clip(0.5 + 0.25 * noise(rng, _CLOUD_SIZE, 1.3), 0, 1),
            fog=rng.uniform(0.0008, 0.004),
            exposure=rng.uniform(0.9, 1.15),
        )
        if weather == "overcast":
            return overcast
        return replace(
            overcast,
            zenith=_color(0.55, 0.6, 0.66) * gray,
            horizon=_color(0.7, 0.73, 0.76) * gray,
            fog=rng.uniform(0.003, 0.009),
            wet=rng.uniform(0.5, 1.0),
            exposure=rng.uniform(1.1, 1.4),
            lamps=bool(rng.random() < 0.6),
        )

    def sky(self, directions: np.ndarray) -> np.ndarray:
        """Float32 (N, 3): what is seen in unit directions (N, 3) where nothing stands."""
        up = np.clip(directions[:, 2:], 0, 1)
        color = self.horizon + (self.zenith - self.horizon) * np.sqrt(up)
        # Clouds are a flat layer; far away they melt into the haze.
        plane = directions[:, :2] / (up + 0.12) * 0.16
        at = (np.floor(plane * _CLOUD_SIZE).astype(np.int32)) % _CLOUD_SIZE
        density = self.clouds[at[:, 1], at[:, 0]][:, None] * np.clip(up * 5, 0, 1)
        if self.sun.any():
            toward = np.clip(directions @ self.to_sun, 0, 1)[:, None]
            glow = toward**6 * 0.25 + toward**64 * 0.6 + (toward > 0.9995) * 6
            cloud = 0.75 * self.horizon + 0.16 * self.sun * (1 + toward**8)
            return color * (1 - density) + cloud * density + glow * self.sun * (1 - 0.6 * density)
        return color * (1.0 - 0.35 * (density - 0.3))

    def puddles(self, positions: np.ndarray) -> np.ndarray:
        """Float32 (N,), 0..1: how much water stands at points of the ground."""
        return np.clip(2.2 * self._at(positions, 12) - 0.6, 0, 1)

    def ripples(self, positions: np.ndarray) -> np.ndarray:
        """Float32 (N, 3): by what wet ground turns the directions that it mirrors."""
        fine = self._at(positions, 250) - self._at(positions + np.float32([1.3, 0.7, 0]), 250)
        return fine[:, None] * np.float32([0.05, 0.05, 0.35])

    def _at(self, positions: np.ndarray, per_m: float) -> np.ndarray:
        at = positions[:, :2] * np.float32(per_m)
        cell = np.floor(at)
        u, v = (at - cell).T
        x0, y0 = cell.astype(np.int64).T % _CLOUD_SIZE
        x1, y1 = (x0 + 1) % _CLOUD_SIZE, (y0 + 1) % _CLOUD_SIZE
        low = self.clouds[y0, x0] * (1 - u) + self.clouds[y0, x1] * u
        return low * (1 - v) + (self.clouds[y1, x0] * (1 - u) + self.clouds[y1, x1] * u) * v

    @property
    def ambient(self) -> np.ndarray:
        """Float32 (3,): what the whole sky sends to a surface that faces it."""
        return 0.6 * self.zenith + 0.4 * self.horizon


def _color(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)
