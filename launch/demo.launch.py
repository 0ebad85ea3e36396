"""Footage as a camera, the node, and RViz: ros2 launch perception_node demo.launch.py source:=drive.mp4

`make demo` does the same without RViz, and leaves a video, a bag and a report.
"""

import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    # It waits for the node before it plays.
    player = ExecuteProcess(
        cmd=[
            sys.executable,
            *("-m", "perception_node.demo.player", LaunchConfiguration("source")),
            *("--rate", LaunchConfiguration("rate")),
        ],
        output="screen",
    )
    passed_on = {name: LaunchConfiguration(name) for name in ("model", "device", "engine", "rviz")}
    return LaunchDescription(
        [
            DeclareLaunchArgument("source", description="A video, a folder of images, or a rosbag2."),
            DeclareLaunchArgument("rate", default_value="1.0", description="Of the recorded pace."),
            DeclareLaunchArgument("model", default_value="camvid_lite0", description="Model folder, or its name."),
            DeclareLaunchArgument("device", default_value="cpu", choices=["cpu", "cuda"], description="What computes."),
            DeclareLaunchArgument("engine", default_value="auto", description="What runs the network."),
            DeclareLaunchArgument("rviz", default_value="true", choices=["true", "false"], description="Open RViz."),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / "perception.launch.py")),
                launch_arguments=passed_on.items(),
            ),
            player,
            RegisterEventHandler(
                OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown(reason="the footage ended"))])
            ),
        ]
    )
