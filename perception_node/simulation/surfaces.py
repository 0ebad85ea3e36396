"""Asphalt, paving, kerbs, paint: what the ground is made of."""

import cv2
import numpy as np

from perception_node.simulation.textures import Texture, canvas, finish, noise, varied

_SIZE = 512


def asphalt(rng: np.random.Generator) -> Texture:
    """8 m x 8 m of it, patched and cracked, its tracks polished."""
    shade = rng.uniform(64, 108)
    color = (shade, shade * rng.uniform(0.96, 1.0), shade * rng.uniform(0.9, 1.02))
    picture = canvas(_SIZE, color, 0.08 * noise(rng, _SIZE, 0.3) + 0.07 * noise(rng, _SIZE, 1.3))
    for _ in range(int(rng.integers(1, 5))):  # where pipes were mended
        x, y = rng.integers(0, _SIZE, 2)
        w, h = rng.integers(40, 150, 2)
        picture[y : y + h, x : x + w] *= rng.uniform(0.78, 1.1)
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), tuple(0.75 * c for c in color), 1)
    for _ in range(int(rng.integers(0, 9))):
        steps = rng.normal(0, 7, (26, 2)) + rng.normal(0, 6, 2)
        line = (rng.uniform(0, _SIZE, 2) + np.cumsum(steps, 0)).astype(np.int32)
        cv2.polylines(picture, [line], False, tuple(0.55 * c for c in color), 1, cv2.LINE_AA)
    return finish(picture, 0.0)


def paving(rng: np.random.Generator) -> Texture:
    """4 m x 4 m of slabs, bricks or plain asphalt."""
    kind = str(rng.choice(["slabs", "slabs", "bricks", "asphalt"]))
    color = varied(rng, {"slabs": (164, 158, 148), "bricks": (150, 108, 92), "asphalt": (122, 120, 118)}[kind], 14)
    picture = canvas(_SIZE, color, 0.05 * noise(rng, _SIZE, 0.3) + 0.06 * noise(rng, _SIZE, 1.3))
    if kind != "asphalt":
        height, width = (64, 64 if rng.random() < 0.5 else 128) if kind == "slabs" else (16, 32)
        row = np.arange(_SIZE) // height
        shift = (row[:, None] % 2) * (width // 2)
        column = ((np.arange(_SIZE)[None, :] + shift) % _SIZE) // width
        shade = rng.normal(0, 0.05 if kind == "slabs" else 0.1, (row.max() + 1, column.max() + 1))
        picture *= 1 + shade[row[:, None], column][..., None]
        joint = 0.66
        picture[np.arange(_SIZE) % height < 2] *= joint
        picture[(np.arange(_SIZE)[None, :] + shift) % width < 2] *= joint
    return finish(picture)


def kerb(rng: np.random.Generator) -> Texture:
    """Stones of 1 m."""
    picture = canvas((32, 128), varied(rng, (168, 164, 156), 14), 0.06 * noise(rng, (32, 128), 0.8))
    picture[:, ::64] *= 0.6
    return finish(picture)


def road_paint(rng: np.random.Generator, color: tuple[float, float, float] = (222, 222, 216)) -> Texture:
    """Worn where wheels go."""
    worn = np.clip(noise(rng, 128, 0.8) * 0.6 - rng.uniform(0.1, 0.9), 0, 1)[..., None]
    return finish(canvas(128, color, 0.05 * noise(rng, 128, 0.3)) * (1 - worn) + 105 * worn)


def grass(rng: np.random.Generator) -> Texture:
    """4 m x 4 m of lawn."""
    picture = canvas(256, varied(rng, (92, 112, 58), 10), 0.16 * noise(rng, 256, 0.3) + 0.1 * noise(rng, 256, 1.3))
    picture[..., 0] *= 1 + 0.08 * noise(rng, 256, 1.3)
    return finish(picture, 0.0)


def iron(rng: np.random.Generator) -> Texture:
    """A manhole's cover."""
    y, x = np.mgrid[:64, :64]
    ribs = 0.15 * (((x // 5) + (y // 5)) % 2)
    return finish(canvas(64, varied(rng, (78, 76, 74), 8), ribs + 0.08 * noise(rng, 64, 0.8)), 0.06)
