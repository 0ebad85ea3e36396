"""A calibrated camera: where a point in space is seen, and in which direction a pixel looks.

What it holds is sensor_msgs/CameraInfo, checked. Pixels are OpenCV's and ROS's: the middle of the top left one is
(0, 0). Points and directions are in the camera's optical frame (REP 103): x right, y down, z ahead.

Binning and region of interest are applied when a message is read, so width, height, K and P are those of the image as
it is delivered. A pixel's middle stays in its middle: when an axis is scaled by s, u becomes (u + 0.5) s - 0.5.
(image_geometry and image_proc leave the halves out, a quarter of a pixel at 2x2 binning.)

A rectified image has been through P and R, and D and K no longer apply: say so with `rectified`. P's fourth column, of
the second camera of a stereo pair, is left out: the optical frame's origin is this camera's optical centre.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.calibration_file import CalibrationFile, write_whole
from perception_node.errors import BadCalibration
from perception_node.lens import BrownLens, FisheyeLens
from perception_node.messages import MessageFactory

DISTORTION_MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""By their names in sensor_msgs/distortion_models.hpp: how many coefficients each may have."""

_OTHER_NAMES = {"fisheye": "equidistant", "kannala_brandt4": "equidistant", "radtan": "plumb_bob"}
_YAML_KEYS = {
    "width": "image_width",
    "height": "image_height",
    "distortion_model": "distortion_model",
    "D": "distortion_coefficients.data",
    "K": "camera_matrix.data",
    "R": "rectification_matrix.data",
    "P": "projection_matrix.data",
}
_MAX_SIZE = 65536
_BLOCK = 16384


