"""Pedestrians who walk, cyclists who pedal: limbs are tubes between joints."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception_node.simulation.mesh import Mesh, box, ellipsoid, join, sheet, tube
from perception_node.simulation.textures import Color, Texture, plain, speckled, varied

SKINS: tuple[Color, ...] = ((224, 176, 148), (206, 152, 120), (150, 100, 72), (96, 62, 46), (232, 190, 164))
HAIRS: tuple[Color, ...] = ((40, 30, 24), (80, 56, 36), (150, 120, 76), (120, 116, 112), (24, 22, 22), (110, 56, 34))
TOPS: tuple[Color, ...] = (
    (30, 32, 40),
    (60, 62, 70),
    (120, 30, 34),
    (34, 60, 110),
    (150, 146, 136),
    (70, 84, 60),
    (190, 176, 150),
    (40, 92, 98),
    (200, 200, 198),
    (170, 90, 40),
    (96, 70, 110),
    (220, 200, 60),
    (180, 60, 90),
)
LEGS: tuple[Color, ...] = ((36, 42, 66), (28, 28, 30), (70, 66, 60), (120, 108, 88), (50, 60, 80), (90, 90, 94))
N_PHASES = 12
"""Poses of one stride."""


def _choice(rng: np.random.Generator, colors: tuple[Color, ...], amount: float = 14) -> Texture:
    return speckled(rng, varied(rng, colors[rng.integers(len(colors))], amount), 0.07)


def _rings(centers: np.ndarray, depth: np.ndarray, width: np.ndarray, texture: Texture, sides: int = 12) -> Mesh:
    """A body of ellipses (depth along x, width along y) about (n, 3) centers, bottom to top."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    depth, width = np.asarray(depth)[:, None], np.asarray(width)[:, None]
    points = np.asarray(centers)[:, None] + np.stack(
        [depth * np.cos(angle), width * np.sin(angle), np.zeros((len(depth), sides + 1))], -1
    )
    return sheet(points.transpose(1, 0, 2), texture)


