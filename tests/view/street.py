"""What a camera and a node say of a street of 64x48 pixels, as messages of rosbags or of rclpy."""

from pathlib import Path
from typing import Any

import numpy as np

from perception_node.camera import Camera
from perception_node.ground import DrivableGrid, FreeSpace
from perception_node.ground_messages import laser_scan, occupancy_grid
from perception_node.messages import MessageFactory
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import builtin_taxonomy
from perception_node.tracking import Track
from perception_node.tracking_messages import track_cloud

STAMP_NS = 1_700_000_000 * 10**9
CAMVID = builtin_taxonomy("camvid")
CAR = next(category.id for category in CAMVID if category.name == "car")
ROAD = next(category.id for category in CAMVID if category.name == "road")
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
CAMERA = Camera(64, 48, "plumb_bob", np.zeros(5), K, np.eye(3), np.hstack([K, np.zeros((3, 1))]), "camera")
MAGENTA_BGR = (255, 0, 255)


def maps(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Class map and instance map: above nothing, below road, on it a car that goes a pixel to the right a frame."""
    class_map, instance_map = np.full((48, 64), 255, np.uint8), np.zeros((48, 64), np.uint16)
    class_map[24:] = ROAD
    class_map[20:30, 20 + index : 36 + index] = CAR
    instance_map[20:30, 20 + index : 36 + index] = 7
    return class_map, instance_map


def track(index: int) -> Track:
    """The car's. Its speed in metres is known from the third image on."""
    speeds = ((-4.0, 2.0), (0.5, 0.5)) if index > 1 else (None, None)
    return Track(7, ((CAR, 0.9),), 1 + index, 0.1 * index, (10.0, 0.0), (8.0, 1.0), *speeds)


def street_messages(n: int, make: MessageFactory, compressed: bool = False) -> list[tuple[str, str, Any]]:
    """Topic, type and message of `n` frames. Args: compressed: images as image_transport compresses them."""
    messages = []
    for index in range(n):
        header = make.header(STAMP_NS + index * 10**8, "camera")
        base = make.header(STAMP_NS + index * 10**8, "base_link")
        class_map, instance_map = maps(index)
        frame = PanopticFrame.from_maps(class_map, instance_map, np.full((48, 64), 255, np.uint8))
        cells = np.array([[0, 100, -1], [-1, -1, -1]], np.int8)
        free = FreeSpace(np.float32([-0.1, 0, 0.1]), np.float32([5, 6, 7]), np.uint8([4, 4, 4]), 40.0)
        image = make.compressed_image if compressed else make.image
        suffix, image_type = ("/compressed", "CompressedImage") if compressed else ("", "Image")
        drivable = (class_map == ROAD).view(np.uint8) * 255
        node = "/perception_node"
        messages += [
            ("/camera/camera_info", "sensor_msgs/msg/CameraInfo", CAMERA.message(make, header)),
            *(
                (topic + suffix, f"sensor_msgs/msg/{image_type}", image(header, pixels, encoding))
                for topic, pixels, encoding in (
                    ("/camera/image_raw", np.full((48, 64, 3), MAGENTA_BGR, np.uint8), "bgr8"),
                    (f"{node}/class_map", class_map, "mono8"),
                    (f"{node}/instance_map", instance_map, "16UC1"),
                    (f"{node}/drivable_area", drivable, "mono8"),
                )
            ),
            (f"{node}/instances", "vision_msgs/msg/Detection2DArray", make.instances(header, frame)),
            (f"{node}/tracks", "sensor_msgs/msg/PointCloud2", track_cloud(make, base, frame, [track(index)])),
            (
                f"{node}/drivable_grid",
                "nav_msgs/msg/OccupancyGrid",
                occupancy_grid(make, base, DrivableGrid(cells, 2.0, (6.0, -3.0))),
            ),
            (f"{node}/free_space", "sensor_msgs/msg/LaserScan", laser_scan(make, base, free)),
        ]
    return [("/perception_node/label_info", "vision_msgs/msg/LabelInfo", make.label_info(header, CAMVID)), *messages]


def times(index: int, make: MessageFactory, **milliseconds: object) -> tuple[str, str, Any]:
    """Topic, type and message that tell how long stages took of a frame."""
    pair = make.message_class("diagnostic_msgs/msg/KeyValue")
    pairs = [pair(key=f"{stage} ms", value=str(value)) for stage, value in milliseconds.items()]
    status = make.message_class("diagnostic_msgs/msg/DiagnosticStatus")(
        level=0, name="/perception_node: perception", message="", hardware_id="", values=pairs
    )
    type_ = "diagnostic_msgs/msg/DiagnosticArray"
    header = make.header(STAMP_NS + index * 10**8, "")
    return "/diagnostics", type_, make.message_class(type_)(header=header, status=[status])


def write_mounting(folder: Path) -> Path:
    path = folder / "mounting.yaml"
    Mounting.from_angles(1.5, 0.1).to_yaml(path)
    return path


def columns(rrd: Path) -> dict[tuple[str, str], list]:
    """Of a saved recording: (entity, component) -> its values in order of time."""
    from rerun.chunk import RrdReader

    found: dict[tuple[str, str], list] = {}
    for chunk in RrdReader(rrd).stream():
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            if ":" in name:
                values = batch.column(name).to_pylist()
                found.setdefault((chunk.entity_path.strip("/"), name.rpartition(":")[2]), []).extend(values)
    return found
