"""Houses: terraces, villas, blocks of flats and shops, their fronts painted, their roofs built."""

import cv2
import numpy as np

from perception_node.simulation.mesh import Mesh, box, join, quad, sheet, triangles
from perception_node.simulation.textures import Color, Texture, canvas, finish, noise, plain, varied, write

PX_PER_M = 32
WALLS: dict[str, tuple[Color, ...]] = {
    "brick": ((150, 84, 62), (128, 70, 56), (166, 120, 84), (176, 150, 112), (112, 62, 52)),
    "render": ((226, 218, 200), (205, 196, 178), (232, 226, 216), (206, 170, 130), (170, 180, 186), (222, 196, 150)),
    "stone": ((176, 164, 140), (150, 142, 128), (188, 176, 150)),
    "concrete": ((160, 158, 152), (138, 138, 136)),
}
ROOFS: tuple[Color, ...] = ((112, 58, 44), (88, 84, 84), (70, 72, 80), (128, 78, 56), (96, 88, 78))
DOORS: tuple[Color, ...] = ((120, 24, 28), (24, 60, 44), (26, 40, 88), (70, 44, 30), (210, 208, 200), (30, 32, 36))
FASCIAS: tuple[Color, ...] = ((150, 30, 34), (24, 70, 130), (30, 96, 60), (200, 150, 40), (50, 50, 56), (120, 60, 110))