@dataclass(frozen=True, eq=False)
class Pedestrian:
    """Somebody, the feet at the origin, heading along x."""

    seed: int

    @cached_property
    def _looks(self) -> dict:
        rng = np.random.default_rng(self.seed)
        child = rng.random() < 0.1
        looks = {
            "height": rng.uniform(1.1, 1.4) if child else float(np.clip(rng.normal(1.72, 0.09), 1.5, 1.95)),
            "girth": rng.uniform(0.9, 1.3),
            "skin": plain(varied(rng, SKINS[rng.integers(len(SKINS))], 8)),
            "hair": plain(varied(rng, HAIRS[rng.integers(len(HAIRS))], 8)),
            "long_hair": rng.random() < 0.35,
            "top": _choice(rng, TOPS),
            "legs": _choice(rng, LEGS),
            "shoes": plain(((26, 24, 24), (90, 60, 40), (210, 210, 206))[rng.integers(3)]),
            "coat": str(rng.choice(["none", "none", "jacket", "coat", "dress"])),
            "bag": str(rng.choice(["none", "none", "none", "shoulder", "rucksack", "carrier"])),
            "hat": rng.random() < 0.15,
        }
        looks["bag_texture"] = _choice(rng, TOPS)
        return looks

    @property
    def size(self) -> tuple[float, float, float]:
        """(length, width, height), metres."""
        height = self._looks["height"]
        return 0.6 * height, 0.32 * height, height

    @property
    def textures(self) -> dict[int, Texture]:
        """All that it may have, by key."""
        return {value.key: value for value in self._looks.values() if isinstance(value, Texture)}

    def walking(self, distance: float) -> Mesh:
        """After so many metres."""
        stride = 0.82 * self._looks["height"]
        return self._pose(int(distance / stride * N_PHASES) % N_PHASES, 1.0)

    @property
    def standing(self) -> Mesh:
        return self._pose(1, 0.12)

    @cached_property
    def _poses(self) -> dict[tuple[int, float], Mesh]:
        """Those made so far."""
        return {}

    def _pose(self, number: int, swing: float) -> Mesh:
        if (number, swing) not in self._poses:
            self._poses[number, swing] = self._make(number, swing)
        return self._poses[number, swing]

    def _make(self, number: int, swing: float) -> Mesh:
        phase, looks = 2 * np.pi * number / N_PHASES, self._looks
        girth, parts = looks["girth"], []
        bob = 0.012 * np.cos(2 * phase) * swing
        hip_z, neck = 0.52 + bob, 0.835 + bob
        for side in (-1, 1):
            s = np.sin(phase + (np.pi if side > 0 else 0)) * swing
            lift = max(0.0, np.cos(phase + (np.pi if side > 0 else 0))) * swing
            hip = np.array([0, side * 0.052 * girth, hip_z])
            thigh, shin = 0.45 * s + 0.25 * lift, 0.45 * s - 0.55 * lift
            knee = hip + 0.245 * np.array([np.sin(thigh), 0, -np.cos(thigh)])
            ankle = knee + 0.24 * np.array([np.sin(shin), 0, -np.cos(shin)])
            ankle[2] = max(ankle[2], 0.03)
            trousers = looks["skin"] if looks["coat"] == "dress" and girth < 1.15 else looks["legs"]
            radii = np.array([0.056 * girth, 0.05 * girth, 0.036, 0.03])
            parts.append(tube([hip, (hip + knee) / 2, knee, ankle], radii, trousers, 8))
            parts.append(
                ellipsoid((ankle[0] + 0.035, ankle[1], ankle[2] - 0.005), (0.075, 0.028, 0.026), looks["shoes"], 4)
            )
            shoulder = np.array([0, side * 0.105 * girth**0.5, 0.795 + bob])
            arm, fore = -0.4 * s, -0.4 * s + 0.25
            elbow = shoulder + 0.17 * np.array([np.sin(arm), side * 0.12, -np.cos(arm)])
            wrist = elbow + 0.15 * np.array([np.sin(fore), 0, -np.cos(fore)])
            parts.append(tube([shoulder, elbow, wrist], [0.036 * girth**0.5, 0.03, 0.023], looks["top"], 7))
            parts.append(ellipsoid(tuple(wrist - [0, 0, 0.02]), (0.02, 0.014, 0.03), looks["skin"], 4))
            if looks["bag"] == "carrier" and side > 0:
                x, y, z = wrist
                parts.append(box((x - 0.08, y - 0.03, z - 0.25), (x + 0.08, y + 0.03, z - 0.05), looks["bag_texture"]))
        z = np.array([0.47, 0.52, 0.58, 0.66, 0.74, 0.80, 0.835]) + bob
        depth = np.array([0.05, 0.066, 0.062, 0.064, 0.068, 0.05, 0.022]) * girth
        width = np.array([0.07, 0.094, 0.086, 0.094, 0.11, 0.108 / girth**0.5, 0.03]) * girth
        parts.append(_rings(np.stack([0 * z, 0 * z, z], 1), depth, width, looks["top"]))
        if looks["coat"] in ("coat", "dress"):
            z = np.array([0.30 if looks["coat"] == "coat" else 0.33, 0.42, 0.52, 0.6])
            depth, width = np.array([0.1, 0.09, 0.078, 0.066]) * girth, np.array([0.115, 0.108, 0.1, 0.09]) * girth
            parts.append(_rings(np.stack([0 * z, 0 * z, z + bob], 1), depth, width, looks["top"]))
        parts.append(tube([[0, 0, neck - 0.02], [0.005, 0, neck + 0.05]], 0.03, looks["skin"], 7))
        parts.append(ellipsoid((0.012, 0, neck + 0.095), (0.054, 0.044, 0.068), looks["skin"], 7))
        hair = looks["bag_texture"] if looks["hat"] else looks["hair"]
        parts.append(ellipsoid((-0.006, 0, neck + 0.11), (0.058, 0.05, 0.062), hair, 7))
        if looks["long_hair"]:
            parts.append(ellipsoid((-0.03, 0, neck + 0.04), (0.035, 0.045, 0.08), looks["hair"], 5))
        if looks["bag"] == "rucksack":
            parts.append(ellipsoid((-0.1, 0, 0.7 + bob), (0.06, 0.075, 0.12), looks["bag_texture"], 6))
        if looks["bag"] == "shoulder":
            parts.append(box((-0.07, 0.1, 0.46), (0.07, 0.15, 0.58), looks["bag_texture"]))
        mesh, height = join(parts), np.float32(looks["height"])
        mesh.corners[..., 2] -= mesh.corners[..., 2].min()  # who takes a long step is lower
        return Mesh(mesh.corners * height, mesh.normals, mesh.uvs, mesh.texture_keys, mesh.textures)


