"""StreetFrame: one picture of the street and all that is true of it."""

from dataclasses import dataclass

import numpy as np

from perception_node.camera import Camera
from perception_node.ground import DrivableGrid
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame


@dataclass(frozen=True, slots=True)
class StreetObject:
    """An instance that is seen. Positions are in the base frame: x ahead, y left, z up, the ground at 0; metres.

    Attributes:
        id: its value in the instance map, the same over the drive.
        class_id: of the taxonomy.
        position: (x, y, z) of the middle of its box.
        heading: radians, 0 where it faces ahead, counterclockwise.
        size: (length, width, height).
        visible_pixels: how many show it.
        foot: (x, y) of the nearest of its points that touch the ground and are seen; of one whose foot is hidden, the
            nearest of the lowest that are seen.
    """

    id: int
    class_id: int
    position: tuple[float, float, float]
    heading: float
    size: tuple[float, float, float]
    visible_pixels: int
    foot: tuple[float, float]


@dataclass(frozen=True, slots=True)
class EgoPose:
    """Of the base frame in the street's frame, which is that of the drive's start.

    Attributes:
        x, y: metres.
        heading: radians.
        speed: m/s, ahead.
        turn_rate: radians/s.
    """

    x: float
    y: float
    heading: float
    speed: float
    turn_rate: float


@dataclass(frozen=True, slots=True)
class StreetFrame:
    """All arrays have the image's height and width; truth is that of the middles of the pixels.

    Attributes:
        index: of the frame in the drive.
        time_s: since the drive began.
        image: uint8 (H, W, 3), BGR.
        panoptic: class map, instance map and segments; confidence is 255.
        depth: float32 (H, W), metres along the optical axis; infinite in the sky.
        drivable: uint8 (H, W), 255 where road is seen that the vehicle can reach, 0 elsewhere.
        grid: the same in metres.
        objects: all that are seen, by id.
        ego: where the vehicle is.
        camera: that took the image.
        mounting: where it is on the vehicle.
    """

    index: int
    time_s: float
    image: np.ndarray
    panoptic: PanopticFrame
    depth: np.ndarray
    drivable: np.ndarray
    grid: DrivableGrid
    objects: tuple[StreetObject, ...]
    ego: EgoPose
    camera: Camera
    mounting: Mounting

    @property
    def class_map(self) -> np.ndarray:
        """uint8 (H, W), ids of the taxonomy."""
        return self.panoptic.class_map

    @property
    def instance_map(self) -> np.ndarray:
        """uint16 (H, W), 0 for stuff; ids last over the drive."""
        return self.panoptic.instance_map
