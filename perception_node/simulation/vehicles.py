"""Vehicles: bodies lofted over an outline seen from the side, painted from the side, the front and the rear."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception_node.simulation.mesh import Mesh, box, disc, ellipsoid, join, sheet, tube
from perception_node.simulation.textures import Color, Texture, canvas, finish, plain, varied

PX_PER_M = 72
PAINTS: tuple[Color, ...] = (
    (200, 202, 204),
    (160, 164, 168),
    (110, 114, 118),
    (60, 62, 66),
    (24, 25, 28),
    (228, 228, 226),
    (150, 24, 26),
    (34, 52, 110),
    (22, 60, 96),
    (90, 120, 150),
    (26, 70, 50),
    (120, 100, 74),
    (190, 170, 130),
    (200, 130, 30),
    (84, 20, 34),
)
PAINT_GLOSS, GLASS_GLOSS = 0.22, 0.6
GLASS, RUBBER = (26, 30, 33), (24, 24, 25)


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of vehicle.

    Attributes:
        width: metres, without mirrors.
        outline: (x from the rear, z) of the top as seen from the side, rear to front.
        belt: height of the lower edge of the windows.
        pillars: x of the posts between side windows; the first and the last are where glass begins and ends.
        axles: x.
        wheel: radius.
        share: of all vehicles.
    """

    width: float
    outline: tuple[tuple[float, float], ...]
    belt: float
    pillars: tuple[float, ...]
    axles: tuple[float, ...]
    wheel: float
    share: float

    @property
    def length(self) -> float:
        return self.outline[-1][0]

    @property
    def height(self) -> float:
        return max(z for _, z in self.outline)


