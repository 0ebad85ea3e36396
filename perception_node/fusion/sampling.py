"""Where the pixels of an image lie among the network's outputs, as the kernels want it (struct Axis in common.cuh)."""

import numpy as np

from perception_node.device import Array, Device

CELLS = 7  # as in common.cuh

AXIS = np.dtype(
    [(name, np.uint64) for name in ("low", "weight", "start")]
    + [(name, np.int32) for name in ("pixels", "samples", "tiles")],
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


def tile_side(scale_y: float, scale_x: float) -> int:
    """Side of the tiles that waste least: 4 where four pixels lie between two samples, 2, or 1."""
    scale = (scale_y * scale_x) ** 0.5
    return 4 if scale >= 3 else 2 if scale >= 1.5 else 1


def tile_starts(low: np.ndarray, side: int) -> np.ndarray:
    """First pixel of each tile, and the number of pixels last: pixels of a tile have the same `low`, at most `side`."""
    first = np.flatnonzero(np.r_[True, low[1:] != low[:-1]])
    lengths = np.diff(np.r_[first, len(low)])
    starts = [np.arange(start, start + length, side) for start, length in zip(first, lengths, strict=True)]
    return np.concatenate([*starts, [len(low)]]).astype(np.int32)


class Axis:
    """One axis on a device.

    Attributes:
        argument: for a kernel's parameter of type Axis.
        side: the most pixels of a tile.
        tiles: number of tiles.
        blocks: number of blocks of CELLS samples.
    """

    def __init__(self, device: Device, pixels: int, samples: int, scale: float, side: int):
        low, weight = taps(pixels, samples, scale)
        start = tile_starts(low, side)
        self._arrays: tuple[Array, ...] = tuple(device.upload(array) for array in (low, weight, start))
        self.side = side
        self.tiles = len(start) - 1
        self.blocks = -(-samples // CELLS)
        self.argument = np.array((*map(device.address, self._arrays), pixels, samples, self.tiles), AXIS)
