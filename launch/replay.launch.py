"""A bag through the node, in the bag's time, and what the node makes of it into another bag.

ros2 launch perception_node replay.launch.py bag:=drive image:=/front/image_raw out:=out/replayed

The bag plays when the node is active; when it ends, all ends.
"""

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource

from perception_node.topics import NODE

HERE = Path(__file__).resolve().parent
PASSED_ON = ("image", "camera_info", "image_transport", "model", "device", "engine", "params_file", "rviz")
ARGUMENTS = (
    DeclareLaunchArgument("bag", description="The rosbag2 to play."),
    DeclareLaunchArgument("out", default_value="", description="The bag to record to; empty: none."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Of the recorded pace."),
    DeclareLaunchArgument("image", default_value="image", description="The topic of the images in the bag."),
    DeclareLaunchArgument("camera_info", default_value="camera_info", description="The topic of their calibration."),
    DeclareLaunchArgument(
        "image_transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="compressed takes JPEG or PNG from IMAGE/compressed.",
    ),
    DeclareLaunchArgument("model", default_value="camvid_lite0", description="Model folder, or a shipped one's name."),
    DeclareLaunchArgument("device", default_value="cpu", choices=["cpu", "cuda"], description="What computes."),
    DeclareLaunchArgument("engine", default_value="auto", description="What runs the network."),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file of further parameters."),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Open RViz."),
)
RECORDED = rf"/(.*/)?{NODE}/.*|/diagnostics|/tf|/tf_static"


def start(context: LaunchContext) -> list[Any]:
    """The node and, once it is active, player and recorder."""
    values = {argument.name: context.launch_configurations[argument.name] for argument in ARGUMENTS}
    play = ExecuteProcess(
        cmd=["ros2", "bag", "play", values["bag"], "--clock", "100", "--rate", values["rate"]], output="screen"
    )
    record = ExecuteProcess(
        cmd=["ros2", "bag", "record", "--use-sim-time", "-s", "mcap", "-o", values["out"], "--regex", RECORDED],
        output="screen",
    )
    started = []

    def play_when_active(event: Any) -> list[Any] | None:
        if started or b"active: waiting for" not in event.text:
            return None
        started.append(True)
        return [*([record] if values["out"] else []), play]

    passed_on = {name: values[name] for name in PASSED_ON}
    return [
        RegisterEventHandler(OnProcessIO(on_stdout=play_when_active, on_stderr=play_when_active)),
        RegisterEventHandler(
            OnProcessExit(target_action=play, on_exit=[EmitEvent(event=Shutdown(reason="the bag ended"))])
        ),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(HERE / "perception.launch.py")),
            launch_arguments={**passed_on, "use_sim_time": "true", "respawn": "false"}.items(),
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
