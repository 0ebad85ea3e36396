"""What is odd about the stamps of footage: gaps, repetitions, steps back. Said in words, for whoever recorded it."""

import itertools
from collections.abc import Sequence

import numpy as np

GAP = 2.5
"""A step between two images of so many times the usual one is a gap: more than one image is missing."""


def usual_step_ns(stamps_ns: Sequence[int]) -> float:
    """The median step ahead from one image to the next; 0 if there is none."""
    forward = [later - earlier for earlier, later in itertools.pairwise(stamps_ns) if later > earlier]
    return float(np.median(forward)) if forward else 0.0


def irregularities(names: Sequence[str], stamps_ns: Sequence[int]) -> list[str]:
    """One sentence for each kind of thing that is odd; none where all is well.

    Args:
        names: of the images.
        stamps_ns: theirs, in the order in which they were recorded.
    """
    steps = [later - earlier for earlier, later in itertools.pairwise(stamps_ns)]
    usual = usual_step_ns(stamps_ns)
    back = [index for index, step in enumerate(steps) if step < 0]
    repeated = [index for index, step in enumerate(steps) if step == 0]
    gaps = [index for index, step in enumerate(steps) if step > GAP * usual > 0]
    words = []
    if back:
        first = back[0]
        words.append(
            f"stamps go back {_times(back)}, at first by {-steps[first] / 1e9:.3f} s from {names[first]} to "
            f"{names[first + 1]}"
        )
    if repeated:
        first = repeated[0]
        words.append(f"stamps repeat {_times(repeated)}, at first from {names[first]} to {names[first + 1]}")
    if gaps:
        longest = max(gaps, key=steps.__getitem__)
        words.append(
            f"{len(gaps)} gap{'s' if len(gaps) > 1 else ''}, the longest {steps[longest] / 1e9:.3f} s from "
            f"{names[longest]} to {names[longest + 1]}, where {usual / 1e9:.3f} s are usual"
        )
    return words


def _times(found: list[int]) -> str:
    return "once" if len(found) == 1 else f"{len(found)} times"
