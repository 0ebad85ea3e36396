"""What is shown, as a stream of messages: recorded ones, or those of footage that is perceived now."""

import heapq
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from perception_node.bags import Bag, open_bag, typestore
from perception_node.calibration_input import CalibrationOptions
from perception_node.errors import BadImage, SourceError
from perception_node.messages import MessageFactory, camera_image
from perception_node.perceiver import Perceiver
from perception_node.pipeline import Pipeline
from perception_node.sources import Source, deserialize
from perception_node.topics import ALL_OUTPUTS, CAMERA_INFO, DIAGNOSTICS, IMAGE, LABEL_INFO, NODE, TF, TF_STATIC
from perception_node.view.selection import (
    CAMERA_INFO_TYPE,
    DIAGNOSTICS_TYPE,
    IMAGE_TYPE,
    NODE_TOPICS,
    TRANSFORMS_TYPE,
    Selection,
    cameras_of,
    nodes_of,
)

_FOOTAGE = {IMAGE: IMAGE_TYPE, CAMERA_INFO: CAMERA_INFO_TYPE, TF: TRANSFORMS_TYPE}
"""Types of the topics of footage."""


class TopicMessage(NamedTuple):
    """A message on its way to the viewer.

    Attributes:
        topic: its name.
        type: of its messages, e.g. "sensor_msgs/msg/Image".
        read: gives rclpy's or rosbags' message. Raises BadImage if it is damaged.
    """

    topic: str
    type: str
    read: Callable[[], Any]


def topics_of(bag: Path) -> dict[str, str]:
    """Topics with messages, by name, and their types."""
    with open_bag(bag) as recording:
        return {name: topic.type for name, topic in recording.topics.items() if topic.count}


def recorded(bags: Sequence[Path], selection: Selection) -> Iterator[TopicMessage]:
    """The messages of bags of one drive, in order of the time at which they were recorded.

    Raises:
        SourceError: a bag cannot be read, or there is nothing to show.
    """
    topics = {topic: type_ for bag in bags for topic, type_ in topics_of(bag).items()}
    names = " and ".join(bag.name for bag in bags)
    if not nodes_of(topics) and not cameras_of(topics):
        raise SourceError(f"{names}: neither images nor topics of a perception node; pass a bag that has some")
    chosen = selection.among(topics)
    with ExitStack() as stack:
        recordings = [stack.enter_context(open_bag(bag)) for bag in bags]
        counts = [topic.count for each in recordings for name, topic in each.topics.items() if name in chosen]
        in_order = heapq.merge(*(_messages(each, chosen) for each in recordings), key=lambda item: item[0])
        for _, message in tqdm(in_order, total=sum(counts), desc=names, unit="message", mininterval=1):
            yield message


def _messages(bag: Bag, topics: Container[str]) -> Iterator[tuple[int, TopicMessage]]:
    """Of an open bag, with the nanoseconds at which they were recorded."""
    for connection, time_ns, cdr in bag.messages(topics):
        read = partial(deserialize, cdr, connection.msgtype)
        yield time_ns, TopicMessage(connection.topic, connection.msgtype, read)


def perceived(source: Source, pipeline: Pipeline, calibration: CalibrationOptions) -> Iterator[TopicMessage]:
    """Footage, and what a node says of it.

    Raises:
        SourceError: the footage cannot be read.
    """
    make, taxonomy = MessageFactory.rosbags(typestore()), pipeline.model.taxonomy
    perceive = Perceiver(pipeline, source, calibration=calibration)

    def say(topic: str, message: Any) -> TopicMessage:
        return TopicMessage(topic, message.__msgtype__, lambda: message)

    for transforms in source.static_transforms():
        yield say(TF_STATIC, transforms)
    yield say(f"/{NODE}/{LABEL_INFO}", make.label_info(make.header(0, ""), taxonomy))
    is_warm = False
    for item in tqdm(source, desc=f"{source.path}: perceive", unit="message", mininterval=1):
        yield TopicMessage(f"/{item.topic.strip('/')}", _FOOTAGE[item.topic], partial(getattr, item, "message"))
        try:
            if item.topic != IMAGE:
                perceive.take(item)
                continue
            header, image = item.message.header, camera_image(item.message)
        except BadImage:
            continue  # whoever reads it says so
        scene = perceive(header, image)  # why it is not in metres, the viewer says
        for name, output in ALL_OUTPUTS.items():
            if name in NODE_TOPICS and name != "overlay" and (answer := output.fill(make, scene)) is not None:
                yield say(f"/{NODE}/{name}", answer)
        if is_warm:
            yield say(DIAGNOSTICS, _times(make, header, pipeline.timer.newest()))
        is_warm = True


def _times(make: MessageFactory, header: Any, milliseconds: dict[str, float]) -> Any:
    """Of one image, as a node tells the medians of many."""
    pair = make.message_class("diagnostic_msgs/msg/KeyValue")
    status = make.message_class("diagnostic_msgs/msg/DiagnosticStatus")(
        level=0,
        name=f"/{NODE}: perception",
        message="",
        hardware_id="",
        values=[pair(key=f"{stage} ms", value=str(value)) for stage, value in milliseconds.items()],
    )
    return make.message_class(DIAGNOSTICS_TYPE)(header=header, status=[status])
