"""How fast a new object is before it was seen twice: as fast as the others around it.

A camera that turns moves all that it sees to one side, one that drives ahead moves it outwards. Over the columns of an
image the two together are about a line, speed = turn + spread * column, which is fitted to the speeds of known tracks
(ridge regression, Hoerl and Kennard 1970). Without it people in a row, who pass by a width an image, are each taken for
the next.
"""

import numpy as np

MIN_HITS = 3
"""Images that a track's speed comes from; that of fewer may come from a wrong match."""
OWN_SPEED = 1 / 16
"""Widths of the image a second that things move by themselves, as a standard deviation: who walks, 20 m away."""
RIDGE = 0.5
"""Widths of the image a second of turn, and of spread at its borders; 28 degrees a second for a lens of 56."""


def speed_at(boxes: np.ndarray, tracks: np.ndarray, width: int) -> np.ndarray:
    """float (N, 2): how fast what is at these places probably moves, along x and y, in pixels a second.

    Args:
        boxes: float (N, 4), of new objects: x and y of the centre, width and height.
        tracks: that are seen now, with the fields `hits` and `box` (MOVING).
        width: of the image, in pixels.
    """
    tracks = tracks[tracks["hits"] >= MIN_HITS]
    known, at = _line(tracks["box"]["value"], width), _line(boxes, width)
    weights = width**2 / (tracks["box"]["ss"][:, 0] + (OWN_SPEED * width) ** 2)
    weighted = known.T * weights
    return at @ np.linalg.solve(weighted @ known + np.eye(2) / RIDGE**2, weighted @ tracks["box"]["speed"][:, :2])


def _line(boxes: np.ndarray, width: int) -> np.ndarray:
    """(N, 2): 1, and the centre's column as -1..1."""
    return np.stack([np.ones(len(boxes)), 2 * boxes[:, 0] / width - 1], axis=1)
