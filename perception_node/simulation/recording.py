"""The simulated street as ROS messages: what its camera sends, and its truth; as a rosbag2, or as footage."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from perception_node.bags import BagWriter, typestore
from perception_node.errors import SourceError
from perception_node.messages import MessageFactory
from perception_node.metrics.panoptic_map import VOID_INSTANCE
from perception_node.mounting import Mounting
from perception_node.simulation.frame import StreetFrame
from perception_node.simulation.street import Street
from perception_node.sources import Source, SourceMessage
from perception_node.taxonomy import Taxonomy
from perception_node.topics import CAMERA_INFO, IMAGE

CAMERA_TOPIC, TRUTH_TOPIC = "/camera", "/truth"
BASE_FRAME, ODOMETRY_FRAME = "base_link", "odom"
START_NS = 1_700_000_000 * 10**9
"""The first frame's stamp in a bag: a drive's bytes do not depend on when they are made."""
SCHEME = "street:"
MIN_PIXELS = 50
"""As of CamVid's components in perception_node.labels: what shows less of itself is not called an instance."""


def write_bag(street: Street, path: Path, frames: Iterable[StreetFrame] | None = None) -> None:
    """Writes the drive and its truth; all messages of a frame have its stamp.

    Instances of which fewer than MIN_PIXELS are seen are void: their class counts, but nobody is asked to find them.

    Args:
        street: the drive.
        path: folder of the bag; replaced if it is a bag already.
        frames: of the drive, if somebody else makes them.

    Raises:
        SourceError: `path` exists and is no bag.
    """
    make = MessageFactory.rosbags(typestore())
    with BagWriter(path) as bag, tqdm(total=len(street), desc="simulate", unit="frame") as progress:

        def write(topic: str, message: Any, stamp_ns: int, latched: bool = False) -> None:
            cdr = typestore().serialize_cdr(message, message.__msgtype__)
            bag.write(topic, message.__msgtype__, stamp_ns, cdr, latched)

        for frame in frames or street.drive():
            stamp_ns = START_NS + round(frame.time_s * 1e9)
            if frame.index == 0:
                write(
                    "/tf_static",
                    mounting_transform(make, frame.mounting, stamp_ns, frame.camera.frame_id),
                    stamp_ns,
                    True,
                )
                info = make.label_info(make.header(stamp_ns, frame.camera.frame_id), street.taxonomy)
                write(f"{TRUTH_TOPIC}/label_info", info, stamp_ns, True)
            for topic, message in frame_messages(make, frame, stamp_ns, street.taxonomy).items():
                write(topic, message, stamp_ns)
            progress.update()


