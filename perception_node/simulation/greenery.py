"""Trees in leaf and bare, hedges: leaves are triangles, so that the sky shows through crowns."""

import numpy as np

from perception_node.simulation.mesh import Mesh, box, cross, join, triangles, tube
from perception_node.simulation.textures import Color, Texture, canvas, finish, noise

LEAVES: tuple[Color, ...] = (
    (74, 98, 40),
    (92, 112, 48),
    (60, 84, 42),
    (112, 120, 52),
    (66, 92, 58),
    (150, 118, 48),
    (128, 74, 44),
)
BARK: tuple[Color, ...] = ((92, 80, 66), (74, 64, 56), (120, 112, 98))


def leaf_texture(rng: np.random.Generator) -> Texture:
    """Shades of one kind of leaf."""
    color = np.asarray(LEAVES[rng.choice(len(LEAVES), p=[0.22, 0.22, 0.2, 0.12, 0.14, 0.06, 0.04])], np.float32)
    picture = canvas(16, color * rng.uniform(0.8, 1.1), 0.16 * rng.standard_normal((16, 16)).astype(np.float32))
    picture[..., 0] *= 1 + 0.08 * rng.standard_normal((16, 16))
    return finish(picture, 0.04, translucent=True)


def bark_texture(rng: np.random.Generator) -> Texture:
    field = noise(rng, 64, 0.8)
    grooves = np.repeat(noise(rng, (1, 64), 0.3), 64, axis=0)
    color = BARK[rng.integers(len(BARK))]
    return finish(canvas(64, color, 0.12 * field + 0.16 * grooves))


def leaves(rng: np.random.Generator, points: np.ndarray, normals: np.ndarray, size: float, texture: Texture) -> Mesh:
    """A triangle at each of (n, 3) points, turned at random, lit as if it faced along its normal."""
    n = len(points)
    a, b = rng.standard_normal((2, n, 3))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b -= (a * b).sum(1, keepdims=True) * a
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    scale = size * rng.uniform(0.7, 1.4, (n, 1))
    corners = points[:, None] + np.stack([a * scale, (-0.5 * a + 0.8 * b) * scale, (-0.5 * a - 0.8 * b) * scale], 1)
    lit = normals + 0.35 * rng.standard_normal((n, 3))
    lit /= np.linalg.norm(lit, axis=1, keepdims=True)
    uvs = np.repeat(rng.random((n, 1, 2)), 3, axis=1)
    return triangles(corners, texture, uvs, np.repeat(lit[:, None], 3, axis=1))


