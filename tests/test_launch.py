"""Launch files and files of cameras: read as text always, run where the launch library is installed."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from perception_node.cameras import read_cameras
from perception_node.errors import UserError
from perception_node.paths import shipped
from perception_node.topics import ALL_OUTPUTS, NODE

LAUNCH = shipped("launch")
PYTHON_FILES = sorted(LAUNCH.glob("*.launch.py"))


def declared(path):
    """The arguments of a launch file: name -> (has a default, description)."""
    found = {}
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument":
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            found[call.args[0].value] = "default_value" in keywords, ast.literal_eval(keywords["description"])
    return found


def test_there_are_the_launch_files():
    assert [path.name for path in PYTHON_FILES] == ["demo.launch.py", "perception.launch.py", "replay.launch.py"]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_every_argument_is_described_and_only_footage_is_required(path):
    arguments = declared(path)
    assert all(description.endswith(".") for _, description in arguments.values())
    required = {name for name, (has_default, _) in arguments.items() if not has_default}
    assert required == {"demo.launch.py": {"source"}, "replay.launch.py": {"bag"}}.get(path.name, set())


def test_what_is_declared_again_is_declared_there():
    """The others include perception.launch.py with its arguments, and declare only what is otherwise with them."""
    main = set(declared(LAUNCH / "perception.launch.py"))
    again = {
        "demo.launch.py": {"cameras", "image_transport", "rviz"},
        "replay.launch.py": {"use_sim_time", "autostart", "respawn", "log_level"},
    }
    for name, expected in again.items():
        assert set(declared(LAUNCH / name)) & main == expected


def test_the_xml_twin_has_the_same_arguments_and_defaults():
    tree = ET.parse(LAUNCH / "perception.launch.xml")
    arguments = {arg.get("name"): arg.get("default") for arg in tree.iter("arg")}
    text = (LAUNCH / "perception.launch.py").read_text()
    defaults = {
        call.args[0].value: keyword.value.value
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument"
        for keyword in call.keywords
        if keyword.arg == "default_value"
    }
    assert arguments.items() <= defaults.items()
    used = {word for node in tree.iter() for value in node.attrib.values() for word in [value] if "$(var" in word}
    assert used == {f"$(var {name})" for name in arguments}


CAMERAS = """
cameras:
  - name: front
    image: image_raw
    parameters: {priority: 2, model: "5"}
  - {name: left/rear, image: /rear/image, remap: {~/overlay: /seen}}
