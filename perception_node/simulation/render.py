"""From rays to a picture: one ray for each pixel's middle, more where edges are, then light.

Sunlight is direct, with a shadow ray; skylight is dimmed by ambient occlusion, one cosine-weighted ray for each pixel,
averaged over 4x4 pixels of the same surface (interleaved sampling, Keller and Heidrich 2001); glossy surfaces show what
one mirror ray finds, as strongly as Schlick's approximation (1994) of Fresnel says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception_node.simulation.light import Light
from perception_node.simulation.mesh import Mesh
from perception_node.simulation.raycast import Geometry, Hits, off_surface
from perception_node.simulation.textures import Atlas, Texture

_TILE = 4
_MIRROR = 0.08
"""Surfaces less glossy than this only get a highlight of the sky."""
_BOUNCE = 0.3
"""What surfaces around send, where they hide the sky, as a part of what it would send."""
_SUBPIXELS = np.array([(-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375)])


@dataclass(frozen=True, slots=True)
class Surface:
    """What N rays hit; values are undefined where they hit nothing.

    Attributes:
        part: int8 (N,), which geometry of the scene.
        hits: on it.
        positions: float32 (N, 3).
        normals: float32 (N, 3), for shading.
        uvs: float32 (N, 2).
        textures: int (N,), indices into the atlas.
        texels: float32 (N,), of the texture's largest level, in a metre.
    """

    part: np.ndarray
    hits: Hits
    positions: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    textures: np.ndarray
    texels: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Surface":
        hits = Hits(*(getattr(self.hits, name)[chosen] for name in Hits.__slots__))
        rest = (getattr(self, name)[chosen] for name in Surface.__slots__[2:])
        return Surface(self.part[chosen], hits, *rest)

    @property
    def hit(self) -> np.ndarray:
        return self.hits.triangle >= 0


class Materials:
    """Textures of everything that a drive may meet."""

    def __init__(self, textures: dict[int, Texture]):
        self.atlas = Atlas(textures.values())

    def of(self, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
        """(index into the atlas, texels in a metre) of each triangle."""
        index = self.atlas.index(mesh.texture_keys)
        edges, uv_edges = (values[:, 1:] - values[:, :1] for values in (mesh.corners, mesh.uvs))
        area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
        uv_area = np.abs(uv_edges[:, 0, 0] * uv_edges[:, 1, 1] - uv_edges[:, 0, 1] * uv_edges[:, 1, 0])
        texels = np.sqrt(uv_area * self.atlas.area(index) / np.maximum(area, 1e-12))
        return index, texels.astype(np.float32)


class Scene:
    """Geometries in one space: what stands, and what moves.

    Args:
        parts: rays are cast into each.
        materials: of all of them.
    """

    def __init__(self, parts: list[tuple[Geometry, tuple[np.ndarray, np.ndarray]]], materials: Materials, light: Light):
        self.parts, self.materials, self.light = parts, materials, light

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, Hits]:
        """(which part, where) rays hit first."""
        casts = [geometry.cast(origins, directions) for geometry, _ in self.parts]
        part, hits = np.zeros(len(directions), np.int8), casts[0]
        for number, other in enumerate(casts[1:], 1):
            nearer = other.distance < hits.distance
            part[nearer] = number
            hits = Hits(
                *(
                    np.where(nearer if values.ndim == 1 else nearer[:, None], getattr(other, name), values)
                    for name, values in ((name, getattr(hits, name)) for name in Hits.__slots__)
                )
            )
        return part, hits

    def blocked(self, origins: np.ndarray, directions: np.ndarray, far: float = 1e4) -> np.ndarray:
        blocked = np.zeros(len(directions), bool)
        for geometry, _ in self.parts:
            open_ = np.flatnonzero(~blocked)
            blocked[open_] = geometry.blocks(origins[open_], directions[open_], far)
        return blocked

    def labels(self, part: np.ndarray, triangle: np.ndarray, sky: int) -> tuple[np.ndarray, np.ndarray]:
        """(class ids uint8, instance ids uint16) of what was hit, `sky` where nothing was."""
        class_ids, instance_ids = np.full(len(part), sky, np.uint8), np.zeros(len(part), np.uint16)
        for number, (geometry, _) in enumerate(self.parts):
            chosen = (part == number) & (triangle >= 0)
            class_ids[chosen] = geometry.class_ids[triangle[chosen]]
            instance_ids[chosen] = geometry.instance_ids[triangle[chosen]]
        return class_ids, instance_ids

    def surface(self, origins: np.ndarray, directions: np.ndarray) -> Surface:
        """What is hit, ready for shading."""
        part, hits = self.cast(origins, directions)
        n = len(part)
        normals, uvs = np.zeros((n, 3), np.float32), np.zeros((n, 2), np.float32)
        textures, texels = np.zeros(n, np.int64), np.zeros(n, np.float32)
        for number, (geometry, (index, density)) in enumerate(self.parts):
            chosen = np.flatnonzero((part == number) & (hits.triangle >= 0))
            triangle = hits.triangle[chosen]
            u, v = hits.u[chosen, None], hits.v[chosen, None]
            a, b, c = np.moveaxis(geometry.mesh.normals[triangle], 1, 0)
            normals[chosen] = a + u * (b - a) + v * (c - a)
            a, b, c = np.moveaxis(geometry.mesh.uvs[triangle], 1, 0)
            uvs[chosen] = a + u * (b - a) + v * (c - a)
            textures[chosen], texels[chosen] = index[triangle], density[triangle]
        normals /= np.maximum(np.sqrt(np.einsum("ij,ij->i", normals, normals)), 1e-9)[:, None]
        distance = np.where(np.isfinite(hits.distance), hits.distance, 0)
        positions = origins + directions * distance[:, None]
        return Surface(part, hits, positions.astype(np.float32), normals, uvs, textures, texels)

    def openness(self, surface: Surface, shape: tuple[int, int]) -> np.ndarray:
        """Float32 (H * W,): how much of the sky the surfaces of an image see, 0..1."""
        height, width = shape
        rows, columns = np.divmod(np.arange(height * width), width)
        pattern = _PATTERN[rows % _TILE, columns % _TILE]
        normal = np.where(surface.normals @ np.float32([0, 0, 1]) < -2, 0, 1)[:, None] * surface.hits.facing
        side = np.cross(normal, np.where(np.abs(normal[:, 2:]) < 0.9, np.float32([0, 0, 1]), np.float32([1, 0, 0])))
        side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
        up = np.cross(normal, side)
        direction = side * pattern[:, :1] + up * pattern[:, 1:2] + normal * pattern[:, 2:]
        hit = np.flatnonzero(surface.hit)
        seen = np.ones(height * width, np.float32)
        origin = off_surface(surface.positions[hit], surface.hits.facing[hit])
        # What is far away hides less of what matters: rays end after some metres.
        seen[hit] = ~self.blocked(origin, direction[hit], 12.0)
        key = surface.textures * 8 + np.argmax(np.abs(normal), 1) * 2 + (surface.part > 0)
        key[~surface.hit] = -1
        return _average_same(seen.reshape(shape), key.reshape(shape), surface.hits.distance.reshape(shape)).ravel()

    def shade(self, surface: Surface, directions: np.ndarray, pixel: float, openness: np.ndarray, mirrors: int = 1):
        """Float32 (N, 3): the light that comes along rays.

        Args:
            surface: what the rays hit.
            directions: float32 (N, 3), of the rays.
            pixel: the angle between neighbouring rays, radians.
            openness: float32 (N,).
            mirrors: how many mirror images deep.
        """
        light = self.light
        color = np.empty((len(directions), 3), np.float32)
        miss = np.flatnonzero(~surface.hit)
        color[miss] = light.sky(directions[miss])
        hit = np.flatnonzero(surface.hit)
        if not len(hit):
            return color
        surface, directions, openness = surface[hit], directions[hit], openness[hit]
        hits, atlas = surface.hits, self.materials.atlas
        slant = np.maximum(np.abs(np.einsum("ij,ij->i", hits.facing, directions)), 0.04)
        texels = hits.distance * pixel / np.sqrt(slant) * surface.texels
        sampled = atlas.sample(surface.textures, surface.uvs, texels)
        albedo, gloss = sampled[:, :3] ** 2, sampled[:, 3]
        translucent = atlas.translucent[surface.textures]
        normal = surface.normals
        backward = (np.einsum("ij,ij->i", normal, hits.facing) < 0) & ~translucent
        normal[backward] *= -1
        wet = light.wet * (hits.facing[:, 2] > 0.95) * (surface.positions[:, 2] < 0.3)
        if light.wet:
            albedo *= 1 - 0.45 * wet[:, None]
            gloss = np.maximum(gloss, wet * (0.12 + 0.4 * light.puddles(surface.positions)))
        up = normal[:, 2] * 0.5 + 0.5
        sky = light.ambient * (up * (openness + _BOUNCE * (1 - openness)) + (1 - up) * 0.28 * openness)[:, None]
        received = sky
        if light.sun.any():
            toward = normal @ light.to_sun
            toward = np.where(translucent, 0.35 + 0.65 * toward, toward)
            lit = np.flatnonzero(toward > 0)
            origin = off_surface(surface.positions[lit], hits.facing[lit])
            shadow = self.blocked(origin, np.broadcast_to(light.to_sun, origin.shape), 120.0)
            # Leaves let some light through to those behind.
            strength = np.where(shadow, np.where(translucent[lit], 0.25, 0.0), 1.0) * toward[lit]
            received = sky + 0
            received[lit] += strength[:, None].astype(np.float32) * light.sun
            # What the sunny ground sends up.
            received += (1 - up[:, None]) * openness[:, None] * light.sun * (0.09 * max(light.to_sun[2], 0.1))
        glow = atlas.emission[surface.textures][:, None]
        shaded = albedo * received + glow * albedo * np.where(light.lamps, 1.6, 1.0)
        glossy = np.flatnonzero(gloss > 0.03)
        if len(glossy):
            facing = np.clip(-np.einsum("ij,ij->i", normal[glossy], directions[glossy]), 0, 1)
            share = gloss[glossy] * (0.22 + 0.78 * (1 - facing) ** 3)
            mirrored = directions[glossy] + 2 * facing[:, None] * normal[glossy]
            # Water on a road is not smooth: images are drawn out, more so farther away.
            ripple = (wet[glossy] > 0)[:, None] * light.ripples(surface.positions[glossy])
            mirrored += ripple
            mirrored[:, 2] = np.where((wet[glossy] > 0) & (mirrored[:, 2] < 0.02), 0.02, mirrored[:, 2])
            mirrored /= np.linalg.norm(mirrored, axis=1, keepdims=True)
            seen = self._mirror_image(surface, glossy, gloss, mirrored, pixel, mirrors)
            shaded[glossy] = shaded[glossy] * (1 - share[:, None]) + share[:, None] * seen
        haze = np.exp(-light.fog * hits.distance)[:, None]
        color[hit] = shaded * haze + light.horizon * 0.96 * (1 - haze)
        return color

    def _mirror_image(self, surface, glossy, gloss, mirrored, pixel, mirrors) -> np.ndarray:
        """What is seen in mirrors: of dull ones, only the sky over a dark horizon."""
        seen = self.light.sky(mirrored) * np.clip(mirrored[:, 2:] * 5 - 0.2, 0.12, 1)
        clear = np.flatnonzero(gloss[glossy] > _MIRROR) if mirrors else np.zeros(0, int)
        if len(clear):
            origin = off_surface(surface.positions[glossy[clear]], surface.hits.facing[glossy[clear]])
            image = self.surface(origin, mirrored[clear])
            seen[clear] = self.shade(image, mirrored[clear], pixel * 4, np.full(len(clear), 0.7, np.float32), 0)
        return seen


def _pattern() -> np.ndarray:
    """Float32 (4, 4, 3): directions whose density is the cosine to the third axis, neighbours far apart."""
    order = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
    height = np.sqrt(1 - (order + 0.5) / 16)
    angle = order * 2.399963  # the golden angle
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1).astype(np.float32)


_PATTERN = _pattern()


def _average_same(values: np.ndarray, keys: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The mean over a window of 4x4 of those that have the pixel's key and nearly its distance."""
    total, count = np.zeros_like(values), np.zeros_like(values)
    padded = [np.pad(array, 2, mode="edge") for array in (values, keys, distance)]
    height, width = values.shape
    near = 0.06 * distance + 0.05
    for dy in range(_TILE):
        for dx in range(_TILE):
            value, key, away = (array[dy : dy + height, dx : dx + width] for array in padded)
            with np.errstate(invalid="ignore"):
                same = (key == keys) & (np.abs(away - distance) <= near)
            total += same * value
            count += same
    return np.where(count > 0, total / np.maximum(count, 1), values)


