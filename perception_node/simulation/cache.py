"""Drives that were rendered before, as bags in the user's cache folder; and rendering with several processes."""

import hashlib
import json
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2

from perception_node.errors import UserError
from perception_node.paths import cache_folder
from perception_node.simulation.frame import StreetFrame
from perception_node.simulation.recording import write_bag
from perception_node.simulation.street import Street

FRAMES_PER_TASK = 20
"""Of one process at a time: neighbours share most of what they show."""


def cached_drive(**arguments: Any) -> Path:
    """The bag of a drive, rendered now if it was not before. Arguments: of Street; plain values alone.

    The bag's name tells the arguments and the code that made it apart, so that neither can be stale.
    """
    code = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    bag = cache_folder() / "streets" / code.hexdigest()[:16]
    if not (bag / "metadata.yaml").is_file():
        street = Street(**arguments)
        write_bag(street, bag, drive_in_processes(arguments, len(os.sched_getaffinity(0))))
    return bag


def drive_in_processes(arguments: dict[str, Any], workers: int) -> Iterator[StreetFrame]:
    """What Street(**arguments).drive() gives, made by several processes.

    Raises:
        UserError: a process was killed.
    """
    n_frames = len(Street(**arguments))
    if workers == 1 or n_frames <= FRAMES_PER_TASK:
        yield from Street(**arguments).drive()
        return
    # Not forked: threads of Embree and OpenCV would be missing in the child.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(arguments,)) as pool:
        starts, waiting = iter(range(0, n_frames, FRAMES_PER_TASK)), deque()
        try:
            while True:
                while len(waiting) <= workers and (start := next(starts, None)) is not None:
                    waiting.append(pool.submit(_frames, start, min(start + FRAMES_PER_TASK, n_frames)))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a process that renders was killed, perhaps for its memory; try --workers 1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(arguments: dict[str, Any]) -> None:
    global _street
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    cv2.setNumThreads(1)
    _street = Street(**arguments)


def _frames(start: int, end: int) -> list[StreetFrame]:
    return [_street.frame(index) for index in range(start, end)]
