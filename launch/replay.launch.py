"""A bag through the node, in the bag's time, and what the node makes of it into another bag.

ros2 launch perception_node replay.launch.py bag:=drive image:=/front/image_raw out:=out/replayed

The bag plays when the node is active, or all nodes of several cameras are; when it ends, all ends. Arguments that are
not declared here are those of perception.launch.py.
"""

import os
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
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource

from perception_node.cameras import read_cameras
from perception_node.errors import UserError
from perception_node.topics import NODE

HERE = Path(__file__).resolve().parent
ACTIVE = b"active: waiting for"  # what a node says then, at the level info
ARGUMENTS = (
    DeclareLaunchArgument("bag", description="The rosbag2 to play."),
    DeclareLaunchArgument("out", default_value="", description="The bag to record to; empty: none."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Of the recorded pace."),
    DeclareLaunchArgument("use_sim_time", default_value="true", choices=["true"], description="It is the bag's time."),
    DeclareLaunchArgument("autostart", default_value="true", choices=["true"], description="Or the bag would wait."),
    DeclareLaunchArgument(
        "respawn", default_value="false", choices=["true", "false"], description="Start the process again if it ends."
    ),
    DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info"], description="debug or info."),
)
DISCOVERY_S = 2.0  # what is played before player, node and recorder have found each other is lost
LAST_IMAGE_S = 3.0  # for what is still at work when the bag ends
RECORDED = rf"^(/.*)?/{NODE}/[^/]+$|^/diagnostics$|^/tf(_static)?$"  # not compressed what is there uncompressed
RESULTS = rf"^(/.*)?/{NODE}/.+$|^/diagnostics$"  # of a node that ran when the bag was recorded


def check_out(context: LaunchContext) -> None:
    """Before anything runs, which an error would leave behind."""
    out = context.launch_configurations["out"]
    if out and Path(out).exists():
        raise UserError(f"out: {out} exists, and is not overwritten; name another bag, or remove it")


def play_when_active(context: LaunchContext) -> list[Any]:
    """Player and recorder, once all nodes are active."""
    values = context.launch_configurations
    play = ExecuteProcess(
        cmd=[
            *("ros2", "bag", "play", values["bag"], "--clock", "100", "--rate", values["rate"]),
            *("--delay", str(DISCOVERY_S)),
            *(() if os.environ.get("ROS_DISTRO") == "humble" else ("-x", RESULTS)),  # Humble cannot leave any out
        ],
        output="screen",
    )
    record = ExecuteProcess(
        cmd=["ros2", "bag", "record", "--use-sim-time", "-s", "mcap", "-o", values["out"], "--regex", RECORDED],
        output="screen",
    )
    end = [EmitEvent(event=Shutdown(reason="the bag ended"))]
    awaited = len(read_cameras(values["cameras"])) if values["cameras"] else 1

    def on_output(event: Any) -> list[Any] | None:
        nonlocal awaited
        if awaited <= 0:
            return None
        awaited -= event.text.count(ACTIVE)
        return None if awaited > 0 else [*([record] if values["out"] else []), play]

    return [
        RegisterEventHandler(OnProcessIO(on_stdout=on_output, on_stderr=on_output)),
        RegisterEventHandler(
            OnProcessExit(target_action=play, on_exit=[TimerAction(period=LAST_IMAGE_S, actions=end)])
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    node = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "perception.launch.py")))
    return LaunchDescription(
        [*ARGUMENTS, OpaqueFunction(function=check_out), node, OpaqueFunction(function=play_when_active)]
    )