def frame_messages(make: MessageFactory, frame: StreetFrame, stamp_ns: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """By topic: the image with its camera_info, the vehicle's pose and the truth."""
    optical = make.header(stamp_ns, frame.camera.frame_id)
    small = [segment.id for segment in frame.panoptic.instances if segment.area < MIN_PIXELS]
    instance_map = np.where(np.isin(frame.instance_map, small), np.uint16(VOID_INSTANCE), frame.instance_map)
    large = replace(frame.panoptic, segments=tuple(s for s in frame.panoptic.segments if s.id not in small))
    return {
        "/tf": _transforms(
            make, stamp_ns, ODOMETRY_FRAME, BASE_FRAME, (frame.ego.x, frame.ego.y, 0), _yaw(frame.ego.heading)
        ),
        f"{CAMERA_TOPIC}/camera_info": frame.camera.message(make, optical),
        f"{CAMERA_TOPIC}/image_raw": make.image(optical, frame.image, "bgr8"),
        f"{TRUTH_TOPIC}/class_map": make.image(optical, frame.class_map, "mono8"),
        f"{TRUTH_TOPIC}/instance_map": make.image(optical, instance_map, "16UC1"),
        f"{TRUTH_TOPIC}/depth": make.image(optical, frame.depth, "32FC1"),
        f"{TRUTH_TOPIC}/drivable_area": make.image(optical, frame.drivable, "mono8"),
        f"{TRUTH_TOPIC}/instances": make.instances(optical, large),
        f"{TRUTH_TOPIC}/drivable_grid": _occupancy_grid(make, frame, stamp_ns),
        f"{TRUTH_TOPIC}/objects": _objects(make, frame, stamp_ns),
        f"{TRUTH_TOPIC}/odometry": _odometry(make, frame, stamp_ns),
    }


def mounting_transform(make: MessageFactory, mounting: Mounting, stamp_ns: int, camera_frame: str) -> Any:
    """tf2_msgs/TFMessage: where the camera is on the vehicle."""
    return _transforms(make, stamp_ns, BASE_FRAME, camera_frame, mounting.translation, _quaternion(mounting.rotation))


class StreetSource(Source):
    """A drive as footage: image and camera_info."""

    def __init__(self, street: Street, name: str, start_ns: int = START_NS):
        self.path, self.n_frames = Path(name), len(street)
        self._street, self._start_ns = street, start_ns or START_NS
        self._make = MessageFactory.rosbags(typestore())

    def static_transforms(self) -> Iterator[Any]:
        street = self._street
        yield mounting_transform(self._make, street.mounting, self._start_ns, street.camera.frame_id)

    def __iter__(self) -> Iterator[SourceMessage]:
        make, camera = self._make, self._street.camera
        for frame in self._street.drive():
            time_ns = self._start_ns + round(frame.time_s * 1e9)
            header = make.header(time_ns, camera.frame_id)
            yield SourceMessage(
                CAMERA_INFO, time_ns, f"camera_info_{frame.index:06d}", partial(camera.message, make, header)
            )
            yield SourceMessage(
                IMAGE, time_ns, f"street_{frame.index:06d}", partial(make.image, header, frame.image, "bgr8")
            )


def street_source(name: str, fps: float | None = None, start_ns: int = 0) -> StreetSource:
    """The drive that `name` asks for, e.g. "street:7" or "street:7,frames=50,size=640x480,weather=rain,fps=20".

    Raises:
        SourceError: it asks for something else.
        UserError: Embree is not installed.
    """
    expected = "street:SEED, then perhaps ,frames=N ,fps=F ,size=WIDTHxHEIGHT ,weather=NAME"
    seed, *entries = name.removeprefix(SCHEME).split(",")
    options: dict[str, Any] = {"fps": fps} if fps else {}
    readers = {
        "frames": ("n_frames", int),
        "fps": ("fps", float),
        "size": ("size", parse_size),
        "weather": ("weather", str),
    }
    try:
        options["seed"] = int(seed)
        for entry in entries:
            key, _, value = entry.partition("=")
            argument, read = readers[key]
            options[argument] = read(value)
    except (ValueError, KeyError) as error:
        raise SourceError(f"{name}: expected: {expected}") from error
    return StreetSource(Street(**options), name, start_ns)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of "480x360".

    Raises:
        ValueError: it is none.
    """
    width, height = (int(part) for part in text.split("x"))
    if not (16 <= width <= 8192 and 16 <= height <= 8192):
        raise ValueError(f"{text}: expected: from 16x16 to 8192x8192")
    return width, height


def _transforms(make: MessageFactory, stamp_ns: int, parent: str, child: str, position: Any, quaternion: Any) -> Any:
    x, y, z = (float(value) for value in position)
    transform = make.message_class("geometry_msgs/msg/Transform")(
        translation=make.message_class("geometry_msgs/msg/Vector3")(x=x, y=y, z=z), rotation=_rotation(make, quaternion)
    )
    stamped = make.message_class("geometry_msgs/msg/TransformStamped")(
        header=make.header(stamp_ns, parent), child_frame_id=child, transform=transform
    )
    return make.message_class("tf2_msgs/msg/TFMessage")(transforms=[stamped])


def _pose(make: MessageFactory, position: Any, quaternion: Any) -> Any:
    x, y, z = (float(value) for value in position)
    point = make.message_class("geometry_msgs/msg/Point")(x=x, y=y, z=z)
    return make.message_class("geometry_msgs/msg/Pose")(position=point, orientation=_rotation(make, quaternion))


def _rotation(make: MessageFactory, quaternion: Any) -> Any:
    x, y, z, w = (float(value) for value in quaternion)
    return make.message_class("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)


def _yaw(heading: float) -> tuple[float, float, float, float]:
    return 0.0, 0.0, float(np.sin(heading / 2)), float(np.cos(heading / 2))


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(x, y, z, w) of a rotation matrix: the eigenvector that Bar-Itzhack (2000) finds, without special cases."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    quaternion = np.linalg.eigh(matrix)[1][:, -1]
    return quaternion * (1 if quaternion[3] >= 0 else -1)


def _occupancy_grid(make: MessageFactory, frame: StreetFrame, stamp_ns: int) -> Any:
    header, grid = make.header(stamp_ns, BASE_FRAME), frame.grid
    height, width = grid.cells.shape
    info = make.message_class("nav_msgs/msg/MapMetaData")(
        map_load_time=header.stamp,
        resolution=grid.resolution,
        width=width,
        height=height,
        origin=_pose(make, (*grid.origin_xy, 0), (0, 0, 0, 1)),
    )
    return make.message_class("nav_msgs/msg/OccupancyGrid")(header=header, info=info, data=grid.cells.ravel())


def _objects(make: MessageFactory, frame: StreetFrame, stamp_ns: int) -> Any:
    header = make.header(stamp_ns, BASE_FRAME)
    detections = []
    for thing in (thing for thing in frame.objects if thing.visible_pixels >= MIN_PIXELS):
        quaternion, covariance = _yaw(thing.heading), np.zeros(36)
        # The result's pose is the nearest point of it that is seen, on the ground; the box is all of it.
        pose = make.message_class("geometry_msgs/msg/PoseWithCovariance")(
            pose=_pose(make, (*thing.foot, 0), quaternion), covariance=covariance
        )
        hypothesis = make.message_class("vision_msgs/msg/ObjectHypothesis")(class_id=str(thing.class_id), score=1.0)
        length, width, height = thing.size
        box = make.message_class("vision_msgs/msg/BoundingBox3D")(
            center=_pose(make, thing.position, quaternion),
            size=make.message_class("geometry_msgs/msg/Vector3")(x=length, y=width, z=height),
        )
        detections.append(
            make.message_class("vision_msgs/msg/Detection3D")(
                header=header,
                results=[
                    make.message_class("vision_msgs/msg/ObjectHypothesisWithPose")(hypothesis=hypothesis, pose=pose)
                ],
                bbox=box,
                id=str(thing.id),
            )
        )
    return make.message_class("vision_msgs/msg/Detection3DArray")(header=header, detections=detections)


def _odometry(make: MessageFactory, frame: StreetFrame, stamp_ns: int) -> Any:
    ego, vector = frame.ego, make.message_class("geometry_msgs/msg/Vector3")
    twist = make.message_class("geometry_msgs/msg/Twist")(
        linear=vector(x=ego.speed, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=ego.turn_rate)
    )
    return make.message_class("nav_msgs/msg/Odometry")(
        header=make.header(stamp_ns, ODOMETRY_FRAME),
        child_frame_id=BASE_FRAME,
        pose=make.message_class("geometry_msgs/msg/PoseWithCovariance")(
            pose=_pose(make, (ego.x, ego.y, 0), _yaw(ego.heading)), covariance=np.zeros(36)
        ),
        twist=make.message_class("geometry_msgs/msg/TwistWithCovariance")(twist=twist, covariance=np.zeros(36)),
    )
