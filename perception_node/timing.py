"""How long each stage of a frame takes."""

import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PERCENTILES = (50, 95, 99)


class Window:
    """The newest `size` numbers, in memory that does not grow. One thread may add while others look."""

    def __init__(self, size: int):
        self._values, self._added = array("d", bytes(8 * size)), 0

    def add(self, value: float) -> None:
        self._values[self._added % len(self._values)] = value
        self._added += 1

    def newest(self) -> float:
        return self._values[(self._added - 1) % len(self._values)]

    def values(self) -> np.ndarray:
        """float64 (N,), the oldest first."""
        values, added = np.array(self._values), self._added
        return values[:added] if added <= len(values) else np.roll(values, -(added % len(values)))


class StageTimer:
    """Durations by stage, the newest `window` of each.

    Stages can lie within each other: the time of the inner one is not counted in the outer one's.

    Example:
        >>> timer = StageTimer()
        >>> with timer("network"):
        ...     pass
        >>> list(timer.percentiles())
        ['network']
    """

    def __init__(self, window: int = 10_000):
        self._window = window
        self._milliseconds: dict[str, Window] = {}
        self._within = threading.local()  # the milliseconds that inner stages took of the one that this thread is in

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        before, self._within.milliseconds = getattr(self._within, "milliseconds", 0.0), 0.0
        start, taken = time.perf_counter(), 0.0
        try:
            yield
            taken = (time.perf_counter() - start) * 1e3
            self.add(stage, taken - self._within.milliseconds)
        finally:
            self._within.milliseconds = before + taken

    def add(self, stage: str, milliseconds: float) -> None:
        window = self._milliseconds.get(stage) or Window(self._window)
        window.add(milliseconds)
        self._milliseconds[stage] = window  # others see none that is empty

    def milliseconds(self, stage: str) -> list[float]:
        """Of the newest frames that had it, in their order; none where there was none."""
        return self._milliseconds[stage].values().tolist() if stage in self._milliseconds else []

    def newest(self) -> dict[str, float]:
        """The newest milliseconds of each stage, in order of first use."""
        return {stage: window.newest() for stage, window in list(self._milliseconds.items())}

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Milliseconds, as {"network": {"p50": 31.2, "p95": 35.0, "p99": 40.1}, ...}, in order of first use."""
        return {stage: percentiles(window.values()) for stage, window in list(self._milliseconds.items())}


def percentiles(values) -> dict[str, float]:
    """{"p50": ..., "p95": ..., "p99": ...} of a non-empty sequence of numbers, to three decimals."""
    values = np.percentile(values, PERCENTILES)
    return {f"p{percent}": round(float(value), 3) for percent, value in zip(PERCENTILES, values, strict=True)}
