"""Rays against triangles, by Intel's Embree (embreex)."""

from dataclasses import dataclass

import numpy as np

from perception_node.errors import UserError
from perception_node.simulation.mesh import Mesh

try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError:
    EmbreeScene = None

NO_INSTANCE = 0
_OFFSET_M = 2e-3
"""From a surface to where rays that leave it begin, so that they do not hit it."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Where N rays end.

    Attributes:
        triangle: int32 (N,), -1 where nothing is hit.
        distance: float32 (N,), infinite there.
        u, v: float32 (N,), weights of the triangle's second and third corner.
        facing: float32 (N, 3), the triangle's unit normal, turned towards the ray's origin.
    """

    triangle: np.ndarray
    distance: np.ndarray
    u: np.ndarray
    v: np.ndarray
    facing: np.ndarray


class Geometry:
    """Triangles that say what they belong to.

    Args:
        mesh: of T triangles.
        class_ids: uint8 (T,).
        instance_ids: uint16 (T,), 0 for stuff.

    Raises:
        UserError: Embree is not installed.
    """

    def __init__(self, mesh: Mesh, class_ids: np.ndarray, instance_ids: np.ndarray):
        if EmbreeScene is None:
            raise UserError("the simulated street needs Embree: pip install 'perception_node[demo]' (or embreex>=4.4)")
        self.mesh, self.class_ids, self.instance_ids = mesh, class_ids, instance_ids
        self._scene = EmbreeScene()
        if len(mesh.corners):
            TriangleMesh(self._scene, np.ascontiguousarray(mesh.corners, np.float32))

    def __len__(self) -> int:
        return len(self.class_ids)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """What rays from (N, 3) or (3,) in unit directions (N, 3) hit first."""
        n = len(directions)
        if not n or not len(self):
            nothing = np.zeros(n, np.float32)
            return Hits(np.full(n, -1, np.int32), nothing + np.inf, nothing, nothing, np.zeros((n, 3), np.float32))
        directions = np.ascontiguousarray(directions, np.float32)
        origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origins, np.float32), directions.shape))
        found = self._scene.run(origins, directions, output=1)
        hit = found["primID"] >= 0
        normal = found["Ng"]
        normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
        away = np.einsum("ij,ij->i", normal, directions) > 0
        normal[away] *= -1
        distance = np.where(hit, found["tfar"], np.float32(np.inf))
        return Hits(found["primID"], distance, found["u"], found["v"], normal)

    def blocks(self, origins: np.ndarray, directions: np.ndarray, far: float | np.ndarray = 1e4) -> np.ndarray:
        """bool (N,): whether rays hit anything nearer than `far` metres."""
        if not len(directions) or not len(self):
            return np.zeros(len(directions), bool)
        directions = np.ascontiguousarray(directions, np.float32)
        origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origins, np.float32), directions.shape))
        far = np.ascontiguousarray(np.broadcast_to(np.asarray(far, np.float32), len(directions)))
        return self._scene.run(origins, directions, far, query="OCCLUDED") >= 0


def off_surface(points: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """(N, 3) where rays that leave points of a surface begin."""
    return points + facing * np.float32(_OFFSET_M)