def leafy_tree(rng: np.random.Generator, height: float) -> tuple[Mesh, Mesh]:
    """(trunk, crown) of a broad-leaved tree that stands at the origin."""
    trunk_radius = height * rng.uniform(0.016, 0.026)
    crown_low = height * rng.uniform(0.26, 0.36)
    spread = height * rng.uniform(0.24, 0.36)
    middle = np.array([*rng.normal(0, 0.1, 2), (crown_low + height) / 2])
    bark = bark_texture(rng)
    lean = rng.normal(0, 0.02 * height, 2)
    path = np.array(
        [[0, 0, -0.1], [*(lean * 0.2), crown_low * 0.6], [*(lean * 0.6), crown_low], [*lean, height * 0.75]]
    )
    wood = [tube(path, trunk_radius * np.array([1.3, 1, 0.85, 0.25]), bark, 10)]
    n_clumps = int(rng.integers(9, 16))
    polar = rng.standard_normal((n_clumps, 3))
    polar /= np.linalg.norm(polar, axis=1, keepdims=True)
    extent = np.array([spread, spread, (height - crown_low) / 2])
    clumps = middle + polar * extent * rng.uniform(0.45, 0.8, (n_clumps, 1))
    radii = spread * rng.uniform(0.35, 0.6, n_clumps)
    for clump in clumps[: n_clumps // 2]:
        start = np.array([*(lean * 0.6), crown_low * rng.uniform(0.85, 1.3)])
        bend = (start + clump) / 2 + np.array([0, 0, 0.3])
        wood.append(tube(np.array([start, bend, clump]), trunk_radius * np.array([0.5, 0.35, 0.12]), bark, 6))
    n = int(np.clip(620 * height, 3500, 7500))
    which = rng.choice(n_clumps, n, p=radii**2 / (radii**2).sum())
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = clumps[which] + direction * radii[which, None] * np.cbrt(rng.uniform(0.25, 1, (n, 1)))
    outward = (points - middle) / extent
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6
    texture = leaf_texture(rng)
    return join(wood), leaves(rng, points, 0.6 * outward + 0.5 * direction, 0.009 * height + 0.07, texture)


def bare_tree(rng: np.random.Generator, height: float) -> tuple[Mesh, Mesh]:
    """(trunk, branches) of a tree in winter: each branch forks, and the last ones are slender triangles."""
    bark = bark_texture(rng)
    radius, length = height * rng.uniform(0.014, 0.022), height * 0.28
    fork = height * rng.uniform(0.25, 0.35)
    trunk = tube(np.array([[0, 0, -0.1], [0, 0, fork]]), np.array([1.3, 0.9]) * radius, bark, 10)
    starts, directions, parts = np.array([[0, 0, fork * 0.97]]), np.array([[0, 0, 1.0]]), []
    for level, forks in enumerate((4, 3, 3, 4)):
        ends = starts + directions * length
        if level < 2:
            middles = (starts + ends) / 2 + rng.normal(0, 0.06 * length, starts.shape)
            for path in np.stack([starts, middles, ends], 1):
                parts.append(tube(path, radius * np.array([1, 0.8, 0.55]), bark, 6 - level))
        else:
            parts.append(_slender(rng, starts, ends, radius, bark))
        along = rng.uniform(0.55, 1.0, (len(starts), forks, 1))
        turned = directions[:, None] + rng.normal(0, 0.5, (len(starts), forks, 3)) + np.array([0, 0, 0.12])
        starts = (starts[:, None] + (ends - starts)[:, None] * along).reshape(-1, 3)
        directions = (turned / np.linalg.norm(turned, axis=-1, keepdims=True)).reshape(-1, 3)
        radius, length = radius * 0.5, length * 0.66
    tips = starts + directions * length * rng.uniform(0.4, 1.2, (len(starts), 1))
    parts.append(_slender(rng, starts, tips, 0.012, bark))
    return trunk, join(parts)


def _slender(rng: np.random.Generator, starts: np.ndarray, ends: np.ndarray, radius: float, bark: Texture) -> Mesh:
    """Two crossed triangles for each twig."""
    side = rng.standard_normal(starts.shape)
    along = ends - starts
    side -= (side * along).sum(1, keepdims=True) / (along**2).sum(1, keepdims=True) * along
    side *= radius / np.linalg.norm(side, axis=1, keepdims=True)
    other = cross(side, along / np.linalg.norm(along, axis=1, keepdims=True))
    corners = np.concatenate([np.stack([starts - d, starts + d, ends], 1) for d in (side, other)])
    return triangles(corners, bark, [[0, 0], [0.1, 0], [0, 0.3]])


def conifer(rng: np.random.Generator, height: float) -> tuple[Mesh, Mesh]:
    """(trunk, crown) of a cypress or spruce."""
    bark = bark_texture(rng)
    trunk = tube(np.array([[0, 0, -0.1], [0, 0, height * 0.9]]), np.array([0.022, 0.006]) * height, bark, 8)
    n = 4000
    z = height * (0.1 + 0.9 * rng.beta(1.1, 1.7, n))
    radius = (height - z) * rng.uniform(0.16, 0.24) * np.sqrt(rng.uniform(0.3, 1, n))
    around = rng.uniform(0, 2 * np.pi, n)
    normals = np.stack([np.cos(around), np.sin(around), np.full(n, 0.4)], 1)
    points = np.stack([radius * np.cos(around), radius * np.sin(around), z], 1)
    return trunk, leaves(rng, points, normals, 0.015 * height + 0.05, leaf_texture(rng))


def hedge(rng: np.random.Generator, length: float, height: float, depth: float = 0.7) -> Mesh:
    """Along x from 0, y from 0 to `depth`."""
    texture = leaf_texture(rng)
    core = finish(texture.rgba[..., :3].astype(np.float32) * 0.45)
    inner = box((0.08, 0.08, 0), (length - 0.08, depth - 0.08, height - 0.08), core)
    n = int(length * (2 * height + depth) * 110)
    points = rng.random((n, 3)) * [length, depth, height]
    face = rng.choice(3, n, p=np.array([height, height, depth]) / (2 * height + depth))
    normals = np.array([[0, -1, 0.3], [0, 1, 0.3], [0, 0, 1]])[face]
    uneven = rng.normal(0, 0.04, n)
    points[face == 0, 1], points[face == 1, 1], points[face == 2, 2] = 0, depth, height
    points += uneven[:, None] * normals
    return join([inner, leaves(rng, points, normals, 0.075, texture)])


def bush(rng: np.random.Generator, size: float) -> Mesh:
    """A shrub at the origin."""
    n = int(1100 * size)
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    direction[:, 2] = np.abs(direction[:, 2])
    points = direction * size * rng.uniform(0.5, 1, (n, 1)) * [0.8, 0.8, 1]
    return leaves(rng, points, direction, 0.075, leaf_texture(rng))
