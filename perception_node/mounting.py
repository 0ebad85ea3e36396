"""Where a camera is on the vehicle: the pose of its optical frame in the base frame.

Axes are those of REP 103. Base frame: x ahead, y left, z up; the ground is its plane z = ground_z: 0 if the frame is
base_footprint, below 0 if it is a base_link at an axle's height. Optical frame: x right, y down, z ahead.

Angles turn as in URDF, first roll about x, then pitch about y, then yaw about z, each right-handed: pitch is positive
when the camera looks down, roll when it leans to the right, yaw when it looks to the left. In radians here, in degrees
in files and parameters.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perception_node.calibration_file import CalibrationFile, write_whole
from perception_node.camera import check_rotation
from perception_node.errors import BadCalibration

BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""(3, 3): a camera that looks straight ahead; ahead is the optical z, left the negative x, up the negative y."""
_MAX_HEIGHT_M = 1000.0
_NORM_TOLERANCE = 0.01


class Angles(NamedTuple):
    """In radians, in the order of Mounting.from_angles."""

    pitch: float
    roll: float
    yaw: float


@dataclass(frozen=True, eq=False)
class Mounting:
    """Two are equal if all their values are.

    Attributes:
        rotation: float64 (3, 3), takes directions from the optical frame to the base frame.
        translation: float64 (3,), the camera's position in the base frame, metres.
        ground_z: of the ground in the base frame, metres.

    Raises:
        BadCalibration: no rotation, no finite numbers, or a camera that is not above the ground.
    """

    rotation: np.ndarray
    translation: np.ndarray
    ground_z: float = 0.0

    def __post_init__(self):
        rotation, translation = np.array(self.rotation, np.float64), np.array(self.translation, np.float64)
        if rotation.shape != (3, 3) or not np.isfinite(rotation).all():
            raise BadCalibration("rotation", f"{rotation.tolist()}; expected: 3x3 finite numbers")
        check_rotation("rotation", rotation)
        if translation.shape != (3,) or not np.isfinite(translation).all():
            raise BadCalibration("translation", f"{translation.tolist()}; expected: 3 finite numbers, metres")
        height = translation[2] - self.ground_z
        if not 0 < height <= _MAX_HEIGHT_M:
            raise BadCalibration(
                "height",
                f"{height:.6g} m above the ground, z = {self.ground_z:g} of the base frame; expected: above 0, at most "
                f"{_MAX_HEIGHT_M:.0f}; or another base_frame or ground_z",
            )
        for field, value in (("rotation", rotation), ("translation", translation)):
            value.flags.writeable = False
            object.__setattr__(self, field, value)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mounting)
            and np.array_equal(self.rotation, other.rotation)
            and np.array_equal(self.translation, other.translation)
            and self.ground_z == other.ground_z
        )

    def __hash__(self) -> int:
        return hash((self.rotation.tobytes(), self.translation.tobytes(), self.ground_z))

    @property
    def height_m(self) -> float:
        """Above the ground."""
        return float(self.translation[2] - self.ground_z)

    @classmethod
    def from_angles(
        cls,
        height_m: float,
        pitch: float = 0.0,
        roll: float = 0.0,
        yaw: float = 0.0,
        x: float = 0.0,
        y: float = 0.0,
        ground_z: float = 0.0,
    ) -> "Mounting":
        """Of a height above the ground and a place in the base frame in metres, and angles in radians.

        Raises:
            BadCalibration: a number is not finite, or the height not above 0.
        """
        for field, value in (("pitch", pitch), ("roll", roll), ("yaw", yaw)):
            if not np.isfinite(value):
                raise BadCalibration(field, f"{value}; expected: a finite number")
        (cp, cr, cy), (sp, sr, sy) = np.cos([pitch, roll, yaw]), np.sin([pitch, roll, yaw])
        body = np.array(
            [
                [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                [-sp, cp * sr, cp * cr],
            ]
        )
        return cls(body @ BODY_FROM_OPTICAL, np.array([x, y, height_m + ground_z], np.float64), ground_z)

    @classmethod
    def from_transform(cls, translation: Any, quaternion_xyzw: Any) -> "Mounting":
        """Of a transform as TF has it, with the base frame as parent and the optical frame as child.

        Raises:
            BadCalibration: see the class; or the quaternion's length is not 1.
        """
        return cls(rotation_of_quaternion(quaternion_xyzw), np.array(translation, np.float64))

    @classmethod
    def from_yaml(cls, path: Path, ground_z: float = 0.0) -> "Mounting":
        """Of a file with height_m and, where they are not 0, pitch_deg, roll_deg, yaw_deg, x_m, y_m.

        Raises:
            BadCalibration: the file cannot be read, or a value, whose line is named, is not what it can be.
        """
        file = CalibrationFile(path)
        height = file.number("height_m", "metres of the camera above the ground, e.g. 1.4")
        values = {}
        for name in ("pitch", "roll", "yaw"):
            key = f"{name}_deg"
            if f"{name}_rad" in file or name in file:
                raise file.error(name if name in file else f"{name}_rad", "no such entry", f"{key}, in degrees")
            degrees = file.number(key, "degrees, e.g. 2.5", 0.0)
            if abs(degrees) > 180:
                raise file.error(key, f"{degrees:g}", "degrees, from -180 to 180")
            values[name] = math.radians(degrees)
        for name in ("x", "y"):
            values[name] = file.number(f"{name}_m", "metres in the base frame", 0.0)
        try:
            return cls.from_angles(height, **values, ground_z=ground_z)
        except BadCalibration as error:
            raise file.error("height_m", str(error).removeprefix(f"{error.field}: "), None) from error

    def to_yaml(self, path: Path, comment: str = "") -> None:
        """Writes what `from_yaml` reads, below a comment; reading gives the same mounting to 1e-12."""
        x, y, _ = self.translation.tolist()
        angles = {f"{name}_deg": math.degrees(value) for name, value in self.angles()._asdict().items()}
        entries = {"height_m": self.height_m, **angles, "x_m": x, "y_m": y}
        lines = [f"# {line}".rstrip() for line in comment.splitlines()]
        lines += [
            f"{key}: {value:.15g}" if "e" not in f"{value:.15g}" else f"{key}: {value:.18f}"
            for key, value in entries.items()
        ]
        write_whole(path, "\n".join(lines) + "\n")

    def angles(self) -> Angles:
        """Radians. Of a camera that looks straight down or up, the roll is said to be 0."""
        body = self.rotation @ BODY_FROM_OPTICAL.T
        across = np.hypot(body[0, 0], body[1, 0])
        pitch = np.arctan2(-body[2, 0], across)
        if across < 1e-9:
            return Angles(float(pitch), 0.0, float(np.arctan2(-body[0, 1], body[1, 1])))
        roll, yaw = np.arctan2(body[2, 1], body[2, 2]), np.arctan2(body[1, 0], body[0, 0])
        return Angles(float(pitch), float(roll), float(yaw))


def rotation_of_quaternion(xyzw: Any) -> np.ndarray:
    """float64 (3, 3) of a quaternion (x, y, z, w), whose length is made 1 if it nearly is.

    Raises:
        BadCalibration: its length is not 1 to within a hundredth.
    """
    quaternion = np.array(xyzw, np.float64)
    norm = float(np.sqrt((quaternion**2).sum()))
    if quaternion.shape != (4,) or not abs(norm - 1) <= _NORM_TOLERANCE:
        raise BadCalibration(
            "quaternion", f"x, y, z, w = {quaternion.tolist()} has length {norm:.6g}; expected: length 1"
        )
    x, y, z, w = quaternion / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
