"""Launch files, files of cameras, RViz and Foxglove: read as text always, run where the launch library is installed."""

import ast
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from perception_node.cameras import read_cameras
from perception_node.errors import UserError
from perception_node.paths import shipped
from perception_node.topics import NODE, OUTPUTS

LAUNCH = shipped("launch")
PYTHON_FILES = sorted(LAUNCH.glob("*.launch.py"))
GROUND_OUTPUTS = ("drivable_grid", "free_space", "points", "objects", "markers")


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


def test_what_is_passed_on_exists():
    main = set(declared(LAUNCH / "perception.launch.py"))
    for name in ("demo.launch.py", "replay.launch.py"):
        own = set(declared(LAUNCH / name)) - {"source", "bag", "out", "rate"}
        assert own <= main


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


def test_rviz_and_foxglove_show_topics_that_the_node_has():
    known = {f"/{NODE}/{topic}" for topic in (*OUTPUTS, *GROUND_OUTPUTS)}
    displays = yaml.safe_load((LAUNCH / "perception.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert {"/image", f"/{NODE}/overlay", f"/{NODE}/markers", f"/{NODE}/drivable_grid"} <= topics
    assert topics - {"/image"} <= known
    assert {display["Class"].rpartition("/")[2] for display in displays} >= {
        "Grid",
        "TF",
        "Image",
        "Map",
        "MarkerArray",
    }
    layout = json.loads((LAUNCH / "foxglove.json").read_text())
    panels = set(layout["configById"])
    text = json.dumps(layout["layout"])
    assert all(f'"{panel}"' in text for panel in panels)
    for panel in layout["configById"].values():
        shown = {*panel.get("topics", {}), panel.get("imageMode", {}).get("imageTopic", "/image")}
        assert shown - {"/image"} <= known


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


def executables(**arguments):
    """What perception.launch.py would run."""
    module = load("perception.launch.py")
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(
        {"dds_profile": "none", **{key: str(value) for key, value in arguments.items()}}
    )
    for argument in module.ARGUMENTS:
        argument.visit(context)
    return [node.node_executable for node in module.start(context)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["perception_node"]),
        ({"rviz": "true", "namespace": "car"}, ["perception_node", "rviz2"]),
        ({"cameras": "cameras.yaml"}, ["perception_node"]),
        ({"cameras": "cameras.yaml", "processes": "each"}, ["perception_node", "perception_node"]),
        ({"cameras": "cameras.yaml", "rviz": "true"}, ["perception_node", "rviz2"]),
    ],
)
def test_what_the_arguments_start(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    Path("cameras.yaml").write_text(CAMERAS)
    assert executables(**arguments) == expected


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_the_description_can_be_made(path):
    description = load(path.name).generate_launch_description()
    names = {argument.name for argument in description.get_launch_arguments()}
    assert names >= set(declared(path))


def test_argument_words_are_refused_when_they_are_no_choice():
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros, which PyPI lacks")
    with pytest.raises(RuntimeError, match="processes"):
        executables(processes="some")


def test_the_package_installs_all_of_it():
    text = Path(LAUNCH).parent / "setup.py"
    if text.is_file():
        assert 'Path("launch").iterdir()' in text.read_text()
