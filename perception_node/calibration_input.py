"""Where a node's calibration comes from: files, parameters, camera_info, /tf_static and /tf; and what is still missing.

Knows no ROS: messages are handed in, rclpy's or rosbags'. The node subscribes; of a bag its reader gives them.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from perception_node.camera import Camera
from perception_node.errors import BadCalibration, UserError, without_trace
from perception_node.mounting import Mounting
from perception_node.paths import shipped
from perception_node.transforms import Transforms

BASE_FRAME = "base_link"


class Calibration(NamedTuple):
    """Of the camera that took an image, at the image's size. The same object until something changes."""

    camera: Camera
    mounting: Mounting


class MissingCalibration(BadCalibration):
    """Nobody has given a calibration, or not yet; nothing is wrong."""


@dataclass(frozen=True)
class CalibrationOptions:
    """Where to look; the fields are parameters of the node.

    Attributes:
        camera_info_url: the camera's YAML file, as camera_info_manager has it: file:///PATH, package://PACKAGE/PATH, or
            a path; empty: the camera_info topic.
        rectified: the images are rectified: P of the calibration counts, K and D do not.
        mounting_url: the mounting's YAML file, likewise; empty: mounting_height, or TF.
        mounting_height: of the camera above the ground, metres; 0: not given.
        mounting_pitch, mounting_roll, mounting_yaw: with a height, degrees; see perception_node.mounting.
        mounting_x, mounting_y: with a height, metres in the base frame.
        base_frame: x ahead, y left, z up; from it TF leads to the camera.
        ground_z: of the ground in it, metres: below 0 where its origin is above the ground.
    """

    camera_info_url: str = ""
    rectified: bool = False
    mounting_url: str = ""
    mounting_height: float = 0.0
    mounting_pitch: float = 0.0
    mounting_roll: float = 0.0
    mounting_yaw: float = 0.0
    mounting_x: float = 0.0
    mounting_y: float = 0.0
    base_frame: str = BASE_FRAME
    ground_z: float = 0.0

    @property
    def needs_camera_info(self) -> bool:
        return not self.camera_info_url

    @property
    def needs_transforms(self) -> bool:
        return not self.mounting_url and self.mounting_height == 0


@dataclass(slots=True)
class _Known:
    """Something that was read, or the reason why not."""

    value: Any = None
    error: BadCalibration | None = None

    def get(self) -> Any:
        if self.error:
            raise self.error.with_traceback(None)  # which would grow with every image
        return self.value


