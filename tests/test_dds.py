import fcntl
import os
import re
import signal
import subprocess
import sys
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


def test_segments_of_the_dead_are_removed(environment, tmp_path):
    environment.setattr(dds, "SHARED_MEMORY", tmp_path)
    names = {
        "dead": "fastdds_0123456789abcdef",
        "dead, of Jazzy": "fastrtps_0123456789abcdef",
        "alive": "fastdds_1123456789abcdef",
        "starting": "fastdds_2123456789abcdef",
        "a port": "fastdds_port7413",
        "somebody else's": "fast_0123456789abcdef",
    }
    for name in names.values():
        for path in (tmp_path / name, tmp_path / f"{name}_el"):
            path.touch()
            os.utime(path, (0, 0))
    os.utime(tmp_path / f"{names['starting']}_el")
    with (tmp_path / f"{names['alive']}_el").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        dds.remove_leftovers()
        left = {name for name, file in names.items() if (tmp_path / file).exists()}
    assert left == {"alive", "starting", "a port", "somebody else's"}
    assert {path.name for path in tmp_path.iterdir()} == {names[n] + end for n in left for end in ("", "_el")}


@pytest.mark.ros
def test_what_a_killed_process_left_is_removed(environment):
    """Its memory is the only that goes: that of one which lives stays."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    if not dds.SHARED_MEMORY.is_dir():
        pytest.skip("no /dev/shm")
    program = (
        "from perception_node.dds import use_image_profile\nuse_image_profile()\nimport rclpy, time\nrclpy.init()\n"
        "node = rclpy.create_node('node')\nprint('up', flush=True)\ntime.sleep(60)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in processes:
            process.stdout.readline()
        dead, alive = ({*re.findall("/dev/shm/(fast[a-z]+_[0-9a-z]{16})", maps(p))} for p in processes)
        assert dead
        assert alive
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert dead - alive <= {path.name for path in dds.SHARED_MEMORY.iterdir()}
        environment.setattr(dds, "STARTING_S", 0.0)
        dds.remove_leftovers()
        left = {path.name for path in dds.SHARED_MEMORY.iterdir()}
        assert not (dead - alive) & left
        assert alive - dead <= left
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def maps(process):
    return Path(f"/proc/{process.pid}/maps").read_text()
