"""What rosdep installs and colcon copies: package.xml and setup.py name all that the code needs."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROSDEP = {"numpy", "opencv-python-headless", "scipy", "PyYAML", "jsonschema", "click", "tqdm"}
KEYS = {"opencv-python-headless": "python3-opencv", "PyYAML": "python3-yaml"}
ONLY_PIP = {"onnxruntime", "rosbags", "mcap", "zstandard"}


def depends(kind="exec_depend"):
    return {element.text for element in ET.parse(ROOT / "package.xml").iter(kind)}


def used_packages():
    """Packages of ROS that the code imports, or whose messages it names."""
    text = "".join(
        path.read_text() for folder in ("perception_node", "launch") for path in (ROOT / folder).rglob("*.py")
    )
    imported = re.findall(r"^\s*(?:from|import) (rclpy|rcl_interfaces|launch\w*|\w+_msgs)\b", text, re.MULTILINE)
    return {*imported, *re.findall(r"\b([a-z]\w*)/msg/[A-Z]", text)}


def test_what_the_code_uses_of_ros_is_installed_with_it():
    used = used_packages()
    assert {"rclpy", "launch_ros", "vision_msgs", "tf2_msgs", "nav_msgs", "builtin_interfaces"} <= used
    assert used <= depends()


def test_python_packages_have_their_keys():
    text = (ROOT / "setup.py").read_text()
    listed = re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL)[1]
    assert set(re.findall(r'"([\w-]+)', listed)) == ROSDEP | ONLY_PIP
    keys = {KEYS.get(name, f"python3-{name}") for name in ROSDEP}
    assert {key for key in depends() if key.startswith("python3-")} == keys


def test_colcon_takes_it_for_a_ros_package():
    """It takes a package whose package.xml is wrong for one of Python alone, without a word."""
    package = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    found = package.parse_package(str(ROOT / "package.xml"))
    assert (found.name, found.get_build_type()) == ("perception_node", "ament_python")
    assert f'version="{found.version}"' in (ROOT / "setup.py").read_text()


def test_all_files_are_installed(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", tmp_path, "build_py", "-d", tmp_path / "lib"]
    subprocess.run([*command, "install_data", "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)

    def files(folder, below):
        found = (path for path in (folder / below).rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {path.relative_to(folder) for path in found}

    assert files(tmp_path / "lib", "perception_node") == files(ROOT, "perception_node")
    share = tmp_path / "share" / "perception_node"
    for folder in ("launch", "calibration"):
        assert files(share, folder) == files(ROOT, folder)
    manifests = {path for path in files(ROOT, "engines") if path.name in ("model.yaml", "model.onnx")}
    assert manifests <= files(share, "engines")
    assert (tmp_path / "share/ament_index/resource_index/packages/perception_node").is_file()
