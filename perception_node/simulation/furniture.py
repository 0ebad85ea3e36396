"""What stands along a street: lamps, signs, traffic lights, bollards, fences and walls."""

import cv2
import numpy as np

from perception_node.simulation.buildings import WALLS, wall
from perception_node.simulation.mesh import Mesh, box, disc, ellipsoid, join, quad, triangles, tube
from perception_node.simulation.textures import Texture, canvas, finish, plain, speckled, varied, write

Labelled = list[tuple[str, Mesh]]
"""Meshes with the names of their classes."""

STEEL = ((120, 122, 124), (70, 74, 76), (52, 62, 56), (40, 42, 46))


def steel(rng: np.random.Generator) -> Texture:
    return speckled(rng, varied(rng, STEEL[rng.integers(len(STEEL))], 8), 0.05, 0.08)


def lamp_post(rng: np.random.Generator, lit: bool) -> Labelled:
    """At the origin, its arm over -y."""
    metal, height, reach = steel(rng), rng.uniform(6.0, 9.0), rng.uniform(0.4, 1.8)
    path = [[0, 0, 0], [0, 0, 1.2], [0, 0, height - 0.6], [0, -0.15, height - 0.1], [0, -reach, height]]
    parts = [tube(np.array(path), np.array([0.1, 0.08, 0.055, 0.045, 0.04]), metal, 8)]
    parts.append(tube([[0, 0, 0], [0, 0, 1.1]], 0.11, metal, 8))
    lamp = plain((255, 214, 150), emission=2.5) if lit else plain((206, 208, 206), 0.3)
    parts.append(box((-0.14, -reach - 0.5, height - 0.02), (0.14, -reach + 0.1, height + 0.1), metal))
    parts.append(
        quad(
            [
                (-0.12, -reach, height - 0.03),
                (0.12, -reach, height - 0.03),
                (0.12, -reach - 0.45, height - 0.03),
                (-0.12, -reach - 0.45, height - 0.03),
            ],
            lamp,
        )
    )
    return [("pole", join(parts))]


def sign(rng: np.random.Generator) -> Labelled:
    """A traffic sign at the origin that faces -x."""
    kind = str(rng.choice(["ring", "triangle", "blue", "oblong", "board", "stop"]))
    height = rng.uniform(2.1, 2.7)
    metal = plain((130, 132, 134), 0.1)
    post = tube([[0.03, 0, 0], [0.03, 0, height + 0.35]], 0.035, metal, 7)
    size, picture = 128, canvas(128, (236, 236, 234))
    red, ink, blue = (196, 24, 30), (26, 26, 28), (24, 70, 160)
    c, at = size // 2, np.array([0, 0, height])
    if kind == "ring":
        cv2.circle(picture, (c, c), 64, red, -1, cv2.LINE_AA)
        cv2.circle(picture, (c, c), 46, (240, 240, 238), -1, cv2.LINE_AA)
        if rng.random() < 0.7:
            write(picture, str(rng.choice([20, 30, 40, 50])), (24, 40), (104, 88), ink)
    elif kind == "blue":
        picture = canvas(size, blue)
        start, end = ((30, c), (96, c)) if rng.random() < 0.5 else ((40, 96), (88, 40))
        cv2.arrowedLine(picture, start, end, (240, 240, 240), 12, cv2.LINE_AA, tipLength=0.4)
    elif kind == "triangle":
        picture = canvas(size, red)
        cv2.fillPoly(picture, [np.array([[c, 34], [26, 104], [102, 104]], np.int32)], (240, 240, 238), cv2.LINE_AA)
        cv2.line(picture, (c, 60), (c, 96), ink, 8, cv2.LINE_AA)
    elif kind == "stop":
        picture = canvas(size, red)
        write(picture, "STOP", (16, 44), (112, 84), (240, 240, 240))
    elif kind == "oblong":
        picture = canvas(size, blue if rng.random() < 0.6 else (24, 100, 60))
        cv2.rectangle(picture, (6, 6), (121, 121), (240, 240, 240), 4)
        write(picture, str(rng.choice(["P", "H", "i"])), (34, 28), (94, 100), (240, 240, 240))
    else:
        picture = canvas(size, varied(rng, (228, 226, 216), 10))
        for row in range(3):
            cv2.rectangle(picture, (14, 20 + 34 * row), (14 + int(rng.integers(40, 100)), 38 + 34 * row), ink, -1)
    front, back = finish(picture, 0.08), plain((140, 142, 144), 0.1)
    ahead = np.array([-1.0, 0, 0])
    if kind == "triangle":
        corners = np.array([at + np.array([[0, 0.36, -0.28], [0, -0.36, -0.28], [0, 0, 0.36]])])
        board = [
            triangles(corners, front, [[[0, 1], [1, 1], [0.5, 0]]]),
            triangles(corners[:, ::-1] + np.array([0.01, 0, 0]), back, [[[0, 0]] * 3]),
        ]
    elif kind in ("ring", "blue", "stop"):
        radius, sides = 0.32, 8 if kind == "stop" else 24
        board = [disc(at, ahead, radius, front, sides), disc(at + np.array([0.01, 0, 0]), -ahead, radius, back, sides)]
    else:
        w, h = (0.3, 0.35) if kind == "oblong" else (rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.5))
        y, z = np.array([0, w, 0]), np.array([0, 0, h])
        board = [quad([at + y - z, at - y - z, at - y + z, at + y + z], front)]
        behind = at + np.array([0.01, 0, 0])
        board.append(quad([behind - y - z, behind + y - z, behind + y + z, behind - y + z], back))
    return [("pole", post), ("sign", join(board))]


