"""Whose turn it is: cameras that share one worker, each with its newest image.

Turns are given out by stride scheduling (Waldspurger and Weihl, Stride Scheduling, MIT 1995): each camera has a pass,
the lowest pass is next, and a turn moves a camera's pass on by the time that it took over the camera's priority. So
cameras that always have an image waiting get the worker's time in proportion to their priorities, however large their
images are, and one that had none for a while has not saved any up.

Where several images are perceived at once, so many cameras have their turn together, those that are next; each is taken
to have had an equal part of the time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(slots=True)
class _Slot:
    priority: int
    message: Any = None
    next_pass: float = 0.0
    is_ready: bool = True


class Scheduler:
    """Hands work from many threads to one: the cameras' newest images, and calls that come before any image.

    There is room for one image of each camera: a newer takes an older's place. After a camera's turn it gets no other
    until it says that it is ready, so that one whose subscribers are slow holds up nobody else.

    Args:
        perceive: what is done with the images whose turn it is: (camera, message) of each.
        max_batch: how many cameras have their turn together, at most. Nobody waits for one that has no image.
        clock: seconds, of which turns take some.
    """

    def __init__(
        self,
        perceive: Callable[[list[tuple[Any, Any]]], None],
        max_batch: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._perceive, self._max_batch, self._clock = perceive, max_batch, clock
        self._condition = threading.Condition()
        self._slots: dict[Hashable, _Slot] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._at_work: dict[Hashable, _Slot] = {}
        self._pass = 0.0
        self._is_closed = False

    def add(self, camera: Hashable, priority: int = 1) -> None:
        """Lets a camera take part."""
        with self._condition:
            self._slots[camera] = _Slot(priority, next_pass=self._pass)

    def remove(self, camera: Hashable) -> bool:
        """Ends a camera's part when its turn is over, if it has one; whether an image was waiting."""
        with self._condition:
            slot = self._slots.pop(camera, None)
            self._condition.wait_for(lambda: camera not in self._at_work)
            return slot is not None and slot.message is not None

    def set_priority(self, camera: Hashable, priority: int) -> None:
        with self._condition:
            self._slots[camera].priority = priority

    def put(self, camera: Hashable, message: Any) -> bool:
        """Leaves a camera's newest image; whether another, not yet taken, was lost to it."""
        with self._condition:
            slot = self._slots[camera]
            is_replaced = slot.message is not None
            if not is_replaced and camera not in self._at_work:  # it may have left out a turn
                slot.next_pass = max(slot.next_pass, self._pass)
            slot.message = message
            self._condition.notify_all()
        return is_replaced

    def ready(self, camera: Hashable) -> None:
        """Says that the camera can have its next turn."""
        with self._condition:
            if camera in self._slots:
                self._slots[camera].is_ready = True
                self._condition.notify_all()

    def call(self, work: Callable[[], None]) -> None:
        """Has something done between two images, whosever they are."""
        with self._condition:
            self._calls.append(work)
            self._condition.notify_all()

    def take(self, timeout_s: float | None = None) -> Callable[[], None] | None:
        """Waits for the next piece of work, which the caller then does before it takes another.

        Returns:
            None when closed and, if there is a timeout, when nothing has come for so long.
        """
        with self._condition:
            self._at_work = {}
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._is_closed or self._calls or self._next() is not None, timeout_s)
            if self._is_closed:
                return None
            if self._calls:
                return self._calls.popleft()
            turns = []
            while len(turns) < self._max_batch and (camera := self._next()) is not None:
                slot = self._at_work[camera] = self._slots[camera]
                turns.append((camera, slot.message))
                self._pass = slot.next_pass
                slot.is_ready, slot.message = False, None
            return partial(self._turn, turns) if turns else None

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _turn(self, turns: list[tuple[Any, Any]]) -> None:
        start = self._clock()
        try:
            self._perceive(turns)
        finally:
            with self._condition:
                part = (self._clock() - start) / len(turns)
                for slot in self._at_work.values():
                    # Whose share is more than a turn of every batch cannot have it, and saves nothing up.
                    slot.next_pass = max(slot.next_pass + part / slot.priority, self._pass - part)

    def _next(self) -> Hashable:
        """The camera whose turn it is; of those of one pass, the one that took part first."""
        waiting = [camera for camera, slot in self._slots.items() if slot.is_ready and slot.message is not None]
        return min(waiting, key=lambda camera: self._slots[camera].next_pass, default=None)