@dataclass(frozen=True, eq=False)
class Camera:
    """Two cameras are equal if all their values are.

    Attributes:
        width, height: of the image as it is delivered, in pixels.
        distortion_model: a key of DISTORTION_MODELS; "" or "none" without coefficients becomes plumb_bob of zeros.
        D: float64 (n,), the distortion coefficients.
        K: float64 (3, 3), focal lengths and principal point of the image as it comes from the lens.
        R: float64 (3, 3), from the optical frame to the rectified one; for stereo cameras.
        P: float64 (3, 4), projection of the rectified image.
        frame_id: of the optical frame; "" if not known.
        name: of the camera, in its YAML file.
        rectified: the images are rectified: R and P count, K and D do not.

    Raises:
        BadCalibration: a value is not what it can be.
    """

    width: int
    height: int
    distortion_model: str
    D: np.ndarray
    K: np.ndarray
    R: np.ndarray
    P: np.ndarray
    frame_id: str = ""
    name: str = "camera"
    rectified: bool = False

    def __post_init__(self):
        def put(field: str, value: Any) -> None:
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, field, value)

        for field in ("width", "height"):
            size = getattr(self, field)
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 1 <= size <= _MAX_SIZE:
                raise BadCalibration(field, f"{size!r}; expected: the image's, 1 to {_MAX_SIZE} pixels")
            put(field, int(size))
        put("K", _matrix("K", self.K, (3, 3)))
        rotation, projection = _matrix("R", self.R, (3, 3)), _matrix("P", self.P, (3, 4))
        _check_intrinsics("K", self.K)
        # Drivers leave R and P at zero where nothing is rectified.
        put("R", rotation if rotation.any() else np.eye(3))
        check_rotation("R", self.R)
        if not projection.any() and not self.rectified:
            projection = np.hstack([self.K, np.zeros((3, 1))])
        put("P", projection)
        if self.rectified:
            _check_intrinsics("P", self.P[:, :3])
        model, coefficients = _distortion(self.distortion_model, self.D)
        put("distortion_model", model)
        put("D", coefficients)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Camera) and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)
        )

    def __hash__(self) -> int:
        return hash((self.width, self.height, self.K.tobytes()))

    @classmethod
    def from_message(cls, camera_info: Any, rectified: bool = False) -> "Camera":
        """Of rclpy's or rosbags' sensor_msgs/CameraInfo; its binning and region of interest are applied.

        Args:
            camera_info: the message.
            rectified: the images are rectified ones.

        Raises:
            BadCalibration: the message is of a camera that is not calibrated, or contradicts itself.
        """
        full = cls(
            camera_info.width,
            camera_info.height,
            camera_info.distortion_model,
            camera_info.d,
            camera_info.k,
            camera_info.r,
            camera_info.p,
            camera_info.header.frame_id,
            rectified=rectified,
        )
        full.check_plausible()
        roi = camera_info.roi
        # Zero stands for all that there is.
        width, height = roi.width or full.width - roi.x_offset, roi.height or full.height - roi.y_offset
        if roi.x_offset + width > full.width or roi.y_offset + height > full.height or min(width, height) < 1:
            raise BadCalibration(
                "roi",
                f"{width}x{height} at ({roi.x_offset}, {roi.y_offset}) is not within the {full.width}x{full.height} "
                "image; expected: pixels of the full image, before binning",
            )
        binning_x, binning_y = camera_info.binning_x or 1, camera_info.binning_y or 1
        if binning_x > width or binning_y > height:
            raise BadCalibration("binning_x", f"{binning_x}x{binning_y} leaves no pixel of {width}x{height}")
        shift = np.array([roi.x_offset, roi.y_offset])
        return full._resampled(width // binning_x, height // binning_y, shift, 1 / np.array([binning_x, binning_y]))

    @classmethod
    def from_yaml(cls, path: Path, rectified: bool = False) -> "Camera":
        """Of a file as ROS's camera_calibration and camera_info_manager write it; what else stands in it is left alone.

        Raises:
            BadCalibration: the file cannot be read, or a value, whose line is named, is not what it can be.
        """
        file = CalibrationFile(path)
        k = file.matrix("camera_matrix", "fx, 0, cx, 0, fy, cy, 0, 0, 1")
        if k is None:
            raise file.error("camera_matrix", "missing", "rows: 3, cols: 3, data: [fx, 0, cx, 0, fy, cy, 0, 0, 1]")
        d = file.matrix("distortion_coefficients", "the distortion's coefficients, all of them numbers")
        r = file.matrix("rectification_matrix", "the 3x3 rotation, row by row")
        p = file.matrix("projection_matrix", "the 3x4 projection, row by row")
        # Files from before there was the choice name no model; like ROS we take them for plumb_bob.
        default = "rational_polynomial" if d is not None and d.size == 8 else "plumb_bob"
        try:
            camera = cls(
                file.integer("image_width", "the image's width in pixels"),
                file.integer("image_height", "the image's height in pixels"),
                file.text("distortion_model", default),
                np.zeros(0) if d is None else d,
                k,
                np.zeros((3, 3)) if r is None else r,
                np.zeros((3, 4)) if p is None else p,
                name=file.text("camera_name", "camera"),
                rectified=rectified,
            )
            camera.check_plausible()
        except BadCalibration as error:
            if error.field not in _YAML_KEYS:
                raise
            problem = str(error).removeprefix(f"{error.field}: ")
            raise file.error(_YAML_KEYS[error.field], problem, None) from error
        return camera

    def to_yaml(self, path: Path) -> None:
        """Writes what `from_yaml` and ROS's tools read; numbers in full, so that reading gives the same camera."""
        lines = [f"image_width: {self.width}", f"image_height: {self.height}", f"camera_name: {json.dumps(self.name)}"]
        for key, matrix in (
            ("camera_matrix", self.K),
            ("distortion_coefficients", self.D[None]),
            ("rectification_matrix", self.R),
            ("projection_matrix", self.P),
        ):
            if key == "distortion_coefficients":
                lines.append(f"distortion_model: {self.distortion_model}")
            rows, cols = matrix.shape
            data = ", ".join(_yaml_number(value) for value in matrix.ravel().tolist())
            lines += [f"{key}:", f"  rows: {rows}", f"  cols: {cols}", f"  data: [{data}]"]
        write_whole(path, "\n".join(lines) + "\n")

    def message(self, make: MessageFactory, header: Any) -> Any:
        """sensor_msgs/CameraInfo of the image as it is delivered, without binning or region of interest."""
        roi = make.message_class("sensor_msgs/msg/RegionOfInterest")(
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return make.message_class("sensor_msgs/msg/CameraInfo")(
            header=header,
            height=self.height,
            width=self.width,
            distortion_model=self.distortion_model,
            d=self.D.copy(),
            k=self.K.ravel(),
            r=self.R.ravel(),
            p=self.P.ravel(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def scaled_to(self, width: int, height: int) -> "Camera":
        """The camera for images of another size, to which its own were resized.

        Raises:
            BadCalibration: the proportions are others: the image was cropped, and nobody said where.
        """
        if (width, height) == (self.width, self.height):
            return self
        scale = np.array([width / self.width, height / self.height])
        if abs(scale[0] * self.height - height) > 1 and abs(scale[1] * self.width - width) > 1:
            raise BadCalibration(
                "width",
                f"calibrated at {self.width}x{self.height}, but the image has {width}x{height}, other proportions; "
                "expected: a calibration of these images, or binning and roi in camera_info",
            )
        return self._resampled(width, height, np.zeros(2), scale)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points are seen.

        Args:
            points: (N, 3) in the optical frame; any unit.

        Returns:
            float64 (N, 2), pixels (u, v), which may lie outside of the image; NaN for points behind the camera (a
            fisheye sees some) and for those that are beyond what the lens model describes.
        """
        points = np.asarray(points, np.float64).reshape(-1, 3)
        rotation = self._rotation.T

        def project(some: np.ndarray) -> np.ndarray:
            return self._lens.distort(some @ rotation) * self._focal + self._principal

        return _in_blocks(project, points, 2)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """In which direction pixels look.

        Args:
            pixels: (N, 2), (u, v).

        Returns:
            float64 (N, 3), unit vectors in the optical frame; NaN for pixels that the lens model cannot have filled.
        """
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        rotation = self._rotation

        def look(some: np.ndarray) -> np.ndarray:
            return self._lens.directions((some - self._principal) / self._focal) @ rotation

        return _in_blocks(look, pixels, 3)

    def pixel_grid(self) -> np.ndarray:
        """float64 (height * width, 2): all pixels (u, v), row by row."""
        u, v = np.meshgrid(np.arange(self.width, dtype=np.float64), np.arange(self.height, dtype=np.float64))
        return np.stack([u.ravel(), v.ravel()], 1)

    def check_plausible(self) -> None:
        """For the full image, before any cropping, which may move the principal point anywhere.

        Raises:
            BadCalibration: K (P, if rectified) is of another unit, another resolution, or another camera.
        """
        field = "P" if self.rectified else "K"
        size = np.array([self.width, self.height])
        relative = self._focal / size.max()
        if (relative < 0.05).any() or (relative > 200).any():
            raise BadCalibration(
                field,
                f"focal lengths {_numbers(self._focal)} for {self.width}x{self.height} pixels; "
                "expected: in pixels, not in millimetres",
            )
        where = (self._principal + 0.5) / size
        if (where < -0.5).any() or (where > 1.5).any():
            raise BadCalibration(
                field,
                f"principal point {_numbers(self._principal)} is far outside of the {self.width}x{self.height} image; "
                "expected: near its middle",
            )
        # Off the middle in both directions in the same proportion: that is the middle of an image of another size.
        if abs(where[0] - where[1]) < 0.1 and ((where < 0.3).all() or (where > 0.7).all()):
            width, height = np.round(2 * self._principal + 1)
            raise BadCalibration(
                field,
                f"principal point {_numbers(self._principal)} is the middle of about {width:.0f}x{height:.0f} pixels, "
                f"not of {self.width}x{self.height}; expected: a calibration made at the size that it states",
            )

    @property
    def _rotation(self) -> np.ndarray:
        return self.R if self.rectified else np.eye(3)

    @property
    def _intrinsics(self) -> np.ndarray:
        return self.P if self.rectified else self.K

    @property
    def _focal(self) -> np.ndarray:
        return self._intrinsics[[0, 1], [0, 1]]

    @property
    def _principal(self) -> np.ndarray:
        return self._intrinsics[:2, 2]

    @cached_property
    def _lens(self) -> BrownLens | FisheyeLens:
        if self.rectified:
            return BrownLens(np.zeros(8))
        if self.distortion_model == "equidistant":
            return FisheyeLens(self.D)
        return BrownLens(np.pad(self.D, (0, 8 - self.D.size)))

    def _resampled(self, width: int, height: int, shift: np.ndarray, scale: np.ndarray) -> "Camera":
        """The camera of the image from pixel `shift` on, then scaled, both as (x, y)."""

        def changed(matrix: np.ndarray) -> np.ndarray:
            matrix = matrix.copy()
            matrix[:2, 2] -= shift
            matrix[:2] *= scale[:, None]
            matrix[:2, 2] += (scale - 1) / 2
            return matrix

        projection = changed(self.P) if self.P.any() else self.P
        return dataclasses.replace(self, width=width, height=height, K=changed(self.K), P=projection)


def _in_blocks(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, n_columns: int) -> np.ndarray:
    """The function of all rows, a block at a time: what is worked on then stays in the processor's cache."""
    result = np.empty((len(rows), n_columns))
    for start in range(0, len(rows), _BLOCK):
        result[start : start + _BLOCK] = function(rows[start : start + _BLOCK])
    return result


def check_rotation(field: str, rotation: np.ndarray) -> None:
    """Raises BadCalibration if a (3, 3) matrix is no rotation to within a thousandth."""
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise BadCalibration(
            field, f"{_numbers(rotation.ravel())} is no rotation; expected: orthonormal rows, right-handed"
        )


def _matrix(field: str, values: Any, shape: tuple[int, int]) -> np.ndarray:
    matrix = _vector(field, values)
    if matrix.size != shape[0] * shape[1]:
        raise BadCalibration(field, f"{matrix.size} numbers; expected: {shape[0]}x{shape[1]}, row by row")
    return matrix.reshape(shape)


def _vector(field: str, values: Any) -> np.ndarray:
    try:
        vector = np.array(values, np.float64).ravel()
    except (TypeError, ValueError):
        raise BadCalibration(field, f"{values!r:.100}; expected: numbers") from None
    if not np.isfinite(vector).all():
        raise BadCalibration(field, f"{_numbers(vector)}; expected: finite numbers")
    return vector


def _check_intrinsics(field: str, matrix: np.ndarray) -> None:
    focal = matrix[[0, 1], [0, 1]]
    if not matrix.any():
        raise BadCalibration(
            field, "all zeros: the camera is not calibrated; make a calibration with camera_calibration"
        )
    if not (focal > 0).all():
        raise BadCalibration(field, f"focal lengths {_numbers(focal)}; expected: above 0, in pixels")
    if not 1 / 4 <= focal[0] / focal[1] <= 4:
        raise BadCalibration(field, f"focal lengths {_numbers(focal)}; expected: nearly the same")
    expected = matrix.copy()
    expected[[0, 1], [1, 0]] = 0
    expected[2] = 0, 0, 1
    if not np.allclose(matrix, expected, rtol=0, atol=1e-9):
        raise BadCalibration(
            field,
            f"{_numbers(matrix.ravel())}; expected: fx, 0, cx, 0, fy, cy, 0, 0, 1 (a skewed camera is not supported)",
        )


def _distortion(model: Any, coefficients: Any) -> tuple[str, np.ndarray]:
    """The model by its ROS name, and its coefficients without surplus zeros."""
    vector = _vector("D", coefficients)
    if not isinstance(model, str):
        raise BadCalibration("distortion_model", f"{model!r}; expected: one of {', '.join(DISTORTION_MODELS)}")
    name = _OTHER_NAMES.get(model, model)
    if model in ("", "none"):
        if vector.any():
            raise BadCalibration(
                "distortion_model",
                f"{model!r}, but D has {vector.size} numbers; expected: one of {', '.join(DISTORTION_MODELS)}",
            )
        name, vector = "plumb_bob", np.zeros(5)
    if name not in DISTORTION_MODELS:
        raise BadCalibration("distortion_model", f"{model!r}; expected: one of {', '.join(DISTORTION_MODELS)}")
    counts = DISTORTION_MODELS[name]
    if vector.size == 0:
        vector = np.zeros(counts[-1])
    if vector.size > counts[-1] and not vector[counts[-1] :].any():
        vector = vector[: counts[-1]]  # OpenCV fills up with zeros
    if vector.size not in counts:
        expected = " or ".join(map(str, counts))
        raise BadCalibration("D", f"{vector.size} coefficients; expected: {expected} of {name}")
    return name, vector


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _yaml_number(value: float) -> str:
    """All its digits, with the point that YAML 1.1 wants in 1.0e-05."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return text if not e or "." in mantissa else f"{mantissa}.0e{exponent}"
