"""What stands along a street: its cross-section, junctions, crossings, houses, trees, furniture and parked cars.

A street is a list of items by arc length, each made from a seed of its own when it comes into view, so that a street
can be long, and the part that is built does not depend on the order in which it is looked at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from perception_node.simulation import buildings, furniture, greenery, surfaces
from perception_node.simulation.furniture import Labelled
from perception_node.simulation.light import Light
from perception_node.simulation.mesh import Mesh, disc, join, quad, sheet
from perception_node.simulation.road import Road
from perception_node.simulation.textures import Texture
from perception_node.simulation.vehicles import Vehicle

KERB_M = 0.04
KERB_WIDTH_M = 0.15
PAINT_M = 0.004
"""How thick paint lies on the road; it must be above it."""
BAY_M = 2.1
_MAX_PARKED = 5000
"""On a side."""
_CORNER_M = 4.0
_SIDE_LENGTH_M = 65.0
_SLICE_M = 20.0
_BEHIND_M = 16.0
"""Beyond the pavement: paved as far as this."""


@dataclass(frozen=True, slots=True)
class Actor:
    """An instance at one moment.

    Attributes:
        id: 1..65535, the same over the drive.
        category: the class's name.
        mesh: of it, where it is.
        x, y, z, heading: of its middle on the ground; metres and radians.
        size: (length, width, height).
    """

    id: int
    category: str
    mesh: Mesh
    x: float
    y: float
    z: float
    heading: float
    size: tuple[float, float, float]

    @classmethod
    def at(cls, id: int, category: str, mesh: Mesh, pose: tuple[float, float, float], size, z: float = 0.0) -> "Actor":
        x, y, heading = pose
        return cls(id, category, mesh.moved(x, y, z, heading), x, y, z, heading, size)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that stands, or several things.

    Attributes:
        start, end: the stretch of the road where it is, by arc length.
        build: makes it; always the same.
        ground: it is what one walks and drives on.
    """

    start: float
    end: float
    build: Callable[[], "Labelled | Actor"]
    ground: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the street.

    Attributes:
        sign: 1 left, -1 right.
        bay: there is a row of parking bays.
        edge: from the centre line to the kerb.
        pavement: its width.
        garden: from the pavement to the houses.
        border: what bounds the gardens: "none", "wall", "hedge", "railing" or "boards".
        trees: metres between them; 0 for none.
    """

    sign: int
    bay: bool
    edge: float
    pavement: float
    garden: float
    border: str
    trees: float

    @property
    def front(self) -> float:
        """From the centre line to the houses."""
        return self.edge + self.pavement + self.garden


@dataclass(frozen=True, slots=True)
class Junction:
    """A side street.

    Attributes:
        s: where its middle is.
        sign: on which side.
        width: of its road.
    """

    s: float
    sign: int
    width: float

    @property
    def half_gap(self) -> float:
        """Between its middle and where the kerb of the main road goes on."""
        return self.width / 2 + _CORNER_M


class Layout:
    """
    Args:
        seed: of everything in it.
        road: the centre line.
        light: by which lamps are lit.
        park: makes the vehicle number n that is parked.

    Attributes:
        drive: the side on which one drives: 1 left, -1 right.
        lane: a lane's width, metres.
        sides: left and right.
        junctions: by s.
        crossings: s of zebra crossings.
        items: all that stands.
    """

    def __init__(self, seed: int, road: Road, light: Light, park: Callable[[int], Vehicle]):
        self.seed, self.road, self.light, self._park = seed, road, light, park
        rng = self._rng(0)
        self.drive = 1 if rng.random() < 0.5 else -1
        self.lane = float(rng.uniform(3.3, 3.8))
        self.district = str(rng.choice(["terraces", "suburb", "centre", "mixed"]))
        self.sides = tuple(self._side(rng, sign) for sign in (1, -1))
        self.textures: dict[str, Texture] = {
            "asphalt": surfaces.asphalt(rng),
            "paving": surfaces.paving(rng),
            "forecourt": surfaces.paving(rng),
            "kerb": surfaces.kerb(rng),
            "paint": surfaces.road_paint(rng),
            "yellow": surfaces.road_paint(rng, (214, 180, 60)),
            "grass": surfaces.grass(rng),
            "iron": surfaces.iron(rng),
        }
        self.textures["bay"] = self.textures["asphalt"] if rng.random() < 0.6 else surfaces.asphalt(rng)
        self.marks = {
            "dash": rng.uniform(1.5, 4),
            "gap": rng.uniform(2, 6),
            "solid": rng.random() < 0.15,
            "edge": rng.random() < 0.3,
            "yellow": self.drive > 0 and rng.random() < 0.5,
            "none": rng.random() < 0.12,
        }
        self._lit = float(rng.uniform(0.15, 0.4)) if light.lamps else 0.0
        self.junctions, self.crossings = self._places(rng)
        self.items = sorted(self._items(), key=lambda item: item.start)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _side(self, rng: np.random.Generator, sign: int) -> Side:
        bay = bool(rng.random() < 0.6)
        suburb = self.district in ("suburb", "mixed") and rng.random() < 0.8
        garden = float(rng.uniform(2.5, 6) if suburb else rng.choice([0.0, rng.uniform(0.8, 2)]))
        border = "none" if garden < 0.5 else str(rng.choice(["wall", "hedge", "railing", "boards", "none"]))
        trees = float(rng.uniform(9, 22)) if rng.random() < 0.65 else 0.0
        pavement = float(rng.uniform(2.4, 4.2))
        return Side(sign, bay, self.lane + BAY_M * bay, pavement, garden, border, trees)

    def _places(self, rng: np.random.Generator) -> tuple[list[Junction], list[float]]:
        """Where side streets and crossings are: on straights."""
        junctions, crossings = [], []
        for start, end in self.road.straights:
            free = [start + 14, end - 14]
            if free[1] - free[0] > 0 and rng.random() < 0.75:
                s = rng.uniform(*free)
                junctions.append(Junction(float(s), int(rng.choice([-1, 1])), float(rng.uniform(5, 7))))
                free = [s + 16, end - 4]
            if free[1] - free[0] > 0 and rng.random() < 0.8:
                crossings.append(float(rng.uniform(*free)))
        return junctions, crossings

    def near(self, start: float, end: float) -> list[Item]:
        """What reaches into a stretch of the road."""
        return [item for item in self.items if item.start < end and item.end > start]

    def pose(self, s: float, t: float, turned: float = 0.0) -> tuple[float, float, float]:
        x, y, heading = self.road.pose(s, t)
        return x, y, heading + turned

    def _items(self) -> Iterator[Item]:
        yield from self._ground_items()
        for number, junction in enumerate(self.junctions):
            span = junction.s - junction.half_gap, junction.s + junction.half_gap
            yield Item(*span, lambda j=junction, n=number: self._junction_ground(j, n), ground=True)
            yield Item(*span, lambda j=junction, n=number: self._junction_houses(j, n))
        for number, s in enumerate(self.crossings):
            yield Item(s - 2, s + 2, lambda s=s: self._zebra(s), ground=True)
            for side in self.sides:
                yield self._on_pavement(9, number, s - 2.2 * side.sign * self.drive, side, 0.35, furniture.sign)
        for side in self.sides:
            yield from self._frontage(side)
            yield from self._along_kerb(side)
            if side.bay:
                yield from self._parked(side)

    # The ground

    def _ground_items(self) -> Iterator[Item]:
        s = self.road.start
        while s < self.road.end:
            e = min(s + _SLICE_M, self.road.end)
            yield Item(s, e, lambda s=s, e=e: self._ground(s, e), ground=True)
            s = e

    def _strip(self, s: np.ndarray, t0: float, t1: float, z0: float, z1: float, texture: str, size: float) -> Mesh:
        """Between two lines along the road, t0 on the right; its texture is `size` metres wide."""
        points = np.stack([self.road.points(s, t0, z0), self.road.points(s, t1, z1)], 1)
        width = np.hypot(t1 - t0, z1 - z0)
        across = np.array([t0, t0 + width]) / size
        uvs = np.stack(np.broadcast_arrays(s[:, None] / size, across[None, :]), -1)
        return sheet(points, self.textures[texture], uvs)

    def _ground(self, start: float, end: float) -> Labelled:
        s = np.linspace(start, end, max(2, int((end - start) / 2) + 1))
        road, pavement = [self._strip(s, -self.lane, self.lane, 0, 0, "asphalt", 8)], []
        for side in self.sides:
            inner, outer = side.edge, side.edge + side.pavement
            if side.bay:
                a, b = sorted((side.sign * self.lane, side.sign * side.edge))
                road.append(self._strip(s, a, b, 0, 0, "bay", 8))
            for part in self._between_junctions(s, side):
                lines = ((inner, inner, 0, KERB_M, "kerb", 1), (inner, inner + KERB_WIDTH_M, KERB_M, KERB_M, "kerb", 1))
                lines += ((inner + KERB_WIDTH_M, outer, KERB_M, KERB_M, "paving", 4),)
                lines += ((outer, outer + _BEHIND_M, KERB_M, KERB_M, "forecourt", 4),)
                for t0, t1, z0, z1, texture, size in lines:
                    if side.sign < 0:
                        t0, t1, z0, z1 = -t1, -t0, z1, z0
                    pavement.append(self._strip(part, t0, t1, z0, z1, texture, size))
        road.append(self._markings(start, end))
        return [("road", join(road)), ("pavement", join(pavement))]

    def _between_junctions(self, s: np.ndarray, side: Side) -> Iterator[np.ndarray]:
        start, end = s[0], s[-1]
        for junction in self.junctions:
            if junction.sign != side.sign or junction.s + junction.half_gap <= start:
                continue
            gap = junction.s - junction.half_gap
            if gap >= end:
                break
            if gap > start:
                yield np.unique(np.concatenate([[start], s[(s > start) & (s < gap)], [gap]]))
            start = junction.s + junction.half_gap
        if start < end:
            yield np.unique(np.concatenate([[start], s[(s > start) & (s < end)], [end]]))

    def _line(self, s0: float, s1: float, t: float, width: float, texture: str = "paint") -> Mesh:
        s = np.linspace(s0, s1, max(2, int((s1 - s0) / 2) + 1))
        return self._strip(s, t - width / 2, t + width / 2, PAINT_M, PAINT_M, texture, 2)

    def _markings(self, start: float, end: float) -> Mesh:
        marks, parts, rng = self.marks, [], self._rng(1, int(start * 2) % 2**31)
        period = marks["dash"] + marks["gap"]
        if not marks["none"]:
            for k in range(int(np.floor(start / period)), int(np.ceil(end / period))):
                a, b = max(k * period, start), min(k * period + marks["dash"], end)
                if marks["solid"]:
                    b = min((k + 1) * period, end)
                if b > a and not any(abs((a + b) / 2 - s) < 3.5 for s in self.crossings):
                    parts.append(self._line(a, b, 0, 0.12))
        for side in self.sides:
            s = np.array([start, end])
            for part in self._between_junctions(s, side):
                a, b = part[0], part[-1]
                if side.bay:
                    for x in np.arange(np.ceil(a / 6) * 6, b, 6):
                        t = side.sign * (self.lane + BAY_M / 2)
                        parts.append(
                            self._strip(
                                np.array([x - 0.05, x + 0.05]),
                                t - BAY_M / 2,
                                t + BAY_M / 2,
                                PAINT_M,
                                PAINT_M,
                                "paint",
                                2,
                            )
                        )
                    parts.append(self._line(a, b, side.sign * self.lane, 0.08))
                elif marks["yellow"]:
                    parts += [self._line(a, b, side.sign * (side.edge - d), 0.07, "yellow") for d in (0.25, 0.42)]
                elif marks["edge"]:
                    parts.append(self._line(a, b, side.sign * (side.edge - 0.3), 0.12))
        if rng.random() < 0.5:
            place = self.road.points(rng.uniform(start, end), rng.uniform(-1, 1) * self.lane * 0.7, PAINT_M / 2)
            parts.append(disc(place, [0, 0, 1], 0.32, self.textures["iron"]))
        return join(parts)

    def _zebra(self, s: float) -> Labelled:
        left, right = self.sides[0].edge, -self.sides[1].edge
        t = np.arange(right + 0.3, left - 0.5, 1.0)
        stripes = [self._strip(np.array([s - 1.5, s + 1.5]), a, a + 0.5, PAINT_M, PAINT_M, "paint", 2) for a in t]
        return [("road", join(stripes))]

    def _junction_ground(self, junction: Junction, number: int) -> Labelled:
        """In a frame at the main road's kerb: x out of the main road, y along it."""
        side = self._side_of(junction.sign)
        half, deep = junction.width / 2, side.pavement + side.garden
        arc = _CORNER_M * (1 - np.sin(np.linspace(0, np.pi / 2, 7)))
        x = np.concatenate(
            [
                _CORNER_M * (1 - np.cos(np.linspace(0, np.pi / 2, 7))),
                [max(deep, 4.5), max(deep, 4.5) + 0.01, _SIDE_LENGTH_M],
            ]
        )
        edge = half + np.concatenate([arc, [0, 0, 0]])
        outer = np.where(np.arange(10) < 8, junction.half_gap, half + 2.4)
        parts: dict[str, list[Mesh]] = {"road": [], "pavement": []}

        def flat(y0: np.ndarray, y1: np.ndarray, z0: float, z1: float, texture: str, size: float) -> Mesh:
            points = np.stack([np.stack([x, y0, 0 * x + z0], 1), np.stack([x, y1, 0 * x + z1], 1)], 1)
            return sheet(points, self.textures[texture], points[..., :2] / size)

        parts["road"].append(flat(-edge, edge, 0, 0, "asphalt", 8))
        # The bottom of the mouth: the main road has no bay there.
        for sign in (1, -1):
            a, b = sign * edge, sign * outer
            stone = sign * (edge + KERB_WIDTH_M)
            lines = [
                (a, a, 0, KERB_M, "kerb", 1),
                (a, stone, KERB_M, KERB_M, "kerb", 1),
                (stone, b, KERB_M, KERB_M, "paving", 4),
            ]
            for y0, y1, z0, z1, texture, size in lines:
                if sign < 0:
                    y0, y1, z0, z1 = y1, y0, z1, z0
                parts["pavement"].append(flat(y0, y1, z0, z1, texture, size))
        rng = self._rng(2, number)
        if rng.random() < 0.7:
            paint = self.textures["paint"]
            lane = -half if self.drive > 0 else 0.0  # the half for those who come out
            points = [
                (0.5, lane, PAINT_M),
                (0.8, lane, PAINT_M),
                (0.8, lane + half, PAINT_M),
                (0.5, lane + half, PAINT_M),
            ]
            parts["road"].append(quad(points, paint, (0.3, half / 2)))
            for k in range(2, 8):
                points = [
                    (4 * k, -0.05, PAINT_M),
                    (4 * k + 2, -0.05, PAINT_M),
                    (4 * k + 2, 0.05, PAINT_M),
                    (4 * k, 0.05, PAINT_M),
                ]
                parts["road"].append(quad(points, paint))
        x0, y0, heading = self.pose(junction.s, junction.sign * side.edge, junction.sign * np.pi / 2)
        return [(name, join(meshes).moved(x0, y0, 0, heading)) for name, meshes in parts.items()]

    def _side_of(self, sign: int) -> Side:
        return self.sides[0] if sign > 0 else self.sides[1]

    # Houses

    def _junction_houses(self, junction: Junction, number: int) -> Labelled:
        rng, side = self._rng(3, number), self._side_of(junction.sign)
        back = side.pavement + side.garden + 10.5
        found: Labelled = []
        for sign in (1, -1):
            x = back
            while x < _SIDE_LENGTH_M - 6:
                width = rng.uniform(6, 11)
                y = sign * (junction.width / 2 + 2.4)
                house = buildings.building(rng, width, rng.uniform(7, 10), self._kind(rng), self._lit)
                found.append(("building", house.moved(x + width / 2, y, KERB_M, sign * np.pi / 2)))
                x += width + rng.choice([0.0, 0.0, 3.0])
        end = buildings.building(rng, 24, 10, "flats", self._lit).moved(_SIDE_LENGTH_M, 0, 0)
        found.append(("building", end))
        x0, y0, heading = self.pose(junction.s, junction.sign * side.edge, junction.sign * np.pi / 2)
        return [(name, mesh.moved(x0, y0, 0, heading)) for name, mesh in found]

    def _kind(self, rng: np.random.Generator) -> str:
        shares = {
            "terraces": (0.8, 0.04, 0.06, 0.1),
            "suburb": (0.15, 0.8, 0.05, 0.0),
            "centre": (0.1, 0.0, 0.35, 0.55),
            "mixed": (0.35, 0.25, 0.2, 0.2),
        }[self.district]
        return str(rng.choice(["terrace", "villa", "flats", "shop"], p=shares))

    def _frontage(self, side: Side) -> Iterator[Item]:
        """Houses, gardens and small parks from one junction to the next."""
        rng = self._rng(4, side.sign + 1)
        s, number, kind = self.road.start, 0, self._kind(rng)
        gaps = [(j.s - j.width / 2 - 2.6, j.s + j.width / 2 + 2.6) for j in self.junctions if j.sign == side.sign]
        width = 8.0
        while s < self.road.end - 12:
            number += 1
            if rng.random() < (0.25 if self.district == "terraces" else 0.5):
                kind = self._kind(rng)
            if kind != "terrace" or rng.random() < 0.2:
                low, high = {"terrace": (5, 7.5), "villa": (8, 12), "flats": (11, 20), "shop": (6, 11)}[kind]
                width = float(rng.uniform(low, high))
            end = s + width
            blocked = next((gap for gap in gaps if s < gap[1] and end > gap[0]), None)
            if blocked:
                if blocked[0] - s > 4.5:
                    end = blocked[0]
                else:
                    s = blocked[1]
                    continue
            if rng.random() < 0.07 and end - s > 6:
                yield Item(s, end, lambda s=s, e=end, n=number: self._park_plot(side, s, e, n))
            else:
                yield Item(s, end, lambda s=s, e=end, n=number, k=kind: self._plot(side, s, e, n, k))
            s = end + (float(rng.uniform(1.5, 5)) if kind == "villa" else 0.0 if rng.random() < 0.9 else 1.2)

    def _chord(self, side: Side, s0: float, s1: float, t: float) -> tuple[float, float, float, float]:
        """(x, y, heading outwards, length) of the middle of a straight front at `t` from the centre line."""
        a, b = self.road.points(np.array([s0, s1]), side.sign * t)
        along = b - a
        x, y, _ = (a + b) / 2
        heading = np.arctan2(along[1], along[0]) + side.sign * np.pi / 2
        return float(x), float(y), float(heading), float(np.hypot(*along[:2]))

    def _plot(self, side: Side, s0: float, s1: float, number: int, kind: str) -> Labelled:
        rng = self._rng(5, side.sign + 1, number)
        setback = side.front + (float(rng.uniform(0, 1.5)) if kind == "villa" else 0.0)
        x, y, heading, length = self._chord(side, s0, s1, setback)
        house = buildings.building(rng, length, rng.uniform(7.5, 10), kind, self._lit)
        found = [("building", house.moved(x, y, KERB_M, heading))]
        if side.garden > 0.5:
            found += self._border(rng, side, s0, s1, side.border, opening=rng.random() < 0.8)
            if side.garden > 2 and rng.random() < 0.6:
                at = self.road.points(
                    rng.uniform(s0 + 1, s1 - 1), side.sign * (side.edge + side.pavement + side.garden / 2)
                )
                plant = greenery.bush(rng, rng.uniform(0.5, 1.0))
                found.append(("tree", plant.moved(*at[:2], KERB_M)))
        return found

    def _border(self, rng: np.random.Generator, side: Side, s0: float, s1: float, kind: str, opening: bool) -> Labelled:
        x, y, heading, length = self._chord(side, s0, s1, side.edge + side.pavement + 0.25)
        gate = rng.uniform(0.25, 0.75) * length if opening else length + 1
        pieces = [(0.0, gate - 0.6), (gate + 0.6, length)] if opening else [(0.0, length)]
        found: Labelled = []
        for a, b in pieces:
            if kind == "none" or b - a < 0.5:
                continue
            if kind == "hedge":
                made: Labelled = [("tree", greenery.hedge(rng, b - a, 1.0 + 0.9 * rng.random()))]
            else:
                made = {"wall": furniture.garden_wall, "railing": furniture.railing, "boards": furniture.board_fence}[
                    kind
                ](rng, b - a)
            # Along x from 0 to along the front: its x axis is the outward heading turned to the right.
            turn = heading - np.pi / 2
            for name, mesh in made:
                moved = mesh.moved(a - length / 2).moved(x, y, KERB_M, turn)
                found.append((name, moved))
        return found

    def _park_plot(self, side: Side, s0: float, s1: float, number: int) -> Labelled:
        rng = self._rng(6, side.sign + 1, number)
        found = self._border(rng, side, s0, s1, str(rng.choice(["railing", "hedge", "wall"])), opening=False)
        for _ in range(int(rng.integers(2, 5))):
            t = side.sign * (side.edge + side.pavement + rng.uniform(2.5, 13))
            x, y, _ = self.road.points(rng.uniform(s0 + 1, s1 - 1), t)
            found += [(name, mesh.moved(x, y, 0)) for name, mesh in self._tree(rng, rng.uniform(6, 13))]
        return found

    # What stands on the pavement

    def _tree(self, rng: np.random.Generator, height: float) -> Labelled:
        grow = greenery.bare_tree if self._winter else greenery.leafy_tree
        if rng.random() < 0.12:
            grow = greenery.conifer
        trunk, crown = grow(rng, height)
        return [("tree", trunk), ("tree", crown)]

    @property
    def _winter(self) -> bool:
        return bool(self._rng(7).random() < 0.25)

    def _on_pavement(
        self,
        kind: int,
        number: int,
        s: float,
        side: Side,
        inward: float,
        make: Callable[..., Labelled],
        *args,
        face=True,
    ) -> Item:
        """Something `inward` metres from the kerb; its -x faces those who drive on that side, its -y the road."""

        def build() -> Labelled:
            rng = self._rng(kind, side.sign + 1, number)
            ahead = 0.0 if side.sign == self.drive else np.pi
            turned = ahead if face else (0.0 if side.sign > 0 else np.pi)
            x, y, heading = self.pose(s, side.sign * (side.edge + inward), turned)
            return [(name, mesh.moved(x, y, KERB_M, heading)) for name, mesh in make(rng, *args)]

        return Item(s, s, build)

    def _free(self, s: float, side: Side, margin: float) -> bool:
        """Whether no junction is near on that side."""
        return all(j.sign != side.sign or abs(s - j.s) > j.half_gap + margin for j in self.junctions)

    def _along_kerb(self, side: Side) -> Iterator[Item]:
        rng = self._rng(8, side.sign + 1)
        taken: list[float] = list(self.crossings)

        def free(s: float, margin: float) -> bool:
            return self._free(s, side, 1.0) and all(abs(s - other) > margin for other in taken)

        spacing = float(rng.uniform(22, 38))
        for number, s in enumerate(np.arange(self.road.start + rng.uniform(0, 20), self.road.end, spacing)):
            if free(s, 2):
                taken.append(s)
                yield self._on_pavement(10, number, s, side, 0.45, furniture.lamp_post, self.light.lamps, face=False)
        rng = self._rng(17, side.sign + 1)  # one for each kind: a longer street begins with the same
        if side.trees:
            low, high = sorted(rng.uniform(5, 13, 2))
            for number, s in enumerate(np.arange(self.road.start + rng.uniform(0, 9), self.road.end, side.trees)):
                s += rng.normal(0, 0.8)
                if free(s, 2.5) and rng.random() < 0.85:
                    taken.append(s)
                    height = float(rng.uniform(low, high))
                    yield self._on_pavement(11, number, s, side, 0.75, self._tree, height, face=False)
        rng, s, number = self._rng(18, side.sign + 1), self.road.start + 10, 0
        while s < self.road.end:
            number += 1
            s += float(rng.uniform(8, 34))
            if not free(s, 1.2):
                continue
            taken.append(s)
            kind = rng.random()
            if kind < 0.55:
                yield self._on_pavement(12, number, s, side, 0.4, furniture.sign)
            elif kind < 0.9:
                for k in range(int(rng.integers(2, 6))):
                    yield self._on_pavement(13, number * 8 + k, s + 1.4 * k, side, 0.4, furniture.bollard)
            else:
                length = float(rng.uniform(3, 9))
                if self._free(s + length, side, 1.0):
                    yield self._on_pavement(14, number, s, side, 0.3, furniture.railing, length, face=False)
        rng = self._rng(19, side.sign + 1)
        for number, junction in enumerate(self.junctions):
            s = junction.s - (junction.half_gap + 0.8) * (1 if side.sign == self.drive else -1)
            if rng.random() < 0.5 and self._free(s, side, 0):
                yield self._on_pavement(15, number, s, side, 0.5, furniture.traffic_light, bool(rng.random() < 0.7))

    def _parked(self, side: Side) -> Iterator[Item]:
        rng = self._rng(16, side.sign + 1)
        s, share, number = self.road.start + 2, rng.uniform(0.4, 0.9), 0 if side.sign > 0 else _MAX_PARKED
        while s < self.road.end - 8:
            s += 6.0 + float(rng.uniform(0, 0.8))
            near = any(abs(s - j.s) < j.width / 2 + 8 for j in self.junctions) or any(
                abs(s - c) < 7 for c in self.crossings
            )
            if near or rng.random() > share:
                continue
            number += 1
            jitter = (float(rng.normal(0, 0.1)), float(rng.normal(0, 0.03)))
            yield Item(s - 3, s + 3, lambda s=s, n=number, d=jitter: self._parked_car(side, s, n, d))

    def _parked_car(self, side: Side, s: float, number: int, jitter: tuple[float, float]) -> Actor:
        car = self._park(number)
        t = side.sign * (self.lane + BAY_M / 2 + jitter[0] + 0.05)
        turned = (0.0 if side.sign == self.drive else np.pi) + jitter[1]
        return Actor.at(number, "car", car.mesh, self.pose(s, t, turned), car.size)
