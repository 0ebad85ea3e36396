"""Where the pixels of an image lie among the network's outputs, as the kernels want it (struct Axis in common.cuh)."""

import numpy as np

from perception_node.device import Array, Device

CELLS = 7  # as in common.cuh

AXIS = np.dtype(
    [(name, np.uint64) for name in ("low", "weight", "start", "run")]
    + [(name, np.int32) for name in ("pixels", "samples", "tiles", "runs")],
    align=True,
)


def taps(pixels: int, samples: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The two samples that each pixel lies between: bilinear, half-pixel centres, edges clamped.

    Args:
        pixels: how many there are; beyond scale * samples the last sample is repeated.
        samples: how many there are.
        scale: pixels for each sample.

    Returns:
        int32 (pixels,), index of the first of the two; float32 (pixels,), weight of the second, 0 <= weight < 1.
    """
    position = np.clip((np.arange(pixels) + 0.5) / scale - 0.5, 0, samples - 1)
    low = np.floor(position)
    return low.astype(np.int32), (position - low).astype(np.float32)


LEAST_SCALE = {8: 4.5, 4: 3.0, 2: 1.5, 1: 0.0}
"""Side of a tile in pixels -> how many pixels must lie between two samples for it."""


def tile_side(scale_y: float, scale_x: float, most: int) -> int:
    """Side of the tiles that waste least, at most `most`: about as many pixels as lie between two samples."""
    scale = (scale_y * scale_x) ** 0.5
    return min(most, next(side for side, least in LEAST_SCALE.items() if scale >= least))


def runs_of(values: np.ndarray, length: int) -> np.ndarray:
    """Where each run of equal neighbours begins, of at most `length`; the number of values last. int32."""
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    lengths = np.diff(np.r_[first, len(values)])
    starts = [np.arange(start, start + n, length) for start, n in zip(first, lengths, strict=True)]
    return np.concatenate([*starts, [len(values)]]).astype(np.int32)


class Axis:
    """One axis on a device.

    Args:
        pixels, samples, scale: see taps.
        side: the most pixels of a tile.
        run: the most tiles of a run.

    Attributes:
        argument: for a kernel's parameter of type Axis.
        side: as given.
        tiles, runs: number of tiles, whose pixels lie between the same samples, and of runs of tiles in one block.
        blocks: number of blocks of CELLS samples.
    """

    def __init__(self, device: Device, pixels: int, samples: int, scale: float, side: int, run: int):
        low, weight = taps(pixels, samples, scale)
        start = runs_of(low, side)
        runs = runs_of(low[start[:-1]] // CELLS, run)
        self._arrays: tuple[Array, ...] = tuple(device.upload(array) for array in (low, weight, start, runs))
        self.side = side
        self.tiles = len(start) - 1
        self.runs = len(runs) - 1
        self.blocks = -(-samples // CELLS)
        self.argument = np.array((*map(device.address, self._arrays), pixels, samples, self.tiles, self.runs), AXIS)
