"""How long each stage of a frame takes."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PERCENTILES = (50, 95, 99)


class StageTimer:
    """Durations by stage, the newest `window` of each.

    Example:
        >>> timer = StageTimer()
        >>> with timer("network"):
        ...     pass
        >>> list(timer.percentiles())
        ['network']
    """

    def __init__(self, window: int = 10_000):
        self._milliseconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(stage, (time.perf_counter() - start) * 1e3)

    def add(self, stage: str, milliseconds: float) -> None:
        self._milliseconds[stage].append(milliseconds)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Milliseconds, as {"network": {"p50": 31.2, "p95": 35.0, "p99": 40.1}, ...}, in order of first use."""
        return {stage: percentiles(values) for stage, values in list(self._milliseconds.items())}


def percentiles(values) -> dict[str, float]:
    """{"p50": ..., "p95": ..., "p99": ...} of a non-empty sequence of numbers, to three decimals."""
    # list() takes a whole copy at once; another thread may be adding meanwhile.
    values = np.percentile(list(values), PERCENTILES)
    return {f"p{percent}": round(float(value), 3) for percent, value in zip(PERCENTILES, values, strict=True)}