@dataclass(frozen=True, eq=False)
class Cyclist:
    """A rider on a bicycle, the middle between the wheels at the origin, heading along x."""

    seed: int
    size: tuple[float, float, float] = (1.75, 0.6, 1.75)

    @cached_property
    def _looks(self) -> dict:
        rng = np.random.default_rng(self.seed)
        return {
            "frame": plain(varied(rng, TOPS[rng.integers(len(TOPS))], 20), 0.15),
            "tyre": plain((26, 26, 27)),
            "metal": plain((120, 122, 124), 0.2),
            "skin": plain(varied(rng, SKINS[rng.integers(len(SKINS))], 8)),
            "head": plain(varied(rng, (HAIRS if rng.random() < 0.5 else TOPS)[rng.integers(6)], 8)),
            "top": _choice(rng, TOPS),
            "legs": _choice(rng, LEGS),
            "girth": rng.uniform(0.9, 1.2),
            "basket": rng.random() < 0.3,
            "wicker": plain((110, 90, 60)),
        }

    @property
    def textures(self) -> dict[int, Texture]:
        """All that it may have, by key."""
        return {value.key: value for value in self._looks.values() if isinstance(value, Texture)}

    def riding(self, distance: float) -> Mesh:
        """After so many metres."""
        number = int(distance / 4.2 * N_PHASES) % N_PHASES
        if number not in self._poses:
            self._poses[number] = self._make(number)
        return self._poses[number]

    @cached_property
    def _poses(self) -> dict[int, Mesh]:
        """Those made so far."""
        return {}

    def _make(self, number: int) -> Mesh:
        phase, looks, parts = 2 * np.pi * number / N_PHASES, self._looks, []
        rear, front, crank, radius = (
            np.array([-0.52, 0, 0.34]),
            np.array([0.53, 0, 0.34]),
            np.array([-0.06, 0, 0.29]),
            0.33,
        )
        angle = np.linspace(0, 2 * np.pi, 25)
        for hub in (rear, front):
            rim = hub + radius * np.stack([np.cos(angle), 0 * angle, np.sin(angle)], 1)
            parts.append(tube(rim, 0.02, looks["tyre"], 5))
            for a in phase * 0.7 + np.arange(6) * np.pi / 6:
                spoke = radius * np.array([np.cos(a), 0, np.sin(a)])
                parts.append(tube([hub - spoke, hub + spoke], 0.004, looks["metal"], 3))
        seat, head = np.array([-0.2, 0, 0.86]), np.array([0.4, 0, 0.88])
        bars = [
            (rear, crank),
            (crank, seat),
            (crank, head - [0, 0, 0.12]),
            (seat, head),
            (rear, seat),
            (front, head + np.array([-0.03, 0, 0.1])),
        ]
        parts += [tube([a, b], 0.018, looks["frame"], 6) for a, b in bars]
        parts.append(tube([[0.4, -0.28, 1.0], [0.44, 0, 1.0], [0.4, 0.28, 1.0]], 0.014, looks["metal"], 5))
        parts.append(ellipsoid((-0.22, 0, 0.92), (0.13, 0.08, 0.04), looks["tyre"], 4))
        if looks["basket"]:
            parts.append(box((0.5, -0.16, 0.72), (0.78, 0.16, 0.95), looks["wicker"]))
        hip, chest = np.array([-0.18, 0, 1.0]), np.array([0.1, 0, 1.44])
        for side in (-1, 1):
            a = phase + (np.pi if side > 0 else 0)
            foot = crank + 0.17 * np.array([np.cos(a), 0, -np.sin(a)]) + np.array([0.02, side * 0.1, 0.05])
            start = hip + np.array([0, side * 0.09, -0.02])
            knee = _joint(start, foot, 0.44, 0.46)
            girth = looks["girth"]
            parts.append(
                tube(
                    [start, (start + knee) / 2, knee, foot],
                    np.array([0.085, 0.08, 0.058, 0.042]) * girth,
                    looks["legs"],
                    8,
                )
            )
            parts.append(ellipsoid((foot[0] + 0.05, foot[1], foot[2] - 0.02), (0.12, 0.045, 0.04), looks["tyre"], 4))
            shoulder, hand = chest + np.array([0.02, side * 0.19, -0.04]), np.array([0.4, side * 0.27, 1.03])
            elbow = (shoulder + hand) / 2 + np.array([-0.06, side * 0.06, -0.07])
            parts.append(tube([shoulder, elbow, hand], [0.058, 0.048, 0.036], looks["top"], 7))
            parts.append(ellipsoid(tuple(hand), (0.05, 0.035, 0.035), looks["skin"], 4))
        line = hip + np.linspace(-0.08, 1.05, 6)[:, None] * (chest - hip)
        parts.append(
            _rings(
                line,
                np.array([0.1, 0.13, 0.125, 0.125, 0.12, 0.05]),
                np.array([0.13, 0.17, 0.155, 0.17, 0.2, 0.06]) * looks["girth"],
                looks["top"],
            )
        )
        parts.append(tube([chest, chest + np.array([0.07, 0, 0.12])], 0.05, looks["skin"], 7))
        parts.append(ellipsoid((0.2, 0, 1.63), (0.095, 0.076, 0.115), looks["skin"], 7))
        parts.append(ellipsoid((0.18, 0, 1.67), (0.115, 0.09, 0.095), looks["head"], 7))
        return join(parts)


def _joint(a: np.ndarray, b: np.ndarray, upper: float, lower: float) -> np.ndarray:
    """The knee between hip a and foot b, bent forward (x)."""
    along = b - a
    distance = min(np.linalg.norm(along), upper + lower - 1e-3)
    share = (upper**2 - lower**2 + distance**2) / (2 * distance)
    bend = np.sqrt(max(upper**2 - share**2, 0))
    along /= np.linalg.norm(along)
    forward = np.array([1.0, 0, 0]) - along[0] * along
    return a + along * share + forward / np.linalg.norm(forward) * bend