SHAPES: dict[str, Shape] = {
    "hatchback": Shape(
        1.74,
        (
            (0, 0.42),
            (0.02, 0.72),
            (0.06, 0.9),
            (0.2, 1.0),
            (0.55, 1.36),
            (0.95, 1.45),
            (1.8, 1.48),
            (2.25, 1.42),
            (3.0, 1.0),
            (3.65, 0.86),
            (3.92, 0.7),
            (4.0, 0.42),
        ),
        0.94,
        (0.35, 1.02, 1.95, 2.95),
        (0.72, 3.22),
        0.31,
        0.3,
    ),
    "saloon": Shape(
        1.8,
        (
            (0, 0.42),
            (0.03, 0.75),
            (0.08, 0.95),
            (0.2, 1.0),
            (0.8, 1.04),
            (1.4, 1.36),
            (1.85, 1.43),
            (2.6, 1.44),
            (3.0, 1.37),
            (3.65, 0.99),
            (4.35, 0.84),
            (4.58, 0.68),
            (4.66, 0.42),
        ),
        0.93,
        (1.0, 1.55, 2.5, 3.55),
        (0.95, 3.72),
        0.32,
        0.22,
    ),
    "estate": Shape(
        1.79,
        (
            (0, 0.42),
            (0.03, 0.75),
            (0.08, 0.95),
            (0.15, 1.02),
            (0.5, 1.4),
            (0.9, 1.47),
            (2.6, 1.49),
            (3.0, 1.4),
            (3.65, 1.0),
            (4.3, 0.85),
            (4.52, 0.68),
            (4.6, 0.42),
        ),
        0.94,
        (0.3, 1.2, 1.75, 2.55, 3.55),
        (0.9, 3.65),
        0.32,
        0.12,
    ),
    "suv": Shape(
        1.87,
        (
            (0, 0.5),
            (0.03, 0.85),
            (0.08, 1.05),
            (0.15, 1.14),
            (0.45, 1.58),
            (0.85, 1.7),
            (2.4, 1.73),
            (2.85, 1.64),
            (3.45, 1.18),
            (4.15, 1.04),
            (4.42, 0.85),
            (4.5, 0.5),
        ),
        1.1,
        (0.3, 1.1, 1.65, 2.45, 3.35),
        (0.85, 3.6),
        0.36,
        0.14,
    ),
    "van": Shape(
        1.95,
        (
            (0, 0.42),
            (0.02, 1.2),
            (0.06, 1.85),
            (0.2, 1.97),
            (1.5, 2.02),
            (3.5, 2.0),
            (3.85, 1.9),
            (4.45, 1.22),
            (4.85, 1.02),
            (4.98, 0.8),
            (5.05, 0.42),
        ),
        1.15,
        (3.05, 3.15, 4.35),
        (0.95, 4.1),
        0.33,
        0.12,
    ),
    "bus": Shape(
        2.5,
        (
            (0, 0.4),
            (0.03, 1.5),
            (0.08, 2.9),
            (0.3, 3.06),
            (5, 3.1),
            (10.5, 3.08),
            (10.75, 2.9),
            (10.9, 1.3),
            (10.95, 0.4),
        ),
        1.25,
        (0.4, 1.9, 3.4, 4.9, 6.4, 7.9, 9.4, 10.6),
        (2.6, 8.4),
        0.48,
        0.04,
    ),
    "lorry": Shape(
        2.3,
        ((5.4, 0.6), (5.42, 2.4), (5.6, 2.65), (6.5, 2.68), (6.8, 2.5), (7.1, 1.45), (7.2, 1.2), (7.3, 0.5)),
        1.45,
        (5.9, 6.0, 6.95),
        (1.3, 6.4),
        0.46,
        0.06,
    ),
}


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A vehicle at rest on the ground, its middle at the origin, heading along x.

    Attributes:
        mesh: of it.
        size: (length, width, height), metres.
        kind: a key of SHAPES.
    """

    mesh: Mesh
    size: tuple[float, float, float]
    kind: str


def vehicle(rng: np.random.Generator, kind: str | None = None, lights: bool = False) -> Vehicle:
    """A vehicle of some make, `kind` or any.

    Args:
        lights: they are on.
    """
    if kind is None:
        shares = np.array([shape.share for shape in SHAPES.values()])
        kind = str(rng.choice(list(SHAPES), p=shares / shares.sum()))
    shape = SHAPES[kind]
    stretch = np.array([rng.uniform(0.94, 1.07), rng.uniform(0.97, 1.03), rng.uniform(0.96, 1.05)])
    paint = varied(rng, PAINTS[rng.integers(len(PAINTS))], 10)
    if kind in ("van", "lorry") and rng.random() < 0.6:
        paint = varied(rng, (224, 224, 222), 8)
    if kind == "bus":
        paint = varied(rng, ((170, 26, 30), (30, 90, 60), (220, 180, 50), (40, 70, 130))[rng.integers(4)], 10)
    parts = [_body(rng, shape, kind, paint, lights)]
    if kind == "lorry":
        load = finish(
            canvas(64, varied(rng, ((220, 220, 216), (60, 90, 140), (150, 50, 40))[rng.integers(3)], 12)), 0.08
        )
        parts.append(box((0, -1.22, 0.95), (5.3, 1.22, rng.uniform(3.0, 3.5)), load, 0.2, bottom=True))
        parts.append(box((0.1, -0.9, 0.5), (5.6, 0.9, 0.95), plain((34, 34, 36)), bottom=True))
        red = plain((190, 20, 20), 0.2, emission=0.8 if lights else 0.0)
        parts += [box((-0.02, y - 0.15, 0.75), (0.02, y + 0.15, 0.87), red) for y in (-0.95, 0.95)]
    parts += _wheels(rng, shape)
    if kind in ("hatchback", "saloon", "estate", "suv", "van"):
        mirror, x = plain(paint if rng.random() < 0.7 else (30, 30, 32), 0.1), shape.pillars[-1] - 0.28
        y, z = shape.width / 2 + 0.07, shape.belt + 0.09
        parts += [ellipsoid((x, side * y, z), (0.06, 0.11, 0.08), mirror, 4) for side in (-1, 1)]
    mesh = join(parts)
    corners = (mesh.corners - np.array([shape.length / 2, 0, 0], np.float32)) * stretch.astype(np.float32)
    normals = mesh.normals / stretch.astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    mesh = Mesh(corners, normals.astype(np.float32), mesh.uvs, mesh.texture_keys, mesh.textures)
    points = mesh.corners.reshape(-1, 3)
    length, width, _ = (points.max(0) - points.min(0)).tolist()
    return Vehicle(mesh, (length, width, float(points[:, 2].max())), kind)


def _body(rng: np.random.Generator, shape: Shape, kind: str, paint: Color, lights: bool) -> Mesh:
    outline = np.array(shape.outline)
    x0, x1 = outline[0, 0], outline[-1, 0]
    x = np.unique(np.concatenate([outline[:, 0], np.linspace(x0, x1, 24)]))
    top = np.interp(x, *outline.T)
    top[1:-1] = 0.25 * top[:-2] + 0.5 * top[1:-1] + 0.25 * top[2:] if kind not in ("bus", "lorry") else top[1:-1]
    half, height = shape.width / 2, shape.height
    boxy = kind in ("van", "bus", "lorry")
    ends = np.abs(2 * (x - x0) / (x1 - x0) - 1)
    waist = half * (1 - (0.06 if boxy else 0.16) * ends**5)
    low = np.full_like(x, 0.17 if not boxy else 0.24)
    low[[0, -1]] += 0.05
    belt = np.minimum(shape.belt, top - 0.02)
    tumble = 0.06 if boxy else 0.2
    edge = waist * (1 - tumble * np.clip((top - belt) / max(height - shape.belt, 0.1), 0, 1))
    rows = np.stack(
        [
            np.stack([waist * 0.86, low], 1),
            np.stack([waist * 0.97, low + 0.07], 1),
            np.stack([waist * 1.0, low + 0.45 * (belt - low)], 1),
            np.stack([waist * 0.985, belt - 0.3 * np.minimum(0.15, belt - low)], 1),
            np.stack([waist * 0.96, belt], 1),
            np.stack([edge * 0.99, np.maximum(belt, top - 0.07)], 1),
            np.stack([edge * 0.93, top - 0.02], 1),
            np.stack([edge * 0.6, top + 0.004], 1),
            np.stack([edge * 0.0, top + 0.01], 1),
        ],
        1,
    )  # (n, 9, 2): y, z
    points = np.concatenate([np.repeat(x[:, None, None], 9, 1), rows], -1)
    side = _side_picture(rng, shape, kind, paint)
    front, rear = (
        _end_picture(rng, shape, kind, paint, True, lights),
        _end_picture(rng, shape, kind, paint, False, lights),
    )
    parts = []
    side_uv = np.stack([(points[..., 0] - x0) / (x1 - x0), 1 - points[..., 2] / (height + 0.02)], -1)
    parts.append(sheet(points[:, :7], side, side_uv[:, :7]))
    # The rear half is painted as seen from behind, the front half as seen from ahead.
    end_uv = np.stack([0.5 - points[..., 1] / (2 * half), 1 - points[..., 2] / (height + 0.02)], -1)
    middle = int(np.argmax(x > (x0 + x1) / 2))
    for texture, part in ((rear, np.s_[: middle + 1]), (front, np.s_[middle:])):
        parts.append(sheet(points[part, 6:], texture, end_uv[part, 6:]))
    for texture, at in ((rear, 0), (front, -1)):
        line = points[at]
        center = np.stack([line[:, 0], 0 * line[:, 1], line[:, 2]], 1)
        grid = np.stack([line, center], 0) if at else np.stack([center, line], 0)
        uv = np.stack([end_uv[at], np.stack([np.full(9, 0.5), end_uv[at][:, 1]], 1)], 0)
        parts.append(sheet(grid, texture, uv if at else uv[::-1], smooth=False))
    floor = plain((22, 22, 23))
    body = join(parts)
    whole = [
        body,
        body.mirrored(),
        box((x0 + 0.25, -half * 0.9, 0.1), (x1 - 0.25, half * 0.9, 0.34), floor, bottom=True),
    ]
    return join(whole)


def _side_picture(rng: np.random.Generator, shape: Shape, kind: str, paint: Color) -> Texture:
    outline = np.array(shape.outline)
    x0, length, height = outline[0, 0], outline[-1, 0] - outline[0, 0], shape.height + 0.02
    size = (round(height * PX_PER_M), round(length * PX_PER_M))
    picture, gloss = canvas(size, paint), np.full(size, PAINT_GLOSS, np.float32)

    def at(x: float, z: float) -> tuple[int, int]:
        return round((x - x0) * PX_PER_M), round((height - z) * PX_PER_M)

    def polygon(points: list[tuple[float, float]], color: Color, shine: float) -> None:
        pixels = np.array([at(*point) for point in points], np.int32)
        cv2.fillPoly(picture, [pixels], color, cv2.LINE_AA)
        cv2.fillPoly(gloss, [pixels], shine)

    def line(a: tuple[float, float], b: tuple[float, float], color: Color, width: int = 1) -> None:
        cv2.line(picture, at(*a), at(*b), color, width, cv2.LINE_AA)

    dark = tuple(c * 0.35 for c in paint)
    plastic = (44, 44, 46) if rng.random() < 0.6 else dark
    polygon([(x0, 0), (x0 + length, 0), (x0 + length, 0.36), (x0, 0.36)], plastic, 0.03)
    roof = lambda at_x: float(np.interp(at_x, *outline.T))  # noqa: E731
    for a, b in zip(shape.pillars[:-1], shape.pillars[1:], strict=True):
        a, b = a + 0.045, b - 0.045
        if b - a < 0.15 or (kind == "bus" and rng.random() < 0.05):
            continue
        n = [a + (b - a) * f for f in (0, 0.25, 0.5, 0.75, 1)]
        upper = [(v, max(shape.belt + 0.02, roof(v) - (0.1 if height < 2 else 0.32))) for v in n]
        polygon([(a, shape.belt), *upper, (b, shape.belt)], GLASS, GLASS_GLOSS)
    if kind == "bus":
        stripe = tuple(255 - c * 0.4 for c in paint)
        polygon([(x0, 0.75), (x0 + length, 0.75), (x0 + length, 1.0), (x0, 1.0)], stripe, PAINT_GLOSS)
    doors = shape.pillars[1:] if kind not in ("bus", "lorry") else shape.pillars[-2:]
    for x in doors:
        line((x, 0.36), (x, roof(x) - 0.06 if x < shape.pillars[-1] else shape.belt), dark)
        line((x - 0.24, shape.belt - 0.1), (x - 0.1, shape.belt - 0.1), dark, 2)
    line((x0 + 0.2, shape.belt - 0.02), (shape.pillars[-1] + 0.2, shape.belt - 0.02), dark)
    for x in shape.axles:
        if x > x0 - 0.5:
            center, radius = at(x, shape.wheel), round((shape.wheel + 0.07) * PX_PER_M)
            cv2.circle(picture, center, radius, (12, 12, 13), -1, cv2.LINE_AA)
            cv2.circle(gloss, center, radius, 0, -1)
    lamp = max(0.62, shape.belt - 0.28)
    polygon([(x0, lamp), (x0 + 0.16, lamp), (x0 + 0.12, lamp + 0.2), (x0, lamp + 0.22)], (140, 16, 18), 0.4)
    end = x0 + length
    polygon(
        [(end - 0.42, lamp + 0.06), (end, lamp - 0.06), (end, lamp + 0.06), (end - 0.2, lamp + 0.14)],
        (206, 210, 212),
        0.5,
    )
    # Paint is lighter where it turns to the sky.
    rows = np.linspace(1.06, 0.86, size[0])[:, None, None]
    return finish(picture * rows, gloss)


def _end_picture(rng: np.random.Generator, shape: Shape, kind: str, paint: Color, front: bool, lights: bool) -> Texture:
    width, height = shape.width, shape.height + 0.02
    size = (round(height * PX_PER_M), round(width * PX_PER_M))
    picture, gloss = canvas(size, paint), np.full(size, PAINT_GLOSS, np.float32)

    def rectangle(y: float, z0: float, half: float, z1: float, color: Color, shine: float) -> None:
        """From z0 to z1, at both sides y of the middle."""
        for side in (-1, 1) if y else (1,):
            a = round((width / 2 + side * y - half) * PX_PER_M), round((height - z1) * PX_PER_M)
            b = round((width / 2 + side * y + half) * PX_PER_M), round((height - z0) * PX_PER_M)
            cv2.rectangle(picture, a, b, color, -1)
            cv2.rectangle(gloss, a, b, shine, -1)

    half, belt, top = width / 2, shape.belt, shape.height
    dark = (34, 34, 36)
    rectangle(0, 0, half, 0.34, dark if rng.random() < 0.6 else tuple(c * 0.6 for c in paint), 0.05)
    glazed = front or kind in ("hatchback", "saloon", "estate", "suv", "bus")
    if glazed:
        rectangle(
            0,
            belt + 0.06,
            half * (0.78 if kind in ("hatchback", "saloon", "estate", "suv") else 0.9),
            top - 0.1,
            GLASS,
            GLASS_GLOSS,
        )
    elif kind == "van":
        rectangle(0.42, belt + 0.15, 0.32, top - 0.25, GLASS, GLASS_GLOSS)
    if not front and kind in ("van", "lorry"):
        rectangle(0, 0.4, 0.01, top, tuple(c * 0.4 for c in paint), 0.05)
    lamp = max(0.6, belt - 0.3)
    if front:
        rectangle(0, lamp - 0.16, half * rng.uniform(0.35, 0.6), lamp + rng.uniform(-0.02, 0.08), dark, 0.1)
        rectangle(
            half * 0.74, lamp - 0.04, half * 0.2, lamp + 0.11, (250, 250, 244) if lights else (206, 212, 214), 0.55
        )
        rectangle(0, 0.36, half * 0.5, 0.46, dark, 0.02)
    else:
        rectangle(half * 0.8, lamp - 0.02, half * 0.14, lamp + 0.24, (235, 30, 26) if lights else (150, 18, 20), 0.4)
        rectangle(half * 0.8, lamp + 0.1, half * 0.12, lamp + 0.15, (200, 110, 40), 0.4)
        rectangle(0, lamp + 0.22, half * 0.5, lamp + 0.23, tuple(c * 0.5 for c in paint), 0.1)
    plate = (228, 226, 214) if front or rng.random() < 0.5 else (226, 190, 50)
    z = 0.44 if front else lamp - 0.02
    rectangle(0, z, 0.26, z + 0.11, plate, 0.05)
    for x in np.linspace(-0.2, 0.2, 7):
        a = round((half + x - 0.018) * PX_PER_M), round((height - z - 0.09) * PX_PER_M)
        cv2.rectangle(picture, a, (a[0] + 2, a[1] + 4), (40, 40, 44), -1)
    return finish(picture, gloss)


def _wheels(rng: np.random.Generator, shape: Shape) -> list[Mesh]:
    tyre, wide = plain(RUBBER), 0.2 if shape.wheel < 0.4 else 0.3
    size = 48
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius, angle = np.hypot(x, y) / (size / 2), np.arctan2(y, x)
    spokes = int(rng.integers(5, 11))
    rim = (radius < 0.68) & ((np.cos(angle * spokes) > rng.uniform(-0.5, 0.5)) | (radius < 0.2) | (radius > 0.6))
    alloy = finish(np.where(rim[..., None], varied(rng, (150, 152, 154), 20), RUBBER).astype(np.float32), 0.15)
    parts = []
    for at in shape.axles:
        for side in (-1, 1):
            outer = side * (shape.width / 2 - 0.03)
            inner = outer - side * wide
            parts.append(tube([[at, inner, shape.wheel], [at, outer, shape.wheel]], shape.wheel, tyre, 18))
            parts.append(
                disc(np.array([at, outer + side * 0.008, shape.wheel]), [0, side, 0], shape.wheel * 0.98, alloy)
            )
    return parts
