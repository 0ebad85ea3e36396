"""The nav2 snippet of docs/ground.md names topics, types and classes that there are."""

import re
from pathlib import Path

import pytest
import yaml

from perception_node.model import load_model
from perception_node.topics import ALL_OUTPUTS, LABEL_INFO, LABEL_INFO_TYPE, NODE

TYPES = {
    "segmentation_topic": "sensor_msgs/msg/Image",
    "confidence_topic": "sensor_msgs/msg/Image",
    "pointcloud_topic": "sensor_msgs/msg/PointCloud2",
    "labels_topic": "vision_msgs/msg/LabelInfo",
}
"""What the layer subscribes to: the first three best effort, the last latched."""


@pytest.fixture(scope="module")
def camera():
    text = Path(__file__).parents[1].joinpath("docs/ground.md").read_text()
    snippet = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    layer = snippet["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_layer"]
    return layer[layer["observation_sources"]]


def test_its_topics_are_ours_and_of_the_layers_types(camera):
    ours = {f"/{NODE}/{name}": output.type for name, output in ALL_OUTPUTS.items()}
    ours[f"/{NODE}/{LABEL_INFO}"] = LABEL_INFO_TYPE
    assert {name: ours.get(camera[name]) for name in TYPES} == TYPES


def test_every_class_of_the_default_model_is_named_once(camera):
    """The layer complains of classes that it is not told of."""
    named = [name for kind in camera["class_types"] for name in camera[kind]["classes"]]
    taxonomy = load_model().taxonomy
    assert sorted(named) == sorted(category.name for category in taxonomy)
    assert camera["drivable"]["classes"] == [category.name for category in taxonomy if category.drivable]


@pytest.mark.ros
def test_the_node_offers_what_the_layer_asks_for():
    """Reliable publishers serve best effort subscriptions, too; the labels must be latched."""
    pytest.importorskip("rclpy")
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    from perception_node.node import LATCHED_QOS, OUTPUT_QOS

    assert OUTPUT_QOS.reliability == LATCHED_QOS.reliability == ReliabilityPolicy.RELIABLE
    assert LATCHED_QOS.durability == DurabilityPolicy.TRANSIENT_LOCAL
