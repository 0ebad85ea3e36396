"""Textures: pictures of surfaces, painted from seeds, and an atlas that samples all of them at once.

Sampling is bilinear in the level of a mip pyramid (Williams 1983, "Pyramidal parametrics") that fits the pixel's
footprint.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

_keys = itertools.count()
_FIELD, _N_FIELDS = 512, 6


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """What a surface looks like; it repeats in both directions.

    Attributes:
        rgba: uint8 (H, W, 4): red, green, blue, and how glossy it is: 0 dull, 255 a mirror.
        emission: light that it gives off by itself, in units of a white surface in the light of an overcast sky.
        translucent: leaves: light from behind shines through, and normals stay as they are on both sides.
        key: unlike any other texture's.
    """

    rgba: np.ndarray
    emission: float = 0.0
    translucent: bool = False
    key: int = field(default_factory=lambda: next(_keys))


class Atlas:
    """The mip pyramids of some textures, in one array of texels."""

    def __init__(self, textures: Iterable[Texture]):
        textures = list(textures)
        levels, self._first_level, self._top = [], [], []
        for texture in textures:
            self._first_level.append(len(levels))
            picture = texture.rgba
            levels.append(picture)
            while min(picture.shape[:2]) > 1:
                height, width = picture.shape[:2]
                picture = cv2.resize(picture, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
                levels.append(picture)
            self._top.append(len(levels) - 1 - self._first_level[-1])
        self._texels = np.concatenate([level.reshape(-1, 4) for level in levels])
        self._sizes = np.array([level.shape[:2] for level in levels], np.int32)
        sizes = self._sizes.astype(np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(sizes[:, 0] * sizes[:, 1])[:-1]])
        self._first_level, self._top = np.array(self._first_level), np.array(self._top)
        self.emission = np.array([texture.emission for texture in textures], np.float32)
        self.translucent = np.array([texture.translucent for texture in textures])
        self._index = np.full(max((t.key for t in textures), default=0) + 1, -1)
        self._index[[texture.key for texture in textures]] = np.arange(len(textures))

    def index(self, keys: np.ndarray) -> np.ndarray:
        """Of textures in the atlas, from their keys."""
        return self._index[keys]

    def area(self, index: np.ndarray) -> np.ndarray:
        """Of the textures index (N,), in texels."""
        return self._sizes[self._first_level[index]].prod(1)

    def sample(self, index: np.ndarray, uv: np.ndarray, texels: np.ndarray) -> np.ndarray:
        """Float32 (N, 4), 0..1, at uv (N, 2) of the textures index (N,).

        Args:
            texels: (N,), how many texels the side of a pixel covers.
        """
        base = self._first_level[index]
        level = np.clip(np.log2(np.maximum(texels, 1e-6)).round().astype(np.int32), 0, self._top[index])
        level += base
        height, width = self._sizes[level, 0], self._sizes[level, 1]
        u = (uv[:, 0] - np.floor(uv[:, 0])) * width - 0.5
        v = (uv[:, 1] - np.floor(uv[:, 1])) * height - 0.5
        u0, v0 = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
        fu, fv = (u - u0).astype(np.float32)[:, None], (v - v0).astype(np.float32)[:, None]
        u1, v1 = u0 + 1, v0 + 1
        u1[u1 >= width] = 0
        v1[v1 >= height] = 0
        u0 = np.where(u0 < 0, width - 1, u0)
        v0 = np.where(v0 < 0, height - 1, v0)
        offset = self._offsets[level]
        row0, row1 = offset + v0 * width, offset + v1 * width
        texel = self._texels
        upper = texel[row0 + u0] * (1 - fu) + texel[row0 + u1] * fu
        lower = texel[row1 + u0] * (1 - fu) + texel[row1 + u1] * fu
        return (upper * (1 - fv) + lower * fv) * np.float32(1 / 255)


Color = tuple[float, float, float]


@cache
def _field(number: int, roughness: float) -> np.ndarray:
    """Float32 (_FIELD, _FIELD) of mean 0 and deviation 1 that repeats."""
    frequency = np.hypot(np.fft.fftfreq(_FIELD)[:, None], np.fft.rfftfreq(_FIELD)[None, :]) * _FIELD
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(np.random.default_rng([number, 17]).standard_normal((_FIELD, _FIELD)))
    field = np.fft.irfft2(white / frequency**roughness, (_FIELD, _FIELD))
    return (field / field.std()).astype(np.float32)


def noise(rng: np.random.Generator, size: int | tuple[int, int], roughness: float = 1.0) -> np.ndarray:
    """Float32 (H, W) of mean about 0 and deviation about 1; its spectrum falls with frequency ** roughness.

    It is cut at random from one of a few fields that are made once: transforms would take most of a street's time. A
    square of 512 repeats.
    """
    height, width = (size, size) if isinstance(size, int) else size
    number, y, x, flipped = rng.integers(0, (_N_FIELDS, _FIELD, _FIELD, 2)).tolist()
    rows, columns = (y + np.arange(height)) % _FIELD, (x + np.arange(width)) % _FIELD
    field = _field(number, roughness)
    return (field.T if flipped else field)[rows[:, None], columns[None, :]]


def canvas(size: int | tuple[int, int], color: Color, variation: np.ndarray | float = 0.0) -> np.ndarray:
    """Float32 (H, W, 3) of one colour (0..255), brightened by the factor 1 + variation."""
    height, width = (size, size) if isinstance(size, int) else size
    variation = np.broadcast_to(np.asarray(variation, np.float32), (height, width))
    return np.asarray(color, np.float32) * (1 + variation[..., None])


def finish(rgb: np.ndarray, gloss: np.ndarray | float = 0.0, emission: float = 0.0, translucent=False) -> Texture:
    """A texture of painted colours, 0..255, and gloss, 0..1."""
    alpha = np.broadcast_to(np.asarray(gloss, np.float32) * 255, rgb.shape[:2])[..., None]
    rgba = np.clip(np.concatenate([rgb, alpha], -1), 0, 255).round().astype(np.uint8)
    return Texture(np.ascontiguousarray(rgba), emission, translucent)


def plain(color: Color, gloss: float = 0.0, emission: float = 0.0) -> Texture:
    """One colour all over."""
    return finish(canvas(2, color), gloss, emission)


def speckled(rng: np.random.Generator, color: Color, amount: float = 0.08, gloss: float = 0.0) -> Texture:
    """One colour with fine and coarse irregularities."""
    return finish(canvas(64, color, amount * (0.6 * noise(rng, 64, 0.3) + 0.6 * noise(rng, 64, 1.3))), gloss)


def varied(rng: np.random.Generator, color: Color, amount: float = 25) -> Color:
    """A colour like it."""
    shade = rng.normal(0, amount * 0.7)
    return tuple(float(np.clip(c + shade + rng.normal(0, amount * 0.25), 8, 250)) for c in color)


def write(picture: np.ndarray, word: str, low: tuple[float, float], high: tuple[float, float], color: Color) -> None:
    """Letters on a float32 (H, W, 3) picture, as large as fits between the corners (x, y), in their middle."""
    font, thickness = cv2.FONT_HERSHEY_DUPLEX, 2
    (w, h), _ = cv2.getTextSize(word, font, 1.0, thickness)
    scale = min((high[0] - low[0]) / w, (high[1] - low[1]) / h)
    thickness = max(1, round(scale * 2.5))
    (w, h), _ = cv2.getTextSize(word, font, scale, thickness)
    mask = np.zeros(picture.shape[:2], np.uint8)
    origin = int((low[0] + high[0] - w) / 2), int((low[1] + high[1] + h) / 2)
    cv2.putText(mask, word, origin, font, scale, 255, thickness, cv2.LINE_AA)
    opacity = mask[..., None].astype(np.float32) / 255
    picture[...] = picture * (1 - opacity) + np.asarray(color, np.float32) * opacity
