"""Which of a camera's tracks the instances of its next frame belong to: one to one, by masks, by boxes, by masks again.

By masks: intersection over union of a track's mask, moved and scaled as its box is expected to (a Kalman filter; SORT,
Bewley et al., ICIP 2016), and an instance's. By boxes, for what is too small or too quick for masks to meet, or was
hidden for a while: as far from where it should be as the motion is uncertain (the gate of DeepSORT, Wojke et al., ICIP
2017).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.device import Array, Device
from perception_node.errors import UserError
from perception_node.kalman import MOVING
from perception_node.panoptic import MAX_INSTANCES, Segment

KERNELS = Path(__file__).with_name("tracking.cu")
STRIP = 256  # as in tracking.cu
MOTION = np.dtype([(name, np.int64) for name in ("scale_x", "offset_x", "scale_y", "offset_y")])
"""struct Motion in tracking.cu."""

MAX_MATCHED = 1000
"""Instances that are looked for among as many tracks: the largest. Any others begin tracks."""
GATE = 9.21
"""Squared Mahalanobis distance of a box's centre: 99 % of what two normally distributed numbers have is below it."""
MIN_SIZE_RATIO = 0.2
"""Of the widths, and of the heights, of boxes that are one object's, where no mask tells: most of it may have been
hidden, or be so now."""

TRUST_HITS = 3
"""After so many sightings a track's motion is known so well that masks which meet there count half as much as they ever
will; after the first a quarter."""

BOX_SIGMA = 0.05
"""Standard deviation of a box's numbers, in parts of its size; DeepSORT's. At least MIN_SIGMA_PX."""
MIN_SIGMA_PX, MIN_SIZE_PX = 0.5, 4.0