def traffic_light(rng: np.random.Generator, green: bool) -> Labelled:
    """At the origin, facing -x."""
    post = tube([[0.1, 0, 0], [0.1, 0, 3.5]], 0.06, steel(rng), 8)
    black = plain((22, 23, 24), 0.05)
    parts = [box((0, -0.16, 2.5), (0.22, 0.16, 3.45), black, bottom=True)]
    if rng.random() < 0.6:
        parts.append(box((0.1, -0.26, 2.4), (0.12, 0.26, 3.55), black, bottom=True))
    lamps = (((255, 40, 30), not green), ((255, 170, 40), False), ((40, 240, 150), green))
    for (color, on), z in zip(lamps, (3.28, 2.98, 2.68), strict=True):
        lens = plain(color, emission=1.6) if on else plain(tuple(c * 0.18 for c in color), 0.3)
        parts.append(disc(np.array([-0.012, 0, z]), [-1, 0, 0], 0.105, lens, 14))
    return [("pole", post), ("sign", join(parts))]


def bollard(rng: np.random.Generator) -> Labelled:
    """At the origin."""
    height = rng.uniform(0.85, 1.1)
    post = tube([[0, 0, 0], [0, 0, height]], [0.075, 0.065], steel(rng), 10)
    band = tube([[0, 0, height - 0.2], [0, 0, height - 0.1]], 0.075, plain((225, 225, 220)), 10)
    return [("pole", join([post, band, ellipsoid((0, 0, height), (0.065, 0.065, 0.04), steel(rng), 4)]))]


def railing(rng: np.random.Generator, length: float) -> Labelled:
    """Iron bars along x from 0."""
    metal, height = steel(rng), rng.uniform(0.9, 1.25)
    parts = [box((0, -0.02, z), (length, 0.02, z + 0.04), metal) for z in (0.12, height - 0.1)]
    x = np.arange(0.06, length, 0.12)
    bars = np.stack([np.stack([x - 0.012, 0 * x, 0 * x], 1), np.stack([x + 0.012, 0 * x, 0 * x], 1)], 1)
    top = bars + np.array([0, 0, height])
    uv = [[0, 0], [1, 0], [1, 1]]
    for d in (np.array([0, 0.012, 0]), np.array([0, -0.012, 0])):
        parts.append(triangles(np.stack([bars[:, 0] + d, bars[:, 1] - d, top[:, 1] - d], 1), metal, [uv]))
        parts.append(triangles(np.stack([bars[:, 0] + d, top[:, 1] - d, top[:, 0] + d], 1), metal, [uv]))
    parts += [
        box((p - 0.04, -0.04, 0), (p + 0.04, 0.04, height + 0.08), metal) for p in np.arange(0, length + 0.1, 2.4)
    ]
    return [("fence", join(parts))]


def board_fence(rng: np.random.Generator, length: float) -> Labelled:
    """Wooden boards along x from 0."""
    height, color = (
        rng.uniform(1.0, 1.8),
        varied(rng, ((134, 104, 74), (96, 84, 70), (120, 76, 54), (212, 208, 198))[rng.integers(4)], 10),
    )
    picture = canvas((128, 128), color, np.repeat(rng.normal(0, 0.12, 16), 8)[None, :].astype(np.float32))
    picture[:, ::8] *= 0.45
    picture *= 1 + 0.05 * rng.standard_normal((1, 128, 1))
    wood = finish(picture)
    body = box((0, -0.03, 0.04), (length, 0.03, height), wood, 1 / 1.6)
    posts = [
        box((p - 0.05, -0.06, 0), (p + 0.05, 0.06, height + 0.05), wood, 0.5) for p in np.arange(0, length + 0.1, 1.9)
    ]
    return [("fence", join([body, *posts]))]


def garden_wall(rng: np.random.Generator, length: float) -> Labelled:
    """A low wall along x from 0. As in CamVid's eleven classes, walls are building."""
    kind = str(rng.choice(["brick", "stone", "render"]))
    color = varied(rng, WALLS[kind][rng.integers(len(WALLS[kind]))], 12)
    height = rng.uniform(0.6, 1.5)
    body = box((0, -0.12, 0), (length, 0.12, height), finish(wall(rng, kind, color, 96, 96)), 1 / 3)
    cap = box((-0.03, -0.16, height), (length + 0.03, 0.16, height + 0.07), plain(tuple(c * 0.8 for c in color)))
    return [("building", join([body, cap]))]
