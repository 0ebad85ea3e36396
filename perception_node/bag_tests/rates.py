"""What rate of images a machine keeps up with, reckoned from how long each of them took.

As ros2_benchmark has it: images come at a fixed rate, at 10, 30 and 60 Hz, and the peak rate is searched at which at
most 5 % of them are lost. But here no clock runs. Images arrive on a reckoned one, the k-th after k periods. One is
worked on at a time, for as long as the next one took that was measured. When it is done the newest image that has
arrived comes next, and those before it are lost, as in the node. So the figures say what the processing allows:
transport is not in them.
"""

import itertools
import math
import re
from collections.abc import Sequence

from perception_node.timing import percentiles

RATES_HZ = (10.0, 30.0, 60.0)
PEAK = "peak"
MOST_LOST = 0.05
OFFERED = 1000
"""Images at least. Where fewer were measured, their times come again from the first."""
_CLOSE = 1.002
"""The search ends when a rate that is kept up with and one that is not are so close."""


def rate_name(hz: float) -> str:
    """ "30hz" of 30.0."""
    return f"{hz:g}hz"


def rate_of(name: str) -> float | None:
    """30.0 of "30hz"; None of what is no rate above 0."""
    match = re.fullmatch(r"(\d+(\.\d+)?)hz", name)
    return float(match[1]) or None if match else None


def offer(milliseconds: Sequence[float], hz: float) -> dict[str, float]:
    """What becomes of images that come at a rate.

    Args:
        milliseconds: that each of some consecutive images took.
        hz: how many come in a second.

    Returns:
        loss: share of the images that were not worked on.
        processed_hz: images a second that were.
        p50, p95, p99: milliseconds from an image's arrival to its answer.
    """
    period, n = 1e3 / hz, max(OFFERED, len(milliseconds))
    now, index, latencies = 0.0, 0, []
    for taken in itertools.cycle(milliseconds):
        # The newest that has arrived; if none waits, the next one that will.
        index = max(index, min(int(now / period), n - 1))
        now = max(now, index * period) + taken
        latencies.append(now - index * period)
        index += 1
        if index == n:
            break
    return {
        "loss": 1 - len(latencies) / n,
        "processed_hz": 1e3 * len(latencies) / max(now, n * period),
        **percentiles(latencies),
    }


def peak(milliseconds: Sequence[float], most_lost: float = MOST_LOST) -> dict[str, float]:
    """The rate, found by bisection, from which on too many are lost: its `hz`, and what `offer` gives at it.

    A rate at which none waits is the lower end of the search, one at which every other must be lost the upper.
    """
    low, high = 1e3 / max(milliseconds), 2e3 / min(milliseconds)
    while high / low > _CLOSE:
        middle = math.sqrt(low * high)
        if offer(milliseconds, middle)["loss"] <= most_lost:
            low = middle
        else:
            high = middle
    return {"hz": low, **offer(milliseconds, low)}
