"""Footage as a camera, the node, and RViz: ros2 launch perception_node demo.launch.py source:=drive.mp4

`make demo` does the same without RViz, and leaves a video, a bag and a report. Arguments that are not declared here are
those of perception.launch.py.
"""

import sys
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
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource

HERE = Path(__file__).resolve().parent
ARGUMENTS = (
    DeclareLaunchArgument("source", description="A video, a folder of images, or a rosbag2."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Of the recorded pace."),
    DeclareLaunchArgument("cameras", default_value="", choices=[""], description="Footage is of one camera."),
    DeclareLaunchArgument(
        "image_transport", default_value="raw", choices=["raw"], description="Footage is published as raw images."
    ),
    DeclareLaunchArgument("rviz", default_value="true", choices=["true", "false"], description="Open RViz."),
)


def play(context: LaunchContext) -> list[Any]:
    """The camera, on the topics that the node listens to. It waits for the node before it plays."""
    values = context.launch_configurations
    player = ExecuteProcess(
        cmd=[
            *(sys.executable, "-m", "perception_node.demo.player", values["source"], "--rate", values["rate"]),
            *("--ros-args", "-r", f"__ns:=/{values['namespace'].strip('/')}"),
            *("-r", f"image:={values['image']}", "-r", f"camera_info:={values['camera_info']}"),
        ],
        name="player",
        output="screen",
    )
    return [
        player,
        RegisterEventHandler(
            OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown(reason="the footage ended"))])
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    node = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "perception.launch.py")))
    return LaunchDescription([*ARGUMENTS, node, OpaqueFunction(function=play)])
