"""The fixture `replay`, in a pytest of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import write_tiny_model
from test_sources import image, write_bag

PLUGIN = "perception_node.bag_tests.pytest_plugin"
TESTS = """
def test_tunnel(replay):
    drive = replay("drive")
    drive.check_golden()
    drive.check_budgets("total.p95=1e6")
    assert drive.summary["refused"] == 0
    assert [len(frame["instances"].detections) for frame in drive.frames()] == [1, 1]

def test_another_of_the_same(replay):
    assert replay("drive") is replay("drive")

def test_too_slow(replay):
    replay("drive").check_budgets("network.p50=0")

def test_nosuch(replay):
    replay("nosuch")

def test_misspelt_budget(replay):
    replay("drive").check_budgets("network.p95")

def test_misspelt_tolerance(replay):
    replay("drive").check_golden({"scor": 1})

def test_holds_less_than_it_says(replay):
    replay("less")
"""

SHARING = """
def test_two_topics(replay):
    for topic in ("/left/image", "/right/image"):
        replay("stereo", topic).check_golden()

def test_one(replay):
    replay("x/drive").check_golden()
    replay("y/../x/drive").check_golden()
    assert len(list(replay("y/drive").frames())) == 1

def test_another_of_its_name(replay):
    replay("y/drive").check_golden()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    write_tiny_model(folder / "tiny")
    write_bag(folder / "drive", [("/cam", k, image(k, 10**9 * k)) for k in (1, 2)])
    write_bag(folder / "less", [("/cam", 1, image(1, 1))])
    metadata = folder / "less" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 1", "message_count: 2"))
    (folder / "test_drives.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def run_pytest(folder, *arguments):
    # Named, and alone: so it need not be installed, and what else is does not disturb.
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, f"--perception-model={folder / 'tiny'}", *arguments]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_team_s_tests(folder):
    """Without golden results, with, and when they are others."""
    first = run_pytest(folder)
    assert "test_drives.py F.FFFFF" in first.stdout, first.stdout + first.stderr
    assert f"{folder}/golden/drive: no golden results; make them with --update (in pytest: --perception-update)" in (
        first.stdout
    )
    assert "drive: budget network.p50: " in first.stdout
    assert f"{folder}/nosuch: does not exist" in first.stdout
    assert "\nbudget 'network.p95': expected: NAME=NUMBER, a number from 0\n" in first.stdout
    assert "\ntolerance 'scor': no results have a field 'scor'; " in first.stdout
    assert f"{folder}/less: holds 1 images, where it says 2; was it cut off?" in first.stdout
    assert "Traceback" not in first.stdout
    assert "..FFFFF" in run_pytest(folder, "--perception-update").stdout
    assert (folder / "golden" / "drive" / "drive.mcap").is_file()
    assert "..FFFFF" in run_pytest(folder, "--junitxml=junit.xml").stdout
    (inputs,) = (
        entry.get("value")
        for case in ElementTree.parse(folder / "junit.xml").iter("testcase")
        for entry in case.iter("property")
        if case.get("name") == "test_tunnel" and entry.get("name") == "inputs of drive"
    )
    assert set(json.loads(inputs)["bag"]["sha256"]) == {"metadata.yaml", "drive.mcap"}


def test_another_network_is_seen(folder, tmp_path):
    run_pytest(folder, "--perception-update", "-k", "tunnel")
    write_tiny_model(tmp_path / "other", fusion={"stuff_area": 1000, "nms_kernel": 3})
    seen = run_pytest(folder, f"--perception-model={tmp_path / 'other'}", "-k", "tunnel").stdout
    assert "frame 0 at 1.000000000 s: class_map: " in seen
    assert "pixels differ, first x 0 y 0: golden 1 sky, now 255" in seen
    assert "made of something else: model.manifest_sha256: golden " in seen


def test_recordings_do_not_share_golden_results(folder, tmp_path):
    messages = [(topic, k, image(k, 10**9 * k)) for k in (1, 2) for topic in ("/left/image", "/right/image")]
    for place in ("x", "y"):
        write_bag(tmp_path / place / "drive", [("/cam", 1, image(1, 1))])
    write_bag(tmp_path / "stereo", messages)
    (tmp_path / "test_drives.py").write_text(SHARING)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    seen = run_pytest(tmp_path, "--perception-update", f"--perception-model={folder / 'tiny'}").stdout
    assert "test_drives.py ..F" in seen, seen
    assert f"/y/drive: {tmp_path}/golden/drive holds the golden results of {tmp_path}/x/drive; rename one" in seen
    assert sorted(path.name for path in (tmp_path / "golden").iterdir() if path.is_dir()) == [
        "drive",
        "stereo_left_image",
        "stereo_right_image",
    ]


def test_it_costs_nothing_where_it_is_not_used():
    code = (
        f"import sys, {PLUGIN}; print(sorted(m for m in sys.modules if m.split('.')[0] in ('numpy', 'cv2', 'rosbags')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_it_is_declared():
    """So that pytest finds it where this package is installed."""
    declared = re.search(r'"pytest11": \[(.*?)\]', (Path(__file__).parents[2] / "setup.py").read_text(), re.DOTALL)
    assert declared
    assert "bag_tests.pytest_plugin" in declared[1]
