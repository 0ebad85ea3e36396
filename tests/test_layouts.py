"""RViz's configuration and Foxglove's layout show what the node publishes, in the types and qualities that it does."""

import json

import pytest
import yaml

from perception_node.paths import shipped
from perception_node.topics import ALL_OUTPUTS, DIAGNOSTICS, IMAGE, NODE

LAUNCH = shipped("launch")
TYPES = {f"/{NODE}/{name}": output.type for name, output in ALL_OUTPUTS.items()}
TYPES |= {f"/{IMAGE}": "sensor_msgs/msg/Image", DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray"}
RVIZ = {
    "Image": "sensor_msgs/msg/Image",
    "Map": "nav_msgs/msg/OccupancyGrid",
    "LaserScan": "sensor_msgs/msg/LaserScan",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
}
FOXGLOVE_3D = {*RVIZ.values()} - {RVIZ["Image"]}
NOT_SHOWN = {f"/{NODE}/{name}" for name in ("instances", "objects", "tracks")}
"""Stock RViz and Foxglove have no displays of vision_msgs, and tracks are numbers; markers and overlay show them."""


def rviz():
    return yaml.safe_load((LAUNCH / "perception.rviz").read_text())


def displays():
    """Of topics: kind -> display, for each."""
    shown = rviz()["Visualization Manager"]["Displays"]
    return [(display["Class"].rpartition("/")[2], display) for display in shown if "Topic" in display]


def test_rviz_shows_every_topic_in_its_type():
    assert {display["Topic"]["Value"] for _, display in displays()} == set(TYPES) - NOT_SHOWN - {DIAGNOSTICS}
    for kind, display in displays():
        assert RVIZ[kind] == TYPES[display["Topic"]["Value"]], display["Name"]


def test_rviz_asks_for_no_other_quality_than_is_offered():
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible

    from perception_node.node import OUTPUT_QOS, SENSOR_QOS

    for _, display in displays():
        topic = display["Topic"]
        asked = QoSProfile(
            depth=topic["Depth"],
            reliability=ReliabilityPolicy[topic["Reliability Policy"].upper().replace(" ", "_")],
            durability=DurabilityPolicy[topic["Durability Policy"].upper().replace(" ", "_")],
        )
        offered = SENSOR_QOS if topic["Value"] == f"/{IMAGE}" else OUTPUT_QOS  # cameras mostly offer what we ask for
        compatibility, reason = qos_check_compatible(offered, asked)
        assert compatibility != QoSCompatibility.ERROR, f"{display['Name']}: {reason}"


def test_rviz_opens_with_camera_overlay_maps_and_ground_in_view():
    enabled = {display["Topic"]["Value"] for _, display in displays() if display["Enabled"]}
    shown = ("overlay", "class_map", "instance_map", "drivable_grid", "free_space", "markers")
    assert enabled == {f"/{IMAGE}", *(f"/{NODE}/{name}" for name in shown)}
    manager = rviz()["Visualization Manager"]
    others = {display["Class"].rpartition("/")[2] for display in manager["Displays"] if "Topic" not in display}
    assert others == {"Grid", "TF"}
    assert manager["Global Options"]["Fixed Frame"] == "base_link"
    docks = {name for name, value in rviz()["Window Geometry"].items() if isinstance(value, dict)}
    panels = {panel["Name"] for panel in rviz()["Panels"]}
    assert docks == panels | {display["Name"] for kind, display in displays() if kind == "Image"}


def test_rviz_colours_points_by_fields_that_they_have():
    """Our clouds have x, y and z, no colour or intensity."""
    transformers = {
        display["Color Transformer"] for kind, display in displays() if kind in ("PointCloud2", "LaserScan")
    }
    assert transformers <= {"FlatColor", "AxisColor"}


def test_foxglove_shows_topics_in_panels_that_know_their_types():
    layout = json.loads((LAUNCH / "foxglove.json").read_text())
    places = json.dumps(layout["layout"])
    for name, panel in layout["configById"].items():
        assert f'"{name}"' in places
        kind = name.partition("!")[0]
        if kind == "3D":
            assert {TYPES[topic] for topic in panel["topics"]} <= FOXGLOVE_3D
            assert panel["followTf"] == "base_link"
        elif kind == "Image":
            assert TYPES[panel["imageMode"]["imageTopic"]] == RVIZ["Image"]
        else:
            assert kind in ("DiagnosticSummary", "DiagnosticStatusPanel")
            assert panel["topicToRender"] == DIAGNOSTICS
