"""How fast a new object is before it was seen twice: as fast as the others around it.

A camera that turns moves all that it sees to one side, one that drives ahead moves it outwards. Over the columns of an
image the two together are about a line, speed = turn + spread * column, which is fitted to the speeds of known tracks
(ridge regression, Hoerl and Kennard 1970); up and down all move alike, as where the camera nods. Without it people in a
row, who pass by a width an image, are each taken for the next.
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
    known = tracks["box"][tracks["hits"] >= MIN_HITS]
    lines, at = (
        np.stack([np.ones(len(x)), 2 * x / width - 1], axis=1) for x in (known["value"][:, 0], boxes[:, 0])
    )
    speeds = []
    for axis, terms in enumerate((2, 1)):
        weights = width**2 / (known["ss"][:, axis] + (OWN_SPEED * width) ** 2)
        weighted = lines[:, :terms].T * weights
        normal = weighted @ lines[:, :terms] + np.eye(terms) / RIDGE**2
        speeds.append(at[:, :terms] @ np.linalg.solve(normal, weighted @ known["speed"][:, axis]))
    return np.stack(speeds, axis=1)
