import os
import re
from pathlib import Path

import pytest

from perception_node import dds
from perception_node.paths import shipped

VARIABLES = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILE = shipped("launch") / "fastdds.xml"


@pytest.fixture
def environment(monkeypatch):
    for variable in (*VARIABLES, "ROS_DISTRO"):
        monkeypatch.setenv(variable, "")  # so that what the test sets goes away
        monkeypatch.delenv(variable)
    return monkeypatch


def segment_size(path):
    return int(re.search("<segment_size>(.+)</segment_size>", Path(path).read_text())[1])


@pytest.mark.parametrize(("distro", "variable"), [("kilted", VARIABLES[0]), ("jazzy", VARIABLES[1])])
def test_with_room_the_profile_is_the_shipped_one(environment, distro, variable):
    environment.setenv("ROS_DISTRO", distro)
    environment.setattr(dds, "_free_bytes", lambda: 2**30)
    dds.use_image_profile()
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == {variable: str(PROFILE)}
    assert segment_size(PROFILE) == 32 * 2**20


@pytest.mark.parametrize(("free_mib", "warns"), [(64, False), (32, False), (31, True)])
def test_little_shared_memory_is_shared(environment, capsys, free_mib, warns):
    environment.setattr(dds, "_free_bytes", lambda: free_mib * 2**20)
    dds.use_image_profile()
    path = os.environ[VARIABLES[0]]
    assert segment_size(path) == free_mib * 2**18
    assert capsys.readouterr().err.count("--shm-size=256m\n") == warns


def test_a_profile_of_the_users_stays(environment):
    environment.setenv(VARIABLES[0], "/mine.xml")
    dds.use_image_profile()
    assert os.environ[VARIABLES[0]] == "/mine.xml"


def test_no_shared_memory_at_all(environment, tmp_path):
    environment.setattr(dds, "SHARED_MEMORY", tmp_path / "nowhere")
    assert dds._free_bytes() == 0
