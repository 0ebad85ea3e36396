"""Triangles with normals and textures, and the few shapes that everything in the street is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from perception_node.simulation.textures import Texture

_SAME_M = 1e-6


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """numpy's, for (..., 3) alone and several times as fast."""
    (ax, ay, az), (bx, by, bz) = ((v[..., 0], v[..., 1], v[..., 2]) for v in (np.asarray(a), np.asarray(b)))
    x = ay * bz - az * by
    product = np.empty((*x.shape, 3), x.dtype)
    product[..., 0], product[..., 1], product[..., 2] = x, az * bx - ax * bz, ax * by - ay * bx
    return product


@dataclass(frozen=True, slots=True)
class Mesh:
    """T triangles, each with corners of its own.

    Attributes:
        corners: float32 (T, 3, 3), metres.
        normals: float32 (T, 3, 3), of length 1, for shading.
        uvs: float32 (T, 3, 2), in widths and heights of the texture, which repeats.
        texture_keys: int32 (T,).
        textures: by key.
    """

    corners: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    texture_keys: np.ndarray
    textures: Mapping[int, Texture]

    def moved(self, x: float = 0, y: float = 0, z: float = 0, heading: float = 0, pitch: float = 0) -> "Mesh":
        """Turned about its own z axis by `heading` (after `pitch` about y, nose down), in radians, then shifted."""
        ch, sh, cp, sp = np.cos(heading), np.sin(heading), np.cos(pitch), np.sin(pitch)
        rotation = np.array([[ch * cp, -sh, ch * sp], [sh * cp, ch, sh * sp], [-sp, 0, cp]], np.float32)
        shift = np.array([x, y, z], np.float32)
        return Mesh(
            self.corners @ rotation.T + shift, self.normals @ rotation.T, self.uvs, self.texture_keys, self.textures
        )

    def mirrored(self) -> "Mesh":
        """Left and right (y) exchanged."""
        flip = np.array([1, -1, 1], np.float32)
        return Mesh(self.corners * flip, self.normals * flip, self.uvs, self.texture_keys, self.textures)


def join(meshes: Iterable[Mesh]) -> Mesh:
    """All triangles in one mesh, in order."""
    meshes = list(meshes)
    textures: dict[int, Texture] = {}
    for mesh in meshes:
        textures |= mesh.textures
    if not meshes:
        return Mesh(
            np.zeros((0, 3, 3), np.float32),
            np.zeros((0, 3, 3), np.float32),
            np.zeros((0, 3, 2), np.float32),
            np.zeros(0, np.int32),
            {},
        )
    names = ("corners", "normals", "uvs", "texture_keys")
    return Mesh(*(np.concatenate([getattr(mesh, name) for mesh in meshes]) for name in names), textures)


def triangles(corners: np.ndarray, texture: Texture, uvs: np.ndarray, normals: np.ndarray | None = None) -> Mesh:
    """Single triangles, (T, 3, 3); flat, unless normals are given."""
    corners = np.asarray(corners, np.float32)
    if normals is None:
        flat = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        normals = np.repeat(flat[:, None], 3, axis=1)
    uvs = np.broadcast_to(uvs, (*corners.shape[:2], 2))
    return Mesh(
        corners,
        np.asarray(normals, np.float32),
        np.asarray(uvs, np.float32),
        np.full(len(corners), texture.key, np.int32),
        {texture.key: texture},
    )


