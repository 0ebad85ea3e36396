"""Fast DDS's settings for camera images; see launch/fastdds.xml."""

import atexit
import contextlib
import fcntl
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from perception_node.paths import shipped

SHARED_MEMORY = Path("/dev/shm")
SMALL = 8 * 2**20
"""Bytes of a segment that still holds a full HD image."""
STARTING_S = 1.0
"""How long after its creation a segment's lock may not be held yet."""


def use_image_profile() -> None:
    """Makes Fast DDS use the package's profile, unless the user has set one. Call before rclpy.init().

    Fast DDS gives up shared memory where its segment does not fit (a container's /dev/shm has 64 MB if nothing else is
    said), so each process takes a quarter of what is free at most: it never runs out, however many there are.
    """
    remove_leftovers()
    variable = profile_variable()
    if variable in os.environ:
        return
    path = shipped("launch") / "fastdds.xml"
    text, free = path.read_text(), _free_bytes()
    wanted = int(re.search(r"<segment_size>(\d+)<", text)[1])
    if free // 4 < wanted:
        if free // 4 < SMALL:
            print(
                f"{SHARED_MEMORY}: {free // 10**6} MB free is little for images, some may be lost; "
                "in a container, start it with --shm-size=256m",
                file=sys.stderr,
            )
        path = _temporary(text.replace(f"<segment_size>{wanted}<", f"<segment_size>{free // 4}<"))
    os.environ[variable] = str(path)


def remove_leftovers() -> None:
    """Removes the segments of processes that were killed: Fast DDS leaves them, and each new one would get less.

    As `fastdds shm clean` does: beside a segment lies a file that its process holds locked while it lives.
    """
    for lock in SHARED_MEMORY.glob("fast*_el"):
        segment = lock.with_name(lock.name.removesuffix("_el"))
        if not re.fullmatch("fast(dds|rtps)_[0-9a-z]{16}", segment.name):
            continue
        with contextlib.suppress(OSError), lock.open("rb") as file:  # held, or another user's
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - lock.stat().st_mtime > STARTING_S:
                segment.unlink(missing_ok=True)
                lock.unlink()


def profile_variable() -> str:
    """The environment variable that names a profile for Fast DDS."""
    is_old = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if is_old else "FASTDDS_DEFAULT_PROFILES_FILE"


def _free_bytes() -> int:
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _temporary(text: str) -> Path:
    """A file that this process removes when it ends."""
    handle, name = tempfile.mkstemp(prefix="fastdds-", suffix=".xml")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name)
