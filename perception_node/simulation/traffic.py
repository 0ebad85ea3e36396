"""Who moves in the street, and where at any moment: functions of time, so that every frame can be made by itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from perception_node.simulation.layout import KERB_M, Actor, Layout
from perception_node.simulation.people import Cyclist, Pedestrian
from perception_node.simulation.vehicles import Vehicle, vehicle

_N_VEHICLES, _N_PEDESTRIANS, _N_CYCLISTS = 16, 14, 5
_FIRST_MOVING_ID = 10_000
"""Parked cars have the ids below it."""
_BEHIND_M, _AHEAD_M = 12.0, 150.0


@dataclass(frozen=True, slots=True)
class Ego:
    """How the camera's vehicle moves along the street.

    Attributes:
        speed: on average, m/s.
        sway: of the speed, 0..1, and its period, s.
        offset: to the left of the centre line, metres.
    """

    speed: float
    sway: tuple[float, float]
    offset: float

    def s(self, t: float) -> float:
        """Metres driven at t seconds."""
        amount, period = self.sway
        turn = 2 * np.pi / period
        return float(self.speed * (t + amount * np.sin(turn * t) / turn))

    def velocity(self, t: float) -> float:
        amount, period = self.sway
        return float(self.speed * (1 + amount * np.cos(2 * np.pi / period * t)))

    def arrival(self, s: float) -> float:
        """Seconds until it has driven s metres."""
        t = s / self.speed
        for _ in range(30):
            t -= (self.s(t) - s) / max(self.velocity(t), 0.5)
        return float(t)

    def lateral(self, t: float) -> float:
        return self.offset + 0.06 * float(np.sin(0.5 * t))


@dataclass(frozen=True, slots=True)
class Mover:
    """Someone who moves evenly along the road, or, on foot, across it.

    Attributes:
        id: of the instance.
        figure: what it looks like.
        s, t: at 0 s, along and left of the centre line; metres.
        speed: along the road, m/s; below 0 against its direction.
        across: (when it starts to cross, at which speed along t), or None.
        z: of the ground under it.
    """

    id: int
    figure: Vehicle | Pedestrian | Cyclist
    s: float
    t: float
    speed: float
    across: tuple[float, float] | None = None
    z: float = 0.0


@dataclass(eq=False)
class Wardrobe:
    """The figures of one street: its vehicles and people look like some of these."""

    rng: np.random.Generator
    lamps: bool
    vehicles: list[Vehicle] = field(init=False)
    pedestrians: list[Pedestrian] = field(init=False)
    cyclists: list[Cyclist] = field(init=False)

    def __post_init__(self):
        seeds = self.rng.integers(2**31, size=_N_PEDESTRIANS + _N_CYCLISTS).tolist()
        kinds = [None] * (_N_VEHICLES - 4) + ["hatchback", "saloon", "suv", "van"]
        self.vehicles = [vehicle(self.rng, kind, self.lamps) for kind in kinds]
        self.pedestrians = [Pedestrian(seed) for seed in seeds[:_N_PEDESTRIANS]]
        self.cyclists = [Cyclist(seed) for seed in seeds[_N_PEDESTRIANS:]]

    def parked(self, number: int) -> Vehicle:
        """The vehicle of the parked car `number`: one that fits into a bay."""
        short = [car for car in self.vehicles if car.size[0] < 5.6]
        return short[number * 7919 % len(short)]


class Traffic:
    """
    Args:
        rng: says who and when.
        layout: of the street.
        wardrobe: what they look like.
        seconds: of the drive.
    """

    def __init__(self, rng: np.random.Generator, layout: Layout, wardrobe: Wardrobe, seconds: float):
        self._layout, self._wardrobe = layout, wardrobe
        drive, lane = layout.drive, layout.lane
        self.ego = Ego(
            float(rng.uniform(6.5, 9.5)),
            (float(rng.uniform(0.1, 0.35)), float(rng.uniform(9, 17))),
            drive * (lane / 2 - 0.25),
        )
        self._lead = None
        if rng.random() < 0.75:
            figure = wardrobe.vehicles[rng.integers(_N_VEHICLES)]
            self._lead = (figure, float(rng.uniform(15, 30)) + figure.size[0] / 2, float(rng.uniform(0, 6)))
        end = self.ego.s(seconds) + _AHEAD_M
        self._movers = sorted(self._all(rng, end, seconds), key=lambda mover: mover.id)

    def _all(self, parent: np.random.Generator, end: float, seconds: float) -> Iterator[Mover]:
        layout, wardrobe, id_ = self._layout, self._wardrobe, _FIRST_MOVING_ID
        # Each kind has a generator of its own: a longer drive has more of all, and begins with the same.
        rng, cycling, crossing, *walking = parent.spawn(5)
        drive, lane = layout.drive, layout.lane
        # One speed for all in a lane: nobody runs into anybody.
        speed, gap = float(rng.uniform(6, 10)), float(rng.uniform(25, 80))
        oncoming, s = [], float(rng.uniform(25, 60))
        while s < end + speed * seconds and len(oncoming) < 400:
            id_ += 1
            figure = wardrobe.vehicles[rng.integers(_N_VEHICLES)]
            s += figure.size[0] / 2
            oncoming.append(Mover(id_, figure, s, -drive * lane / 2, -speed))
            s += figure.size[0] / 2 + 6 + rng.exponential(gap)
        yield from oncoming
        id_, rng = 2 * _FIRST_MOVING_ID, cycling
        for s in np.arange(rng.uniform(15, 60), end, rng.uniform(60, 140)):
            id_ += 1
            along = rng.random() < 0.5
            side = drive if along else -drive
            pace = float(rng.uniform(3.2, 4.6))
            edge = layout.lane - 0.5
            figure = wardrobe.cyclists[rng.integers(_N_CYCLISTS)]
            start = float(s) + (0 if along else pace * self.ego.arrival(max(float(s), 1)) * 0.5)
            yield Mover(id_, figure, start, side * edge, pace if along else -pace)
        density = {"terraces": 16, "suburb": 22, "centre": 7, "mixed": 13}[layout.district] * parent.uniform(0.6, 1.6)
        for number, side in enumerate(layout.sides):
            id_, rng, s = (3 + number) * _FIRST_MOVING_ID, walking[number], -60.0
            while s < end + 60:
                s += rng.exponential(density) + 0.7
                inner, outer = side.edge + 1.25, side.edge + side.pavement - 0.3
                t = float(rng.uniform(inner, max(outer, inner + 0.1)))
                pace = float(rng.choice([-1, 1]) * rng.uniform(0.9, 1.6)) if rng.random() < 0.85 else 0.0
                beside = 0.65 if t < (inner + outer) / 2 else -0.65
                for k in range(1 if rng.random() < 0.75 else 2):  # some go in pairs
                    id_ += 1
                    figure = wardrobe.pedestrians[rng.integers(_N_PEDESTRIANS)]
                    yield Mover(id_, figure, s + 0.2 * k, side.sign * (t + k * beside), pace, z=KERB_M)
        id_, rng = 5 * _FIRST_MOVING_ID, crossing
        for s in layout.crossings:
            if s < 12 or rng.random() < 0.2:
                continue
            for k in range(int(rng.integers(1, 4))):
                id_ += 1
                figure = wardrobe.pedestrians[rng.integers(_N_PEDESTRIANS)]
                sign, pace = int(rng.choice([-1, 1])), float(rng.uniform(1.2, 1.6))
                width = layout.sides[0].edge + layout.sides[1].edge
                # Over before the ego vehicle is there, and not in front of others.
                start = self.ego.arrival(s) - width / pace - float(rng.uniform(1.2, 2.5)) - 0.8 * k
                passing = [(mover.s - s) / speed for mover in oncoming]
                if any(start - 1.5 < moment < start + width / pace + 1 for moment in passing):
                    continue
                side = layout.sides[0] if sign < 0 else layout.sides[1]
                yield Mover(
                    id_, figure, s + float(rng.uniform(-1, 1)), -sign * (side.edge + 0.5), 0.0, (start, sign * pace)
                )

    def at(self, t: float) -> list[Actor]:
        """Those near the ego vehicle at t seconds."""
        ego_s = self.ego.s(t)
        actors = []
        if self._lead:
            figure, gap, phase = self._lead
            s = ego_s + gap + 4 * float(np.sin(0.3 * t + phase))
            actors.append(self._vehicle(_FIRST_MOVING_ID, figure, s, self.ego.offset, 1))
        for mover in self._movers:
            s = mover.s + mover.speed * t
            if not ego_s - _BEHIND_M < s < ego_s + _AHEAD_M:
                continue
            direction = 1 if mover.speed >= 0 else -1
            if isinstance(mover.figure, Vehicle):
                actors.append(self._vehicle(mover.id, mover.figure, s, mover.t, direction))
            elif isinstance(mover.figure, Cyclist):
                pose = self._layout.pose(s, mover.t, 0.0 if direction > 0 else np.pi)
                mesh = mover.figure.riding(abs(mover.speed) * t + mover.id)
                actors.append(Actor.at(mover.id, "bicyclist", mesh, pose, mover.figure.size))
            else:
                actors.append(self._pedestrian(mover, s, t))
        return actors

    def _vehicle(self, id_: int, figure: Vehicle, s: float, t: float, direction: int) -> Actor:
        pose = self._layout.pose(s, t, 0.0 if direction > 0 else np.pi)
        return Actor.at(id_, "car", figure.mesh, pose, figure.size)

    def _pedestrian(self, mover: Mover, s: float, t: float) -> Actor:
        person, lateral, turned, z = mover.figure, mover.t, 0.0 if mover.speed >= 0 else np.pi, mover.z
        if mover.across:
            start, pace = mover.across
            left, right = self._layout.sides[0].edge, -self._layout.sides[1].edge
            walked = float(np.clip((t - start) * abs(pace), 0, left - right + 1.0))
            lateral += np.sign(pace) * walked
            mesh = person.walking(walked) if 0 < walked < left - right + 1.0 else person.standing
            z = 0.0 if right < lateral < left else KERB_M
            turned = np.pi / 2 * np.sign(pace)
        elif mover.speed:
            mesh = person.walking(abs(mover.speed) * t + mover.id)
        else:
            mesh, turned = person.standing, mover.id * 2.4
        return Actor.at(mover.id, "pedestrian", mesh, self._layout.pose(s, lateral, float(turned)), person.size, z)