def edges(surface: Surface, shape: tuple[int, int]) -> np.ndarray:
    """bool (H * W,): pixels whose neighbours show something else."""
    texture = np.where(surface.hit, surface.textures, -1).reshape(shape)
    normals = np.where(surface.hit[:, None], surface.normals, 0).reshape(*shape, 3)
    distance = np.where(surface.hit, surface.hits.distance, 1e4).reshape(shape)
    marked = np.zeros(shape, np.uint8)
    for axis in (0, 1):
        a, b = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        other = texture[a] != texture[b]
        other |= np.einsum("ijk,ijk->ij", normals[a], normals[b]) < 0.85
        other |= np.abs(distance[a] - distance[b]) > 0.15 * np.minimum(distance[a], distance[b]) + 0.3
        other &= (texture[a] >= 0) | (texture[b] >= 0)
        marked[a] |= other
        marked[b] |= other
    return marked.ravel() > 0


def picture(
    scene: Scene,
    origin: np.ndarray,
    rays: np.ndarray,
    sub_rays: list[Callable[[np.ndarray], np.ndarray]],
    shape: tuple[int, int],
    pixel: float,
) -> tuple[np.ndarray, Surface]:
    """(linear RGB (H, W, 3) float32, what the middles of the pixels show).

    Args:
        scene: what is there.
        origin: (3,), the camera.
        rays: float32 (H * W, 3), unit directions of the pixels' middles.
        sub_rays: each gives the same for another point of the pixels (n,) that it is asked for.
        shape: (H, W).
        pixel: the angle that a pixel covers, radians.
    """
    origin = np.broadcast_to(np.asarray(origin, np.float32), rays.shape)
    surface = scene.surface(origin, rays)
    openness = scene.openness(surface, shape)
    color = scene.shade(surface, rays, pixel, openness)
    ragged = np.flatnonzero(edges(surface, shape))
    total = color[ragged]
    for rays_of in sub_rays:
        directions = rays_of(ragged)
        sub = scene.surface(origin[ragged], directions)
        total = total + np.minimum(scene.shade(sub, directions, pixel, openness[ragged]), 4)
    color[ragged] = total / (1 + len(sub_rays))
    return color.reshape(*shape, 3), surface


def sub_pixels() -> np.ndarray:
    """(4, 2), as (x, y) from the pixel's middle."""
    return _SUBPIXELS
