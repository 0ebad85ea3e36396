"""The node for one camera, or nodes for several of a YAML file: ros2 launch perception_node perception.launch.py

`--show-args` lists the arguments. Files of cameras are described in docs/node.md.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_context import LaunchContext
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import Parameter, ParameterValue

from perception_node.cameras import CameraEntry, read_cameras
from perception_node.dds import profile_variable, use_image_profile
from perception_node.errors import UserError
from perception_node.topics import ALL_OUTPUTS, NODE

HERE = Path(__file__).resolve().parent
RESPAWN_DELAY_S = 2.0
BOOLEAN = ["true", "false"]
ARGUMENTS = (
    DeclareLaunchArgument("cameras", default_value="", description="YAML file of cameras; empty: one camera."),
    DeclareLaunchArgument(
        "processes",
        default_value="one",
        choices=["one", "each"],
        description="Of several cameras: one process with one engine for all, or each camera its own.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Of the node, or around those of the cameras."),
    DeclareLaunchArgument("image", default_value="image", description="The topic of the one camera's images."),
    DeclareLaunchArgument(
        "camera_info", default_value="camera_info", description="The topic of the one camera's calibration."
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="compressed takes JPEG or PNG from IMAGE/compressed.",
    ),
    DeclareLaunchArgument("model", default_value="camvid_lite0", description="Model folder, or a shipped one's name."),
    DeclareLaunchArgument("device", default_value="cpu", choices=["cpu", "cuda"], description="What computes."),
    DeclareLaunchArgument(
        "engine",
        default_value="auto",
        choices=["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"],
        description="What runs the network; auto: the device's first.",
    ),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file of further parameters."),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=BOOLEAN,
        description="false: a lifecycle manager configures and activates the node.",
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=BOOLEAN, description="Take the time from /clock."
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="true",
        choices=BOOLEAN,
        description="Start the process again if it ends; it does so where a failed GPU wants a new one.",
    ),
    DeclareLaunchArgument(
        "dds_profile",
        default_value="auto",
        description="XML file for Fast DDS; auto: the package's, as large as the shared memory allows; none: as it is.",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=BOOLEAN, description="Open RViz."),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
)


def start(context: LaunchContext) -> list[Node]:
    """What runs, of the arguments' values."""
    values = {argument.name: context.launch_configurations[argument.name] for argument in ARGUMENTS}
    _set_profile(values)
    cameras = read_cameras(values["cameras"]) if values["cameras"] else ()
    words = ("model", "device", "engine", "image_transport")
    parameters = {
        **{name: ParameterValue(values[name], value_type=str) for name in words},  # a folder may be called 5
        "autostart": values["autostart"] == "true",
        "use_sim_time": values["use_sim_time"] == "true",
    }
    common = {
        "package": "perception_node",
        "executable": "perception_node",
        "parameters": [parameters, *([_file("params_file", values)] if values["params_file"] else [])],
        "ros_arguments": ["--log-level", values["log_level"]],
        "output": "screen",
        "respawn": values["respawn"] == "true",
        "respawn_delay": RESPAWN_DELAY_S,
    }
    namespace = values["namespace"].strip("/")
    outer = _join(context.launch_configurations.get("ros_namespace", ""), namespace)  # with what PushRosNamespace says
    if cameras and values["processes"] == "one":
        nodes = [Node(**common, arguments=["--cameras", values["cameras"], "--namespace", outer])]
    else:
        the_one = CameraEntry("", {name: values[name] for name in ("image", "camera_info")}, {})
        nodes = [_node(common, namespace, camera) for camera in cameras or [the_one]]
    if values["rviz"] == "true":
        shown = _join(outer, cameras[0].name if cameras else "")
        image = cameras[0].remap["image"] if cameras else values["image"]
        # First: where it is not installed launch gives up, and would leave behind what it has already started.
        nodes.insert(0, _rviz(shown, image, parameters["use_sim_time"]))
    return nodes


def _node(common: Mapping[str, Any], namespace: str, camera: CameraEntry) -> Node:
    """A process for one camera, whose own parameters count more than what is common to all."""
    # Not a dictionary, which becomes a file: of several files rcl lets the one that names the node first count less.
    own = [Parameter(name, value, value_type=type(value)) for name, value in camera.parameters.items()]
    return Node(
        **{**common, "parameters": [*common["parameters"], *own]},
        name=NODE,
        namespace=_join(namespace, camera.name),
        remappings=camera.remap.items(),
    )


def _join(*namespaces: str) -> str:
    return "/".join(part for part in (each.strip("/") for each in namespaces) if part)


def _file(argument: str, values: Mapping[str, str]) -> str:
    """The path that an argument names. launch_ros and Fast DDS would go on without what is not there."""
    path = Path(values[argument]).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{argument}: {path}: there is no such file")
    return str(path)


def _set_profile(values: Mapping[str, str]) -> None:
    """For all processes of this launch, those of others' launch files too."""
    if values["dds_profile"] == "auto":
        use_image_profile()
    elif values["dds_profile"] != "none":
        os.environ[profile_variable()] = _file("dds_profile", values)


def _rviz(namespace: str, image: str, use_sim_time: bool) -> Node:
    """RViz, with the topics of its configuration where those of the (first) camera are."""
    root = f"/{namespace}" if namespace else ""
    image = image if image.startswith("/") else f"{root}/{image}"
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(HERE / "perception.rviz")],
        remappings=[
            ("/image", image),
            *((f"/{NODE}/{topic}", f"{root}/{NODE}/{topic}") for topic in ALL_OUTPUTS if root),
        ],
        parameters=[{"use_sim_time": use_sim_time}],
    )


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