class CalibrationInput:
    """The calibration of one camera, as far as it is known. May be used from several threads.

    Args:
        options: files named there are read now. What is wrong with them is said when a calibration is asked for.
        transforms: of the vehicle, where several cameras share them; then all are used from one thread.
    """

    def __init__(self, options: CalibrationOptions, transforms: Transforms | None = None):
        self.options = options
        self._lock = threading.Lock()
        self._transforms, self._static_transforms = transforms or Transforms(), Transforms()
        self._frame_id = ""  # of the last image
        self._transform_error: BadCalibration | None = None
        self._camera_info: Any = None
        self._current: Calibration | None = None
        self._scaled: tuple[Camera, Camera] | None = None
        self.set_options(options)

    def set_options(self, options: CalibrationOptions) -> None:
        """Changes where to look, and reads files again. What messages told is kept."""
        mounting = _Known()
        if options.mounting_height != 0:
            angles = np.radians([options.mounting_pitch, options.mounting_roll, options.mounting_yaw])
            place = options.mounting_x, options.mounting_y, options.ground_z
            mounting = _known(lambda: Mounting.from_angles(options.mounting_height, *angles, *place))
        elif options.mounting_url:
            mounting = _known(lambda: Mounting.from_yaml(path_of_url(options.mounting_url), options.ground_z))
        with self._lock:
            self.options, self._mounting = options, mounting
            self._camera = self._known_camera()

    def check_files(self) -> None:
        """Raises BadCalibration if a file that the options name cannot be used."""
        with self._lock:
            self._camera.get()
            self._mounting.get()

    def take_camera_info(self, message: Any) -> None:
        """A sensor_msgs/CameraInfo; the newest counts, also for images that are a little older."""
        with self._lock:
            if self._camera_info is None or _fields(message) != _fields(self._camera_info):
                self._camera_info = message
                self._camera = self._known_camera()

    def take_transforms(self, message: Any) -> None:
        """A tf2_msgs/TFMessage of /tf_static or /tf."""
        with self._lock:
            try:
                self._transforms.add(message)
            except BadCalibration as error:
                self._transform_error = without_trace(error)

    def take_static_transforms(self, message: Any) -> None:
        """One of /tf_static."""
        self.take_transforms(message)
        with self._lock, suppress(BadCalibration):
            self._static_transforms.add(message)

    @property
    def is_mounting_static(self) -> bool:
        """Whether /tf_static alone has said where the camera of the last image is: /tf has nothing to add."""
        with self._lock:
            return self._static_transforms.lookup(self.options.base_frame, self._frame_id) is not None

    def __str__(self) -> str:
        """What is known, for people; before the first image was asked about, that."""
        if self._current is None:
            return "no image yet"
        camera, mounting = self._current
        pitch, roll, yaw = np.degrees(mounting.angles())
        return (
            f"{camera.distortion_model} {camera.width}x{camera.height}; height {mounting.height_m:.2f} m, "
            f"pitch {pitch:.1f}, roll {roll:.1f}, yaw {yaw:.1f} degrees"
        )

    @property
    def has_camera_info(self) -> bool:
        """Whether one was taken, be it right or wrong."""
        return self._camera_info is not None

    def calibration(self, frame_id: str, width: int, height: int) -> Calibration:
        """For an image with this frame_id in its header and this size in pixels.

        Raises:
            MissingCalibration: there is none, or not yet.
            BadCalibration: there is one that is wrong, or not of such an image.
        """
        with self._lock:
            camera = self._camera.get()
            if camera is None:
                raise MissingCalibration(
                    "camera_info", "none yet; expected: the topic, or the parameter camera_info_url"
                )
            camera = self._at_size(camera, width, height)
            mounting = self._mounting.get() or self._looked_up(frame_id or camera.frame_id)
            if self._current is None or self._current != (camera, mounting):
                self._current = Calibration(camera, mounting)
            return self._current

    def _known_camera(self) -> "_Known":
        url, rectified, message = self.options.camera_info_url, self.options.rectified, self._camera_info
        if url:
            return _known(lambda: Camera.from_yaml(path_of_url(url), rectified))
        if message is None:
            return _Known()
        if message.k[0] == 0:  # so sensor_msgs/CameraInfo has it
            return _Known(error=MissingCalibration("camera_info", "K is zero: its camera is not calibrated"))
        known = _known(lambda: Camera.from_message(message, rectified))
        if known.error:
            known.error = BadCalibration("camera_info", str(known.error))
        return known

    def _at_size(self, camera: Camera, width: int, height: int) -> Camera:
        original, scaled = self._scaled or (None, None)
        if original is not camera or (scaled.width, scaled.height) != (width, height):
            self._scaled = camera, camera.scaled_to(width, height)
        return self._scaled[1]

    def _looked_up(self, frame_id: str) -> Mounting:
        self._frame_id = frame_id
        if not frame_id:
            raise BadCalibration(
                "frame_id", "empty in the image's header and in camera_info; expected: the camera's optical frame"
            )
        base = self.options.base_frame
        pose = self._transforms.lookup(base, frame_id)
        if pose is None:
            # What is wrong with TF may be why; but no more than may be.
            trouble = f"; on TF: {self._transform_error}" if self._transform_error else ""
            raise (BadCalibration if trouble else MissingCalibration)(
                "TF",
                f"nothing connects {base!r} with the image's frame {frame_id!r} yet; expected: both on /tf_static, or "
                f"a parameter mounting_url or mounting_height{trouble}",
            )
        try:
            return Mounting(*pose, self.options.ground_z)
        except BadCalibration as error:
            raise BadCalibration(f"TF from {base!r} to {frame_id!r}", str(error)) from error


def path_of_url(url: str) -> Path:
    """The file that a URL means, as camera_info_manager has them: file:///PATH, package://PACKAGE/PATH; or a path.

    Raises:
        UserError: another kind of URL, or a package that is not installed.
    """
    if "://" not in url:
        return Path(url).expanduser()
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(path)
    if parts.scheme == "package" and parts.netloc:
        return _package_share(parts.netloc, path.lstrip("/"))
    raise UserError(f"URL {url!r}: expected: file:///PATH, package://PACKAGE/PATH, or a path")


def _package_share(package: str, path: str) -> Path:
    if package == "perception_node":
        folder, _, rest = path.partition("/")
        return shipped(folder) / rest
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(package)) / path
    except (ImportError, LookupError, OSError, ValueError) as error:
        raise UserError(f"package {package!r}: not found; expected: one that is installed") from error


def _known(read: Callable[[], Any]) -> _Known:
    try:
        return _Known(read())
    except BadCalibration as error:
        return _Known(error=error)
    except UserError as error:
        return _Known(error=BadCalibration("calibration", str(error)))


def _fields(info: Any) -> tuple:
    """All that makes a calibration of a CameraInfo, to see whether it changed."""
    roi = info.roi
    return (
        *(info.header.frame_id, info.width, info.height, info.distortion_model, info.binning_x, info.binning_y),
        *(roi.x_offset, roi.y_offset, roi.width, roi.height),
        *(np.asarray(values, np.float64).tobytes() for values in (info.d, info.k, info.r, info.p)),
    )
