"""Which of the topics that there are is shown: cameras, what nodes say of their images, and where the cameras are."""

from collections.abc import Mapping
from dataclasses import dataclass

from perception_node.errors import SourceError
from perception_node.topics import (
    ALL_OUTPUTS,
    DIAGNOSTICS,
    LABEL_INFO,
    LABEL_INFO_TYPE,
    TF,
    TF_STATIC,
    camera_info_beside,
)

IMAGE_TYPE, COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
TRANSFORMS_TYPE = "tf2_msgs/msg/TFMessage"
DIAGNOSTICS_TYPE = "diagnostic_msgs/msg/DiagnosticArray"

NODE_TOPICS = {LABEL_INFO: LABEL_INFO_TYPE} | {
    name: output.type for name, output in ALL_OUTPUTS.items() if name not in ("points", "markers")
}
"""Under a node's own name, and their types. What points and markers say, the grid, free space and objects say too."""
_TELLING = NODE_TOPICS.keys() - {LABEL_INFO, "objects"}
"""Who has one of these is a perception node; the others are of many nodes."""
_COMPRESSED = "/compressed"
_ELSE_COMPRESSED = "/compressedDepth"


def plain_name(topic: str) -> str:
    """A topic's name without the transport's."""
    return topic.removesuffix(_COMPRESSED)


def node_topic(topic: str, type_: str) -> tuple[str, str] | None:
    """The node that says it, and what: "/front/perception_node", "class_map"; None if it is not a node's."""
    is_compressed = type_ == COMPRESSED_TYPE
    node, _, name = (plain_name(topic) if is_compressed else topic).rpartition("/")
    return (node, name) if NODE_TOPICS.get(name) == (IMAGE_TYPE if is_compressed else type_) else None


def nodes_of(topics: Mapping[str, str]) -> set[str]:
    """What is before /class_map, /instances and so on, among topics by name with their types."""
    found = filter(None, (node_topic(*item) for item in topics.items()))
    return {node for node, name in found if name in _TELLING}


def cameras_of(topics: Mapping[str, str]) -> list[str]:
    """The image topics of cameras: not those of nodes. Those with a camera_info beside them, if there are some."""
    nodes = nodes_of(topics)
    cameras = sorted(
        topic
        for topic, type_ in topics.items()
        if type_ in (IMAGE_TYPE, COMPRESSED_TYPE)
        and not topic.endswith(_ELSE_COMPRESSED)
        and not any(topic.startswith(f"{node}/") for node in nodes)
    )
    calibrated = [topic for topic in cameras if camera_info_beside(topic) in topics]
    return calibrated or cameras


@dataclass(frozen=True)
class Selection:
    """What the user chose.

    Attributes:
        camera: the image topic to show, be it compressed or not; None: all.
        node: the node to show; None: all.
        compressed: of images that there are both ways, the compressed ones.
    """

    camera: str | None = None
    node: str | None = None
    compressed: bool = False

    def among(self, topics: Mapping[str, str]) -> dict[str, str]:
        """Those of the topics that are shown, with their types.

        Raises:
            SourceError: the camera or the node is not among them.
        """
        nodes, cameras = nodes_of(topics), cameras_of(topics)
        if self.camera is not None:
            wanted = plain_name(self.camera)
            images = [name for name, type_ in topics.items() if type_ in (IMAGE_TYPE, COMPRESSED_TYPE)]
            if wanted not in map(plain_name, images):
                raise SourceError(f"--topic {self.camera}: no image topic; there are: {', '.join(cameras) or 'none'}")
            cameras = [name for name in images if plain_name(name) == wanted]
        if self.node is not None:
            node = "/" + self.node.strip("/")
            if node not in nodes:
                raise SourceError(f"--node {node}: no such node; there are: {', '.join(sorted(nodes)) or 'none'}")
            nodes = {node}
        return {
            topic: type_
            for topic, type_ in topics.items()
            if not self._is_double(topic, topics)
            and (
                topic in cameras
                or type_ == CAMERA_INFO_TYPE
                or (type_ == TRANSFORMS_TYPE and topic in (TF, TF_STATIC))
                or (type_ == DIAGNOSTICS_TYPE and topic == DIAGNOSTICS)
                or _is_shown_of(nodes, node_topic(topic, type_), topics)
            )
        }

    def _is_double(self, topic: str, topics: Mapping[str, str]) -> bool:
        """Whether the same images come in the way that is preferred, too."""
        plain = plain_name(topic)
        both = plain in topics and plain + _COMPRESSED in topics
        return both and topic != (plain + _COMPRESSED if self.compressed else plain)


def _is_shown_of(nodes: set[str], found: tuple[str, str] | None, topics: Mapping[str, str]) -> bool:
    """Of an overlay: only where there is nothing that the viewer could lay over the image itself."""
    if found is None or found[0] not in nodes:
        return False
    node, name = found
    return name != "overlay" or not any(f"{node}/class_map{transport}" in topics for transport in ("", _COMPRESSED))