def sheet(points: np.ndarray, texture: Texture, uvs: np.ndarray | None = None, smooth: bool = True) -> Mesh:
    """A grid of quadrilaterals; the outside is where rows x columns (right-handed) points to.

    Args:
        points: (n, m, 3).
        uvs: (n, m, 2); without them, the texture is stretched over the sheet once.
        smooth: normals are averaged over neighbours; else each quadrilateral has its own.
    """
    points = np.asarray(points, float)
    n, m, _ = points.shape
    if uvs is None:
        uvs = np.stack(np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, m), indexing="ij"), -1)
    uvs = np.asarray(uvs, float)
    quads = [np.s_[:-1, :-1], np.s_[1:, :-1], np.s_[1:, 1:], np.s_[:-1, 1:]]

    def expand(values: np.ndarray) -> np.ndarray:
        a, b, c, d = (values[quad].reshape(-1, values.shape[-1]) for quad in quads)
        return np.stack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)], 1).reshape(-1, 3, values.shape[-1])

    a, b, c, d = (points[quad] for quad in quads)
    faces = cross(c - a, d - b)
    if smooth:
        normals = np.zeros_like(points)
        for quad in quads:
            normals[quad] += faces
        for first, last in ((np.s_[0, :], np.s_[-1, :]), (np.s_[:, 0], np.s_[:, -1])):  # closed: no seam
            if np.abs(points[first] - points[last]).max() < _SAME_M:
                normals[first] = normals[last] = normals[first] + normals[last]
        for edge in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):  # a row that is one point: a pole
            if np.abs(points[edge] - points[edge][:1]).max() < _SAME_M:
                normals[edge] = normals[edge].sum(0)
        expanded = expand(normals)
    else:
        expanded = np.repeat(faces.reshape(-1, 3), 6, axis=0).reshape(-1, 3, 3)
    lengths = np.linalg.norm(expanded, axis=-1, keepdims=True)
    corners = expand(points)
    mesh = triangles(corners, texture, expand(uvs), expanded / np.maximum(lengths, 1e-12))
    areas = np.linalg.norm(cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    keep = areas > 1e-9
    return Mesh(mesh.corners[keep], mesh.normals[keep], mesh.uvs[keep], mesh.texture_keys[keep], mesh.textures)


def quads(points: np.ndarray, texture: Texture, uv_sizes: np.ndarray) -> Mesh:
    """Q quadrilaterals, each seen from the side where its four points (bottom left first) go counterclockwise.

    Args:
        points: (Q, 4, 3).
        texture: its top lies at the last two points.
        uv_sizes: (Q, 2), how often it repeats.
    """
    points = np.asarray(points, float)
    uvs = np.array([[0, 1], [1, 1], [1, 0], [0, 0]]) * np.asarray(uv_sizes, float)[:, None]
    corners = points[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3)
    normal = cross(points[:, 2] - points[:, 0], points[:, 3] - points[:, 1])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return triangles(
        corners, texture, uvs[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 2), normal.repeat(6, 0).reshape(-1, 3, 3)
    )


def quad(points: np.ndarray, texture: Texture, uv_size: tuple[float, float] = (1, 1)) -> Mesh:
    """One of `quads`."""
    return quads([points], texture, [uv_size])


_BOX_FACES = np.array(
    [(4, 6, 7, 5), (2, 0, 1, 3), (6, 2, 3, 7), (0, 4, 5, 1), (1, 5, 7, 3), (2, 6, 4, 0)]
)  # ahead, behind, left, right, top, bottom; corner 4 i + 2 j + k is at x_i, y_j, z_k


def box(
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    texture: Texture,
    per_m: float = 0.5,
    bottom: bool = False,
) -> Mesh:
    """An upright box, its texture repeated `per_m` times a metre."""
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    length, width, height = np.subtract(high, low)
    sizes = [(width, height), (width, height), (length, height), (length, height), (length, width), (length, width)]
    n = 6 if bottom else 5
    return quads(corners[_BOX_FACES[:n]], texture, np.array(sizes[:n]) * per_m)


def tube(path: np.ndarray, radii: np.ndarray | float, texture: Texture, sides: int = 8, per_m: float = 1) -> Mesh:
    """A round bar along a path of (n, 3) points, closed at both ends; `radii` (n,) or one for all."""
    path = np.asarray(path, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(path))
    path = np.concatenate([path[:1], path, path[-1:]])
    radii = np.concatenate([[0], radii, [0]])
    along = np.gradient(path[1:-1], axis=0)
    along = np.concatenate([along[:1], along, along[-1:]])
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    mean = path[-1] - path[0]
    reference = np.array([0, 0, 1.0]) if abs(mean[2]) < 0.7 * np.linalg.norm(mean) else np.array([1.0, 0, 0])
    side = cross(reference, along)
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    up = cross(along, side)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(angle)[None, :, None] * side[:, None] + np.sin(angle)[None, :, None] * up[:, None]
    points = path[:, None] + radii[:, None, None] * ring
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]) * per_m
    uvs = np.stack(np.broadcast_arrays(angle[None, :] / (2 * np.pi), length[:, None]), -1)
    return sheet(points, texture, uvs)


def ellipsoid(
    center: tuple[float, float, float], radii: tuple[float, float, float], texture: Texture, rings: int = 8
) -> Mesh:
    """Its texture goes round once, the top at the top."""
    polar = np.linspace(0, np.pi, rings + 1)[:, None]
    around = np.linspace(0, 2 * np.pi, rings * 2 + 1)[None, :]
    unit = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) * np.ones_like(around)], -1
    )
    uvs = np.stack(np.broadcast_arrays(around / (2 * np.pi), polar / np.pi), -1)
    return sheet(np.asarray(center) + unit * np.asarray(radii), texture, uvs)


def disc(center: np.ndarray, axis: np.ndarray, radius: float, texture: Texture, sides: int = 20) -> Mesh:
    """A flat disc seen from where `axis` points to, its texture's middle in its middle."""
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    side = cross([0, 0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0, 0], axis)
    side /= np.linalg.norm(side)
    up = cross(axis, side)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * up
    rim, rim_uv = center + radius * ring, np.stack([0.5 + np.cos(angle) / 2, 0.5 - np.sin(angle) / 2], 1)
    middle = np.broadcast_to(center, (sides, 3))
    corners = np.stack([middle, rim[:-1], rim[1:]], 1)
    return triangles(corners, texture, np.stack([np.full((sides, 2), 0.5), rim_uv[:-1], rim_uv[1:]], 1))
