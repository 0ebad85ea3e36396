"""Recorded messages, and those made of footage that is perceived now, as entities."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from perception_node.bags import open_bag, typestore
from perception_node.calibration_input import CalibrationOptions
from perception_node.errors import BadImage, SourceError
from perception_node.messages import MessageFactory, camera_image
from perception_node.perceiver import Perceiver
from perception_node.pipeline import Pipeline
from perception_node.sources import Source, read_message
from perception_node.topics import (
    ALL_OUTPUTS,
    CAMERA_INFO,
    DIAGNOSTICS,
    IMAGE,
    LABEL_INFO,
    NODE,
    TF,
    TF_STATIC,
    camera_info_beside,
)
from perception_node.view.entities import NODE_TOPICS, Entities

_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_TRANSFORMS = "tf2_msgs/msg/TFMessage"
_DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"


def nodes_of(topics: Mapping[str, str]) -> set[str]:
    """What is before /class_map, /instances and so on, among topics by name with their types."""
    return {topic.rpartition("/")[0] for topic in topics if topic.rpartition("/")[2] in NODE_TOPICS - {LABEL_INFO}}


def cameras_of(topics: Mapping[str, str]) -> list[str]:
    """The image topics of cameras: not those of nodes. Those with a camera_info beside them, if there are some."""
    nodes = nodes_of(topics)
    cameras = sorted(
        topic
        for topic, type_ in topics.items()
        if type_ in _IMAGES and not any(topic.startswith(f"{node}/") for node in nodes)
    )
    calibrated = [topic for topic in cameras if camera_info_beside(topic) in topics]
    return calibrated or cameras


def topics_of(bag: Path) -> dict[str, str]:
    """Topics with messages, by name, and their types."""
    with open_bag(bag) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections if connection.msgcount}


def take(entities: Entities, topic: str, message_type: str, message: Any) -> None:
    """Shows a message of a topic that `wanted` names.

    Raises:
        BadImage: it is not what it should be.
    """
    if message_type == _CAMERA_INFO:
        entities.take_camera_info(message)
    elif message_type == _TRANSFORMS:
        entities.take_transforms(message)
    elif message_type == _DIAGNOSTICS:
        entities.show_diagnostics(message)
    elif topic.rpartition("/")[2] in NODE_TOPICS:
        entities.show(topic, message)
    else:
        entities.show_image(topic, message)


def wanted(topics: Mapping[str, str], camera: str | None, node: str | None) -> dict[str, str]:
    """Those that are shown, with their types.

    Args:
        topics: what there is.
        camera: the image topic to show; None: all.
        node: the node to show; None: all.

    Raises:
        SourceError: there is no such.
    """
    nodes, cameras = nodes_of(topics), cameras_of(topics)
    if camera is not None and topics.get(camera) not in _IMAGES:
        raise SourceError(f"--topic {camera}: no image topic; there are: {', '.join(cameras) or 'none'}")
    if node is not None and (node := "/" + node.strip("/")) not in nodes:
        raise SourceError(f"--node {node}: no such node; there are: {', '.join(sorted(nodes)) or 'none'}")
    chosen = {camera} if camera else set(cameras)
    return {
        topic: type_
        for topic, type_ in topics.items()
        if topic in chosen
        or type_ == _CAMERA_INFO
        or (type_ == _TRANSFORMS and topic in (TF, TF_STATIC))
        or (type_ == _DIAGNOSTICS and topic == DIAGNOSTICS)
        or (
            topic.rpartition("/")[2] in NODE_TOPICS
            and type_ not in _IMAGES[1:]
            and topic.rpartition("/")[0] in ({node} if node else nodes)
        )
    }


def show_bag(bag: Path, entities: Entities, camera: str | None = None, node: str | None = None) -> Iterator[None]:
    """Shows a bag's messages, one a step. Damaged ones are counted, said and left out.

    Raises:
        SourceError: it cannot be read, or has nothing to show.
    """
    topics = wanted(topics_of(bag), camera, node)
    if not nodes_of(topics) and not cameras_of(topics):
        raise SourceError(f"{bag}: has neither images nor topics of a perception node; pass one that has")
    bad: dict[str, int] = {}
    with open_bag(bag) as reader:
        connections = [connection for connection in reader.connections if connection.topic in topics]
        messages = reader.messages(connections)
        total = sum(connection.msgcount for connection in connections)
        for connection, _, cdr in tqdm(messages, total=total, desc=bag.name, unit="message", mininterval=1):
            try:
                take(
                    entities,
                    connection.topic,
                    connection.msgtype,
                    read_message(reader.typestore, cdr, connection.msgtype),
                )
            except BadImage as error:
                if connection.topic not in bad:
                    tqdm.write(f"{bag}: {connection.topic}: left out: {error}", file=sys.stderr)
                bad[connection.topic] = bad.get(connection.topic, 0) + 1
            yield
    for topic, count in bad.items():
        print(f"{bag}: {topic}: {count} messages left out", file=sys.stderr)


def show_footage(
    source: Source, pipeline: Pipeline, entities: Entities, calibration: CalibrationOptions
) -> Iterator[None]:
    """Perceives the footage as a node would and shows each image with what was seen in it, one a step.

    Raises:
        SourceError: the footage cannot be read.
    """
    make, taxonomy = MessageFactory.rosbags(typestore()), pipeline.model.taxonomy
    perceive = Perceiver(pipeline, source, calibration=calibration)
    for transforms in source.static_transforms():
        entities.take_transforms(transforms)
    said_classes = False
    for item in tqdm(source, desc="perceive", unit="message", mininterval=1):
        try:
            if item.topic != IMAGE:
                perceive.take(item)
                (entities.take_camera_info if item.topic == CAMERA_INFO else entities.take_transforms)(item.message)
                continue
            header, image = item.message.header, camera_image(item.message)
        except BadImage as error:
            tqdm.write(f"{source.path}: {item.name} refused: {error}", file=sys.stderr)
            continue
        if not said_classes:
            entities.show(f"/{NODE}/{LABEL_INFO}", make.label_info(header, taxonomy))
            said_classes = True
        scene = perceive(header, image)  # why it is not in metres, `entities` says
        entities.show_image(IMAGE, item.message)
        for name in NODE_TOPICS & ALL_OUTPUTS.keys() - {"overlay"}:
            message = ALL_OUTPUTS[name].fill(make, scene)
            if message is not None:
                entities.show(f"/{NODE}/{name}", message)
        entities.show_milliseconds(NODE, header, pipeline.timer.newest())
        yield
