"""What a node tells of itself: counts, rates, times, and whether it is well. Knows no ROS."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any

from perception_node.timing import StageTimer

DROPPED = ("superseded", "throttled", "stale", "refused", "failed")
"""Why an image is not perceived: a newer one came, more came than max_rate, it was too old, it could not be used, or
something went wrong."""
PERCEIVED = frozenset(("stale", "refused", "failed"))
"""Of these, what is found out when it is an image's turn."""
RECOVERY_S = 5.0
"""How long all must have been well before the node says so again."""
RATE_WINDOW_S = 5.0
STUCK_S = 10.0
"""How long images may come and none be done with: a GPU, or DDS, may never answer."""
AGE = "age"
"""The stage from an image's stamp to the publication of what was made of it."""


class Level(IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


class Rate:
    """How often something happens, over the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, window_s: float = RATE_WINDOW_S):
        self._clock, self._window_s = clock, window_s
        self._times: deque[float] = deque()

    def add(self) -> None:
        self._times.append(self._clock())

    def per_second(self) -> float:
        now = self._clock()
        while self._times and now - self._times[0] > self._window_s:
            self._times.popleft()
        return round(len(self._times) / self._window_s, 2)


class Health:
    """The worst that is the matter. It gets worse at once, and better after RECOVERY_S without what made it worse."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._shown: tuple[Level, str] = (Level.OK, "ok")
        self._since = clock()

    def update(self, problems: Iterable[tuple[Level, str]]) -> tuple[Level, str]:
        """Args: problems: what is the matter now. Returns: what to show."""
        problems = sorted(problems, reverse=True, key=lambda problem: problem[0])
        level = problems[0][0] if problems else Level.OK
        now = self._clock()
        if level >= self._shown[0]:
            self._since = now
            self._shown = level, "; ".join(text for _, text in problems) or "ok"
            return self._shown
        if now - self._since < RECOVERY_S:
            return self._shown[0], f"recovering: {self._shown[1]}"
        self._shown, self._since = (Level.OK, "ok"), now
        return self.update(problems)

    def reset(self) -> None:
        self._shown = Level.OK, "ok"


class Diagnostics:
    """One camera's figures.

    received = processed + the sum of DROPPED + those that are under way.

    Args:
        clock: seconds that never jump.

    Attributes:
        counts: of images: "received", "processed" and DROPPED.
        timer: of the stages.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        self.counts = Counter({"received": 0, "processed": 0, **dict.fromkeys(DROPPED, 0)})
        self.timer = StageTimer()
        self._received, self._processed = Rate(clock), Rate(clock)
        self._health = Health(clock)
        self._last_image = self._last_end = clock()
        self._told = self.counts.copy()
        self._last_why = ""

    def activated(self) -> None:
        """From now on images are expected."""
        self._last_image = self._clock()
        self._health.reset()
        self._told = self.counts.copy()

    def received(self) -> None:
        if not self._under_way():
            self._last_end = self._clock()
        self.counts["received"] += 1
        self._received.add()
        self._last_image = self._clock()

    def processed(self, age_ms: float) -> None:
        self.counts["processed"] += 1
        self._last_end = self._clock()
        self._processed.add()
        self.timer.add(AGE, age_ms)

    def dropped(self, reason: str, why: str = "") -> None:
        """Args: reason: one of DROPPED; why: of one that was refused or failed, what is wrong."""
        with self._lock:  # images fail on two threads
            self.counts[reason] += 1
        if reason in PERCEIVED:
            self._last_end = self._clock()
        self._last_why = why or self._last_why

    def health(self, topic: str, timeout_s: float, more: Iterable[tuple[Level, str]] = ()) -> tuple[Level, str]:
        """How an active node is, since it was last asked.

        Args:
            topic: where the images come from.
            timeout_s: without an image, after which the camera is taken for broken.
            more: what else is the matter.
        """
        problems = list(more)
        new, self._told = self.counts - self._told, self.counts.copy()
        silent_s = self._clock() - self._last_image
        if silent_s > timeout_s:
            problems.append((Level.ERROR, f"no image on {topic} for {silent_s:.0f} s"))
        elif not self.counts["received"]:
            problems.append((Level.WARN, f"no image yet on {topic}"))
        if new["refused"] or new["failed"]:
            is_some = new["processed"] > 0
            text = "images refused or lost" if is_some else "every image refused or lost"
            problems.append((Level.WARN if is_some else Level.ERROR, f"{text}, the last: {self._last_why}"))
        if new["stale"] and not new["processed"]:
            problems.append((Level.ERROR, "every image is too old when its turn comes; see max_age"))
        stuck_s = self._clock() - self._last_end
        if stuck_s > STUCK_S and self._under_way():
            problems.append((Level.ERROR, f"images come, and for {stuck_s:.0f} s none was done with"))
        return self._health.update(problems)

    def values(self) -> dict[str, Any]:
        """Figures by name."""
        rates = {"input rate Hz": self._received.per_second(), "output rate Hz": self._processed.per_second()}
        values = {**self.counts, "waiting": self._under_way(), **rates}
        for stage, milliseconds in self.timer.percentiles().items():
            values.update({f"{stage} {name} ms": value for name, value in milliseconds.items()})
        return values

    def _under_way(self) -> int:
        counts = self.counts.copy()
        return 2 * counts["received"] - counts.total()