@dataclass(frozen=True, slots=True)
class Instances:
    """A frame's instances as arrays of length N.

    Attributes:
        id, class_id, area: int.
        score: float.
        box: float (N, 4): x and y of the centre in pixels, width and height.
    """

    id: np.ndarray
    class_id: np.ndarray
    area: np.ndarray
    score: np.ndarray
    box: np.ndarray

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> "Instances":
        ids, classes, areas = (
            np.array([getattr(segment, name) for segment in segments], np.int64) for name in ("id", "class_id", "area")
        )
        scores = np.array([segment.score for segment in segments], np.float64)
        x0, y0, x1, y1 = np.array([segment.box_xyxy for segment in segments], np.float64).reshape(-1, 4).T
        boxes = np.stack([(x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, x1 - x0, y1 - y0], axis=1)
        return cls(ids, classes, areas, scores, boxes)

    def __len__(self) -> int:
        return len(self.id)


class InstanceMaps:
    """What is done to the instance maps of frames, on a device: see the kernels in tracking.cu."""

    def __init__(self, device: Device):
        self._device, self._kernels = device, device.kernels(KERNELS)

    def joint_histogram(
        self, before: Array, row_of: np.ndarray, motions: np.ndarray, now: Array, column_of: np.ndarray, n_columns: int
    ) -> np.ndarray:
        """How many pixels of each instance before, moved, lie on each one now.

        Args:
            before, now: uint16 (H, W), on the device.
            row_of, column_of: uint16 (65536,), of the instance ids: rows from 1 on, 0 for ids that are not looked at;
                columns, 0 for what is looked at but is no instance of interest.
            motions: MOTION (R,).
            n_columns: C.

        Returns:
            uint32 (R, C).
        """
        device, (height, width) = self._device, now.shape
        counts = device.empty((len(motions), n_columns), np.uint32)
        device.zero(counts)
        earlier = before, device.upload(row_of), device.upload(motions)
        later = now, device.upload(column_of), n_columns
        self._kernels.each("joint_histogram", height * -(-width // STRIP), height, width, *earlier, *later, counts)
        return device.download(counts)

    def relabel(
        self, instance_map: Array, class_map: Array, id_of: np.ndarray, class_of: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A frame's maps with other ids and classes for its instances.

        Args:
            instance_map: uint16 (H, W), on the device.
            class_map: uint8 (H, W), on the device.
            id_of, class_of: uint16 and uint8 (65536,), of the instance ids; `id_of` of 0 is 0.

        Returns:
            uint16 (H, W) and uint8 (H, W), on the host.
        """
        device, shape = self._device, instance_map.shape
        pixels = shape[0] * shape[1]
        maps = device.empty(shape, np.uint16), device.empty(shape, np.uint8)
        tables = device.upload(id_of), device.upload(class_of)
        self._kernels.each("relabel", -(-pixels // STRIP), np.uint32(pixels), instance_map, class_map, *tables, *maps)
        on_host = device.read(maps[0]), device.read(maps[1])
        device.wait()
        return on_host


def track_fields(n_classes: int) -> list[tuple]:
    """Fields of an array of tracks that association looks at.

    instance: its id in the frame before, 0 if it was not seen there. hits: frames that it was seen in. votes: for each
    class. last_s: when it was last seen. seen: its box then. box: the filtered one, at the new frame's time.
    """
    return [
        ("instance", np.uint16),
        ("hits", np.int64),
        ("votes", np.float64, (n_classes,)),
        ("last_s", np.float64),
        ("seen", np.float64, (4,)),
        ("box", MOVING, (4,)),
    ]


class Association:
    """Finds the instances' tracks.

    Args:
        maps: what counts overlaps.

    Raises:
        UserError: scipy is missing.
    """

    def __init__(self, maps: InstanceMaps):
        self._maps = maps
        self._solve = _solver()

    def __call__(
        self, tracks: np.ndarray, instances: Instances, before: Array | None, now: Array, min_overlap: float
    ) -> np.ndarray:
        """Matches tracks and instances.

        Args:
            tracks: see `track_fields`.
            instances: of the new frame.
            before: uint16 (H, W), the instance map of the frame before, on the device.
            now: the new frame's.
            min_overlap: least intersection over union of masks that are one object's. It counts in full where the track
                was never seen as another class, half where never as this one.

        Returns:
            int (N,), the index of each instance's track, -1 where it has none.
        """
        track_of = np.full(len(instances), -1)
        columns = _first(MAX_MATCHED, -instances.area)
        rows = _first(MAX_MATCHED, -tracks["seen"][:, 2:].prod(axis=1), -tracks["last_s"])
        if not len(rows) or not len(columns):
            return track_of
        votes, hits = tracks["votes"][rows], tracks["hits"][rows, None]
        agreement = votes[:, instances.class_id[columns]] / votes.sum(axis=1, keepdims=True)
        overlap = self._overlap(tracks[rows], instances, columns, before, now)
        agreed = overlap * (1 + agreement) / 2
        trusted = np.minimum(agreed, overlap * hits / (hits + TRUST_HITS))
        for masks in (trusted, None, agreed):  # None: by boxes
            free_rows, free_columns = np.flatnonzero(~np.isin(rows, track_of)), np.flatnonzero(track_of[columns] < 0)
            free = np.ix_(free_rows, free_columns)
            if masks is None:
                close = closeness(tracks["box"][rows[free_rows]], instances.box[columns[free_columns]])
                similarity = close * agreement[free]
            else:
                similarity = np.where(masks[free] < min_overlap, 0, masks[free])
            found, of = self._solve(similarity, maximize=True)
            is_match = similarity[found, of] > 0
            track_of[columns[free_columns[of[is_match]]]] = rows[free_rows[found[is_match]]]
        return track_of

    def stand_or_go(self, tracks: np.ndarray, instances: Instances, before: Array | None, now: Array) -> None:
        """Makes the tracks that were seen once stand still, in place, if so more masks meet than if they go together.

        How fast a new object is can only be guessed from those around it (camera_motion.py), who may be the ones that
        move. In a row of people that goes by a person an image the two differ only at its ends; so all decide at once.

        Args: as of a call.
        """
        rows = np.flatnonzero((tracks["hits"] == 1) & (tracks["instance"] > 0))[:MAX_MATCHED]
        columns = _first(MAX_MATCHED, -instances.area)
        if not len(rows) or not len(columns):
            return
        still, met = tracks[rows], []
        still["box"]["value"], still["box"]["speed"] = still["seen"], 0
        for moved in (still, tracks[rows]):
            overlap = self._overlap(moved, instances, columns, before, now)
            overlaps = overlap[self._solve(overlap, maximize=True)]
            met.append((np.count_nonzero(overlaps), overlaps.sum()))
        if met[0] >= met[1] and met[0][0]:
            tracks[rows] = still

    def _overlap(
        self, tracks: np.ndarray, instances: Instances, columns: np.ndarray, before: Array | None, now: Array
    ) -> np.ndarray:
        """float (R, C): intersection over union of the tracks' masks, where they should be by now, and instances'."""
        is_seen = tracks["instance"] > 0
        if before is None or not is_seen.any():
            return np.zeros((len(tracks), len(columns)))
        motions, growth = motions_of(tracks["seen"], tracks["box"]["value"])
        row_of = table(np.uint16, tracks["instance"][is_seen], 1 + np.flatnonzero(is_seen))
        column_of = table(np.uint16, instances.id[columns], 1 + np.arange(len(columns)))
        counts = self._maps.joint_histogram(before, row_of, motions, now, column_of, 1 + len(columns))
        shared = counts * growth[:, None]
        intersection = np.minimum(shared[:, 1:], instances.area[columns])
        union = shared.sum(axis=1, keepdims=True) + instances.area[columns] - intersection
        return intersection / union


def closeness(boxes: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """float (R, C), 0..1: how likely the boxes seen are where they should be by now, and how alike in size.

    Args:
        boxes: MOVING (R, 4), the tracks'.
        seen: float (C, 4), the instances'.

    Returns:
        0 beyond the gate, or where the sizes differ too much.
    """
    expected = boxes["value"][:, None]
    distance = ((seen - expected) ** 2 / (boxes["vv"][:, None] + sigma(seen) ** 2))[..., :2].sum(axis=-1)
    expected_size = np.maximum(expected[..., 2:], 1)
    ratio = np.minimum(expected_size, seen[:, 2:]) / np.maximum(expected_size, seen[:, 2:])
    is_close = (distance <= GATE) & (ratio.min(axis=-1) >= MIN_SIZE_RATIO)
    return np.where(is_close, np.exp(-distance / 2) * ratio.prod(axis=-1), 0)


def motions_of(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How pixels move as the boxes around them do.

    Args:
        before, now: float (R, 4).

    Returns:
        MOTION (R,); float (R,), how many times their area grows.
    """
    scales = np.clip(now[:, 2:] / before[:, 2:], 0.25, 4)
    motions = np.zeros(len(before), MOTION)
    for axis, name in enumerate("xy"):
        scale = np.rint(65536 * scales[:, axis])
        # Half a pixel more, so that what is cut off rounds.
        offset = np.rint(65536 * (now[:, axis] + 0.5) - scale * before[:, axis])
        motions[f"scale_{name}"], motions[f"offset_{name}"] = scale, offset
    return motions, scales.prod(axis=1)


def scale(boxes: np.ndarray) -> np.ndarray:
    """What the uncertainty of a box's numbers goes by: that of width and height by each, the centre's by the longer."""
    sizes = boxes[..., 2:]
    longer = sizes.max(axis=-1, keepdims=True)
    return np.maximum(np.concatenate([longer, longer, sizes], axis=-1), MIN_SIZE_PX)


def sigma(boxes: np.ndarray) -> np.ndarray:
    """Standard deviation of the numbers of boxes that were seen."""
    return np.maximum(BOX_SIGMA * boxes[..., [2, 3, 2, 3]], MIN_SIGMA_PX)


def table(dtype: type, ids: Any, values: Any) -> np.ndarray:
    """(65536,): these values at these instance ids, elsewhere 0."""
    values_of = np.zeros(MAX_INSTANCES + 1, dtype)
    values_of[ids] = values
    return values_of


def _first(n: int, *keys: np.ndarray) -> np.ndarray:
    """Indices of the at most n items that come first by the last key, among equals by the one before it."""
    return np.lexsort(keys)[:n] if len(keys[0]) > n else np.arange(len(keys[0]))


def _solver() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        remedy = "sudo apt install python3-scipy, or pip install scipy, or turn tracking off"
        raise UserError(f"tracking needs scipy, which is missing: {remedy}") from error
    return linear_sum_assignment