"""


def test_cameras_of_a_file(tmp_path):
    path = tmp_path / "cameras.yaml"
    path.write_text(CAMERAS)
    front, rear = read_cameras(path)
    words = "-r __ns:=/car/front -r image:=image_raw -r camera_info:=camera_info -p priority:=2 -p model:="
    assert " ".join(front.arguments("/car")) == words + '"5"'
    words = "-r __ns:=/left/rear -r image:=/rear/image -r camera_info:=camera_info -r ~/overlay:=/seen"
    assert " ".join(rear.arguments()) == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cameras: []", "cameras.yaml:1: cameras: [] "),
        ("cameras:\n- {name: 1front}", "cameras.yaml:2: cameras.0.name: '1front' does not match"),
        ("cameras:\n- {name: a}\n- {name: a}", "cameras.yaml:3: cameras.1.name: 'a' is taken"),
        ("cameras:\n- {name: a, topic: b}", "Additional properties are not allowed ('topic' was unexpected)"),
        ("cameras:\n- {name: a, parameters: {model: [1]}}", "cameras.yaml:2: cameras.0.parameters.model: [1]"),
        ("cameras: {", "not valid YAML"),
        (None, "there is no such file of cameras"),
    ],
)
def test_wrong_files_of_cameras(tmp_path, text, message):
    path = tmp_path / "cameras.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        read_cameras(path)
    assert message in str(error.value)


# ---- with the launch library ----


def load(name):
    """The module of a launch file."""
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros, which PyPI lacks")
    from launch.launch_description_sources import load_python_launch_file_as_module

    return load_python_launch_file_as_module(str(LAUNCH / name))


def nodes(**arguments):
    """What perception.launch.py would run, and in which context."""
    module = load("perception.launch.py")
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(
        {"dds_profile": "none", **{key: str(value) for key, value in arguments.items()}}
    )
    for argument in module.ARGUMENTS:
        argument.visit(context)
    return module.start(context), context


def executables(**arguments):
    return [node.node_executable for node in nodes(**arguments)[0]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["perception_node"]),
        ({"rviz": "true", "namespace": "car"}, ["rviz2", "perception_node"]),
        ({"cameras": "cameras.yaml"}, ["perception_node"]),
        ({"cameras": "cameras.yaml", "processes": "each"}, ["perception_node", "perception_node"]),
        ({"cameras": "cameras.yaml", "rviz": "true"}, ["rviz2", "perception_node"]),
    ],
)
def test_what_the_arguments_start(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    Path("cameras.yaml").write_text(CAMERAS)
    assert executables(**arguments) == expected


def test_each_cameras_own_parameters_count_more_than_those_of_all(tmp_path):
    """Also than those of a file for whichever node. The namespaces of a group around it are kept."""
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
    (tmp_path / "cameras.yaml").write_text(CAMERAS)
    (tmp_path / "all.yaml").write_text("/**: {ros__parameters: {priority: 5, threads: 1}}")
    given = {"cameras": tmp_path / "cameras.yaml", "processes": "each", "namespace": "car", "ros_namespace": "/fleet"}
    (front, rear), context = nodes(**given, params_file=tmp_path / "all.yaml")
    for node in (front, rear):
        node._perform_substitutions(context)
    assert [front.node_name, rear.node_name] == [f"/fleet/car/{name}/{NODE}" for name in ("front", "left/rear")]
    assert ("~/overlay", "/seen") in rear.expanded_remapping_rules
    words = ["--ros-args", "-r", "__ns:=/fleet/car/front"]
    for value, is_file in front._Node__expanded_parameter_arguments:
        words += ["--params-file" if is_file else "-p", str(value)]
    rclpy.init()
    started = rclpy.create_node(NODE, cli_args=words, automatically_declare_parameters_from_overrides=True)
    values = {name: started.get_parameter(name).value for name in ("model", "priority", "threads", "device")}
    started.destroy_node()
    rclpy.shutdown()
    assert values == {"model": "5", "priority": 2, "threads": 1, "device": "cpu"}


def test_one_process_has_the_namespaces_of_a_group_around_it(tmp_path):
    (tmp_path / "cameras.yaml").write_text(CAMERAS)
    (node,), context = nodes(cameras=tmp_path / "cameras.yaml", namespace="/car", ros_namespace="/fleet")
    words = ["".join(part.perform(context) for part in word) for word in node.cmd[1:5]]
    assert words == ["--cameras", str(tmp_path / "cameras.yaml"), "--namespace", "fleet/car"]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_the_description_can_be_made(path):
    description = load(path.name).generate_launch_description()
    names = {argument.name for argument in description.get_launch_arguments()}
    assert names == set(declared(path)) | set(declared(LAUNCH / "perception.launch.py"))


def test_the_xml_twin_starts_the_node():
    pytest.importorskip("launch_xml", reason="needs launch_xml, which PyPI lacks")
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros, which PyPI lacks")
    from launch import LaunchContext
    from launch_xml.launch_description_sources import XMLLaunchDescriptionSource

    context, source = LaunchContext(), XMLLaunchDescriptionSource(str(LAUNCH / "perception.launch.xml"))
    *arguments, node = source.get_launch_description(context).entities
    assert {argument.name for argument in arguments} < set(declared(LAUNCH / "perception.launch.py"))
    assert "".join(part.perform(context) for part in node.node_executable) == "perception_node"


@pytest.mark.parametrize("argument", ["params_file", "dds_profile", "cameras"])
def test_files_that_are_not_there_are_refused(tmp_path, argument):
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros, which PyPI lacks")
    with pytest.raises(UserError, match=r"nope\.yaml: there is no such file"):
        executables(**{argument: tmp_path / "nope.yaml"})


def test_results_in_the_bag_are_not_played():
    """They would be recorded beside the new ones."""
    results = re.compile(load("replay.launch.py").RESULTS)
    for topic in ("/diagnostics", f"/{NODE}/class_map", f"/car/front/{NODE}/overlay/compressed"):
        assert results.search(topic)
    assert not any(results.search(topic) for topic in ("/front/image_raw", "/tf", "/diagnostics_agg", f"/x{NODE}/y"))


def test_what_is_recorded():
    recorded = re.compile(load("replay.launch.py").RECORDED)  # rosbag2 looks for it anywhere in the topic's name
    for topic in ALL_OUTPUTS:
        assert recorded.search(f"/{NODE}/{topic}")
        assert recorded.search(f"/car/front/{NODE}/{topic}")
        assert not recorded.search(f"/{NODE}/{topic}/compressed")
    assert all(recorded.search(topic) for topic in ("/diagnostics", "/tf", "/tf_static"))
    assert not any(
        recorded.search(topic) for topic in ("/front/image_raw", "/diagnostics_agg", "/car/tf", f"/x{NODE}/y")
    )


@pytest.mark.parametrize(
    ("cameras", "output", "starts"),
    [
        ("", [b"configured", b"active: waiting for /image", b"active: waiting for /image"], [0, 1, 0]),
        (CAMERAS, [b"active: waiting for /a", b"other", b"active: waiting for /b"], [0, 0, 1]),
        (CAMERAS, [b"active: waiting for /a\nactive: waiting for /b\n"], [1]),
    ],
)
def test_a_bag_plays_once_when_all_cameras_are_active(tmp_path, cameras, output, starts):
    module = load("replay.launch.py")
    from launch import LaunchContext
    from launch.events.process import ProcessStdout

    (tmp_path / "cameras.yaml").write_text(cameras)
    context = LaunchContext()
    given = {"cameras": str(tmp_path / "cameras.yaml") if cameras else "", "bag": "drive", "out": "", "rate": "1.0"}
    context.launch_configurations.update(given)
    said, _ = (action.event_handler for action in module.play_when_active(context))
    process = {"action": None, "name": "node", "cmd": [], "cwd": None, "env": None, "pid": 1}
    counts = [len(said.handle(ProcessStdout(text=text, **process), context) or ()) for text in output]
    assert counts == starts


def test_a_bag_that_is_there_is_not_recorded_over(tmp_path):
    """And nothing is started."""
    module = load("replay.launch.py")
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations["out"] = str(tmp_path)
    first, *others = (each for each in module.generate_launch_description().entities if each not in module.ARGUMENTS)
    assert [type(each).__name__ for each in others] == ["IncludeLaunchDescription", "OpaqueFunction"]
    with pytest.raises(UserError, match=r"out: .* exists, and is not overwritten"):
        first.execute(context)


def test_argument_words_are_refused_when_they_are_no_choice():
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros, which PyPI lacks")
    with pytest.raises(RuntimeError, match="processes"):
        executables(processes="some")


def test_under_launch_testing():
    pytest.importorskip("launch_testing", reason="needs launch_testing, which PyPI lacks")
    index = pytest.importorskip("ament_index_python", reason="needs ROS 2")
    if not index.has_resource("packages", NODE):
        pytest.skip("the package is not installed: colcon build, . install/setup.bash")
    command = [
        sys.executable,
        "-m",
        "launch_testing.launch_test",
        Path(__file__).with_name("launch_test_perception.py"),
    ]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