def wall(rng: np.random.Generator, kind: str, color: Color, height: int, width: int) -> np.ndarray:
    """Float32 (height, width, 3): bricks, blocks or plaster, at PX_PER_M."""
    size = height, width
    picture = canvas(size, color, 0.05 * noise(rng, size, 1.3) + 0.03 * noise(rng, size, 0.3))
    course = {"brick": 3, "stone": 10}.get(kind)
    if course:
        # Real courses of bricks are 75 mm, close to the size of a texel: what is left of them is a ripple.
        row = np.arange(height) // course
        length = course * (3 if kind == "brick" else 2)
        column = (np.arange(width)[None, :] + (row[:, None] % 2) * (length // 2)) // length
        shade = rng.normal(0, 0.09 if kind == "brick" else 0.06, (row.max() + 1, column.max() + 1))
        picture *= 1 + shade[row[:, None], column][..., None]
        picture[np.arange(height) % course == 0] *= 0.88 if kind == "brick" else 0.8
    if kind == "concrete":
        picture[:: 3 * PX_PER_M] *= 0.75
        picture[:, :: 3 * PX_PER_M] *= 0.8
    # Dirt runs down from the top and splashes up from the ground.
    y = np.linspace(0, 1, height)[:, None, None]
    return picture * (1 - 0.10 * np.exp(-y * 9) - 0.16 * np.exp(-(1 - y) * 14))


def facade(
    rng: np.random.Generator, width_m: float, floors: int, storey_m: float, kind: str, color: Color, ground: str
) -> tuple[Texture, list[tuple[float, float, float, float]]]:
    """A front and its windows, (x0, z0, x1, z1) in metres from its bottom left.

    Args:
        ground: what the ground floor is: "door", "shop" or "garage".
    """
    height, width = int(floors * storey_m * PX_PER_M), int(width_m * PX_PER_M)
    picture = wall(rng, kind, color, height, width)
    gloss = np.zeros((height, width), np.float32)
    bay = rng.uniform(2.1, 3.2)
    n_bays = max(1, int(width_m / bay))
    window_w, window_h = rng.uniform(0.9, min(1.7, 0.7 * width_m / n_bays)), rng.uniform(1.2, 1.75)
    frame = varied(rng, (225, 222, 214) if rng.random() < 0.75 else (70, 60, 54), 12)
    trim = varied(rng, (206, 200, 188) if rng.random() < 0.5 else tuple(c * 0.75 for c in color), 10)
    bars = rng.choice(["cross", "sash", "plain", "split"])
    windows = []

    def rectangle(x0: float, z0: float, x1: float, z1: float, fill: Color, shine: float = 0.0) -> tuple[slice, slice]:
        area = (
            slice(max(0, round(height - z1 * PX_PER_M)), max(0, round(height - z0 * PX_PER_M))),
            slice(max(0, round(x0 * PX_PER_M)), max(0, round(x1 * PX_PER_M))),
        )
        picture[area], gloss[area] = fill, shine
        return area

    def window(x0: float, z0: float, x1: float, z1: float) -> None:
        rectangle(x0 - 0.1, z0 - 0.12, x1 + 0.1, z0, tuple(c * 0.95 for c in trim))  # sill
        rectangle(x0 - 0.05, z0 - 0.18, x1 + 0.05, z0 - 0.12, tuple(c * 0.45 for c in color))  # its shadow
        rectangle(x0 - 0.06, z1, x1 + 0.06, z1 + 0.2, trim)  # lintel
        rectangle(x0, z0, x1, z1, frame)
        area = rectangle(x0 + 0.07, z0 + 0.07, x1 - 0.07, z1 - 0.07, (38, 44, 50), 0.55)
        glass = picture[area]
        rows = np.linspace(0, 1, glass.shape[0])[:, None, None]
        glass *= 0.65 + 0.7 * rows
        if rng.random() < 0.7:  # curtains or a blind
            cloth = np.asarray(varied(rng, (170, 164, 150), 40), np.float32)
            drawn = rng.uniform(0.1, 0.45)
            columns = np.linspace(0, 1, glass.shape[1])
            if rng.random() < 0.6:
                hung = (columns < drawn) | (columns > 1 - drawn)
                glass[:, hung] = cloth * (0.55 + 0.1 * np.sin(columns[hung] * 90))[None, :, None]
            else:
                glass[: int(drawn * 1.6 * len(glass))] = cloth * 0.6
        glass[: max(2, len(glass) // 12)] *= 0.45  # the reveal's shadow
        middle, cross = (x0 + x1) / 2, z0 + (z1 - z0) * (0.62 if bars == "cross" else 0.5)
        if bars in ("cross", "split"):
            rectangle(middle - 0.035, z0, middle + 0.035, z1, frame)
        if bars in ("cross", "sash"):
            rectangle(x0, cross - 0.035, x1, cross + 0.035, frame)
        windows.append((x0, z0, x1, z1))

    # A window's place in its bay is the same on all floors.
    centers = (np.arange(n_bays) + 0.5) * width_m / n_bays
    door_bay = int(rng.integers(n_bays)) if n_bays > 1 else 0
    for floor in range(floors):
        base = floor * storey_m
        if floor == 0 and ground == "shop":
            name = varied(rng, FASCIAS[rng.integers(len(FASCIAS))], 20)
            rectangle(0, 0, width_m, storey_m * 0.98, tuple(c * 0.8 for c in name))
            rectangle(0.1, storey_m * 0.78, width_m - 0.1, storey_m * 0.97, name)
            ink = (240, 236, 220) if rng.random() < 0.7 else (230, 190, 60)
            word = "".join(rng.choice(list("AEIOBCDLMNRST"), int(rng.integers(4, 9))))
            top, bottom = height - storey_m * 0.93 * PX_PER_M, height - storey_m * 0.82 * PX_PER_M
            write(picture, word, (0.2 * width, top), (0.8 * width, bottom), ink)
            n_panes = max(2, int(width_m / 1.6))
            edges = np.linspace(0.15, width_m - 0.15, n_panes + 1)
            for i, (a, b) in enumerate(_pairs(edges)):
                low = 0.05 if i == door_bay % n_panes else 0.5
                area = rectangle(a + 0.06, low, b - 0.06, storey_m * 0.74, (52, 54, 54), 0.5)
                shown = noise(rng, 64, 0.8)
                shown = cv2.resize(shown, picture[area].shape[1::-1])[..., None]
                tint = np.asarray(varied(rng, (150, 120, 90), 60), np.float32)
                picture[area] = 40 + np.clip(shown, 0, 2) * 0.35 * tint
            continue
        for i, x in enumerate(centers):
            if floor == 0 and ground == "garage" and i == door_bay and width_m / n_bays > 2.3:
                area = rectangle(x - 1.1, 0, x + 1.1, 2.1, varied(rng, (190, 190, 184), 40))
                picture[area][::6] *= 0.8
            elif floor == 0 and i == door_bay:
                rectangle(x - 0.62, 0, x + 0.62, 2.45, frame)
                area = rectangle(x - 0.48, 0.05, x + 0.48, 2.08, varied(rng, DOORS[rng.integers(len(DOORS))], 15))
                picture[area][:, ::14] *= 0.8
                rectangle(x - 0.48, 2.14, x + 0.48, 2.36, (60, 66, 72), 0.5)
                rectangle(x - 0.75, 0, x + 0.75, 0.14, (150, 146, 138))
            else:
                z0 = base + rng.normal(0, 0.001) + 0.85 + (storey_m - 2.6) * 0.3
                window(x - window_w / 2, z0, x + window_w / 2, min(z0 + window_h, base + storey_m - 0.25))
    if floors > 1 and rng.random() < 0.5:  # string courses
        for floor in range(1, floors):
            rectangle(0, floor * storey_m - 0.1, width_m, floor * storey_m + 0.08, trim)
    rectangle(0, floors * storey_m - 0.25, width_m, floors * storey_m, tuple(c * 0.9 for c in trim))
    if rng.random() < 0.7:  # a rainwater pipe
        x = 0.15 if rng.random() < 0.5 else width_m - 0.25
        rectangle(x, 0, x + 0.1, floors * storey_m, tuple(c * 0.4 for c in (200, 200, 200)))
    return finish(picture, gloss), windows


def _pairs(values: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(values[:-1].tolist(), values[1:].tolist(), strict=True))


def roof_texture(rng: np.random.Generator) -> Texture:
    """Tiles or slates, 4 m x 4 m."""
    size, course = 128, 8
    row = np.arange(size) // course
    column = (np.arange(size)[None, :] + (row[:, None] % 2) * 5) // 10
    shade = 0.10 * rng.standard_normal((row.max() + 1, column.max() + 1))[row[:, None], column]
    color = varied(rng, ROOFS[rng.integers(len(ROOFS))], 12)
    picture = canvas(size, color, shade + 0.08 * noise(rng, size, 1.3))
    picture[::course] *= 0.7
    return finish(picture, 0.03)


def building(rng: np.random.Generator, width: float, depth: float, kind: str, lit: float = 0.0) -> Mesh:
    """A house whose front is the plane x = 0, seen from -x, from y = -width / 2 to width / 2; it reaches to x = depth.

    Args:
        kind: "terrace", "villa", "flats" or "shop".
        lit: the share of windows with light in them.
    """
    floors = {"terrace": (2, 3), "villa": (1, 2), "flats": (3, 6), "shop": (2, 4)}[kind]
    floors = int(rng.integers(floors[0], floors[1] + 1))
    storey = float(rng.uniform(2.6, 3.2))
    walls = {
        "terrace": ("brick", "brick", "render", "stone"),
        "villa": ("render", "brick"),
        "shop": ("brick", "render"),
    }
    material = str(rng.choice(walls.get(kind, ("brick", "render", "concrete"))))
    color = varied(rng, WALLS[material][rng.integers(len(WALLS[material]))], 14)
    ground = {"shop": "shop", "villa": str(rng.choice(["door", "garage"]))}.get(kind, "door")
    front, windows = facade(rng, width, floors, storey, material, color, ground)
    height, half = floors * storey, width / 2
    side_picture = wall(rng, material, tuple(c * 0.95 for c in color), int(6 * PX_PER_M), int(6 * PX_PER_M))
    side = finish(side_picture)
    repeat = 1 / 6
    parts = [
        quad([(0, half, 0), (0, -half, 0), (0, -half, height), (0, half, height)], front),
        quad(
            [(0, -half, 0), (depth, -half, 0), (depth, -half, height), (0, -half, height)],
            side,
            (depth * repeat, height * repeat),
        ),
        quad(
            [(depth, half, 0), (0, half, 0), (0, half, height), (depth, half, height)],
            side,
            (depth * repeat, height * repeat),
        ),
        quad(
            [(depth, -half, 0), (depth, half, 0), (depth, half, height), (depth, -half, height)],
            side,
            (width * repeat, height * repeat),
        ),
    ]
    flat = kind == "flats" or (kind == "shop" and rng.random() < 0.4)
    if flat:
        rim = finish(canvas(8, tuple(c * 0.8 for c in color)))
        parts.append(box((-0.15, -half - 0.1, height), (depth, half + 0.1, height + 0.5), rim))
    else:
        parts.append(_pitched_roof(rng, width, depth, height, side))
    parts += _front_parts(rng, kind, width, height, storey, windows, color, front)
    if lit > 0:
        lamp = plain((255, 205, 130), emission=0.55)
        for x0, z0, x1, z1 in windows:
            if rng.random() < lit:
                y0, y1 = half - x0 - 0.08, half - x1 + 0.08
                parts.append(
                    quad(
                        [(-0.01, y0, z0 + 0.1), (-0.01, y1, z0 + 0.1), (-0.01, y1, z1 - 0.1), (-0.01, y0, z1 - 0.1)],
                        lamp,
                    )
                )
    return join(parts)


def _pitched_roof(rng: np.random.Generator, width: float, depth: float, height: float, gable: Texture) -> Mesh:
    """Ridge along the street, or across it as a gable; eaves stand out."""
    tiles, eave, half = roof_texture(rng), 0.3, width / 2
    rise = min(width if width < depth else depth, 9.0) * rng.uniform(0.35, 0.5)
    parts = []
    chimney = finish(canvas(8, varied(rng, (130, 76, 60), 12)))
    if rng.random() < 0.78:
        middle, ridge, low = depth / 2, height + rise, height - eave * rise / (depth / 2)
        slope = np.hypot(middle, rise)
        for x in (-eave, depth + eave):
            a, b = (-half - 0.05, half + 0.05) if x > 0 else (half + 0.05, -half - 0.05)
            points = [(x, a, low), (x, b, low), (middle, b, ridge), (middle, a, ridge)]
            parts.append(quad(points, tiles, (width / 4, slope / 4)))
            # its underside and edge, a gutter
            points = [(x, a, low), (x, b, low), (x, b, low - 0.12), (x, a, low - 0.12)]
            parts.append(quad(points, plain((60, 58, 56))))
        for y in (-half, half):
            corners = [[(0, y, height), (depth, y, height), (middle, y, ridge)]]
            parts.append(triangles(np.array(corners)[:, :: (1 if y < 0 else -1)], gable, [[[0, 1], [1, 1], [0.5, 0]]]))
        if rng.random() < 0.75:
            y = float(rng.choice([-1, 1])) * (half - 0.5)
            parts.append(box((middle - 0.5, y - 0.4, ridge - 0.6), (middle + 0.5, y + 0.4, ridge + 1.1), chimney))
            pot = plain((150, 90, 66))
            parts += [
                box((middle + d, y - 0.12, ridge + 1.1), (middle + d + 0.24, y + 0.12, ridge + 1.5), pot)
                for d in (-0.4, 0.1)
            ]
    else:
        ridge, low = height + rise, height - eave * rise / half
        slope = np.hypot(half, rise)
        for y in (-half - eave, half + eave):
            a, b = (-0.3, depth) if y < 0 else (depth, -0.3)
            points = [(a, y, low), (b, y, low), (b, 0, ridge), (a, 0, ridge)]
            parts.append(quad(points, tiles, (depth / 4, slope / 4)))
        corners = [[(0, half, height), (0, -half, height), (0, 0, ridge)]]
        parts.append(triangles(np.array(corners), gable, [[[0, 1], [1, 1], [0.5, 0]]]))
    return join(parts)


def _front_parts(
    rng: np.random.Generator,
    kind: str,
    width: float,
    height: float,
    storey: float,
    windows: list[tuple[float, float, float, float]],
    color: Color,
    front: Texture,
) -> list[Mesh]:
    """What stands out of the front: a bay, balconies, an awning, steps."""
    half, parts = width / 2, []
    stone = finish(canvas(8, varied(rng, (186, 180, 168), 14)))
    if kind == "flats" and rng.random() < 0.6:
        rail = plain((70, 72, 76))
        for x0, z0, x1, _ in windows:
            if z0 > storey and x1 - x0 > 0.9:
                y = half - (x0 + x1) / 2
                base = np.floor(z0 / storey) * storey
                parts.append(box((-1.0, y - 0.95, base - 0.12), (0, y + 0.95, base), stone, bottom=True))
                parts.append(box((-1.0, y - 0.95, base), (-0.95, y + 0.95, base + 0.95), rail))
    elif kind == "shop" and rng.random() < 0.5:
        colors = varied(rng, FASCIAS[rng.integers(len(FASCIAS))], 20)
        cloth = canvas(32, colors)
        cloth[:, (np.arange(32) // 4) % 2 == 0] = (225, 222, 212)
        z = storey * 0.76
        points = [(-1.3, half - 0.2, z - 0.55), (-1.3, -half + 0.2, z - 0.55), (0, -half + 0.2, z), (0, half - 0.2, z)]
        parts.append(quad(points, finish(cloth), (width / 2.5, 1)))
    elif kind in ("terrace", "villa") and rng.random() < 0.4 and len(windows) > 1:
        # A bay window, its front cut out of the painted one.
        x0, _, x1, z1 = windows[0]
        y0, y1, top = half - x0 + 0.25, half - x1 - 0.25, min(z1 + 0.35, height)
        depth = 0.6
        u0, u1, v = (half - y0) / width, (half - y1) / width, 1 - top / height
        uv = np.array([[[u0, 1], [u0, v]], [[u1, 1], [u1, v]]])
        a, b = (-depth, y0 - 0.3), (-depth, y1 + 0.3)
        parts.append(sheet([[(*a, 0), (*a, top)], [(*b, 0), (*b, top)]], front, uv, smooth=False))
        narrow = np.array([[[u0, 1], [u0, v]], [[(u0 * 3 + u1) / 4, 1], [(u0 * 3 + u1) / 4, v]]])
        parts.append(sheet([[(0, y0, 0), (0, y0, top)], [(*a, 0), (*a, top)]], front, narrow, smooth=False))
        parts.append(sheet([[(*b, 0), (*b, top)], [(0, y1, 0), (0, y1, top)]], front, narrow, smooth=False))
        lid = finish(canvas(8, (90, 84, 80)))
        parts.append(quad([(0, y1, top), (0, y0, top), (*a, top), (*b, top)][::-1], lid))
    if kind in ("terrace", "villa") and rng.random() < 0.3:
        y = rng.uniform(-half * 0.4, half * 0.4)
        parts.append(box((-0.9, y - 0.7, 2.5), (0, y + 0.7, 2.62), stone, bottom=True))
    return parts
