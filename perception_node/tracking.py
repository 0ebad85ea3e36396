"""Ids that last: a camera's instances, followed from frame to frame.

Which instance is which track's is found in association.py. A track's class is the one that it was seen as most, lately
and surely: so one frame's mistake changes neither id nor class.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perception_node.association import Association, InstanceMaps, Instances, scale, sigma, table, track_fields
from perception_node.camera_motion import speed_at
from perception_node.device import Array, Device
from perception_node.errors import UserError
from perception_node.kalman import MOVING, predict, start, update
from perception_node.panoptic import MAX_INSTANCES, PanopticFrame
from perception_node.taxonomy import Taxonomy

MIN_STEP_S = 0.001
"""The least that two frames are apart, for cameras whose stamps stand still."""
MAX_GAP_S = 2.0
"""Frames farther apart than this, and than objects are remembered, have nothing to do with each other."""
EPSILON_S = 1e-6
"""What rounding adds to a sum of steps."""
VOTE_DECAY, MIN_VOTE = 0.9, 0.01
"""What a vote for a class is worth one sighting later, and at least at first."""
SPEED_SIGMA, BOX_NOISE = np.array([4.0, 4.0, 1.0, 1.0]), 1.0
"""Of a box's numbers, in parts of its size: the standard deviation of their first speeds, a second, and the square root
of their accelerations' spectral density. About DeepSORT's at 30 frames a second, but the first: parked cars pass
quickly. Sizes seldom double in a second; where they change faster something else comes in between."""
GROUND_SPEED_SIGMA, GROUND_NOISE = 10.0, 2.0
"""The same of positions, in metres: cars accelerate by some m/s² for about a second."""
MAX_SPEED_SIGMA_M_S = 3.0
"""A speed along either axis that is less sure than this is not known yet."""
MAX_UNLOCATED_S = 1.0
"""After so long without a position nothing is known in metres any more."""


@dataclass(frozen=True, slots=True)
class TrackingOptions:
    """When an object is believed, and for how long it is remembered. What they may be is in RANGES.

    Attributes:
        min_hits: frames that an object must be seen in to be remembered when it is not. Its id is for good from the
            first one.
        max_lost_s: seconds that it is remembered.
        min_overlap: least intersection over union of masks that are one object's, if of one class; else twice that.

    Raises:
        UserError: one of them is out of its range.
    """

    min_hits: int = 2
    max_lost_s: float = 0.7
    min_overlap: float = 0.1

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"tracking option {name} is {getattr(self, name)}; expected: {low}..{high}")


RANGES = {"min_hits": (1, 100), "max_lost_s": (0.0, 60.0), "min_overlap": (0.01, 1.0)}
DEFAULT_OPTIONS = TrackingOptions()


@dataclass(frozen=True, slots=True)
class Track:
    """What is known of an object that is seen.

    Attributes:
        id: as in the frame's instance map.
        class_scores: (class id, score) of every class that it was seen as, the likeliest first: the mean over its
            frames of the score of its segment if it was of that class, else 0; newer frames weigh more.
        hits: frames that it was seen in.
        age_s: seconds since the first of them.
        velocity_px_s: (x, y) of its box's centre in pixels a second; None until it was seen twice.
        position_m: (x, y) of where it stands in metres, see `Tracker.locate`; None where it was not located for
            MAX_UNLOCATED_S.
        velocity_m_s: (x, y) of that in metres a second; None until its standard deviation is MAX_SPEED_SIGMA_M_S.
        velocity_sigma_m_s: (x, y) of that standard deviation; None with the velocity.
    """

    id: int
    class_scores: tuple[tuple[int, float], ...]
    hits: int
    age_s: float
    velocity_px_s: tuple[float, float] | None
    position_m: tuple[float, float] | None = None
    velocity_m_s: tuple[float, float] | None = None
    velocity_sigma_m_s: tuple[float, float] | None = None


class Tracker:
    """Follows the instances of one camera. Every instance has its track's id, from its first frame on.

    An id is never given twice, also where time jumps back (a looping bag) or far ahead, or the image's size changes:
    then all tracks end and others begin. After 65535 ids they begin at 1 again, with a warning, without those that
    tracks still have.

    Args:
        device: what counts overlaps and writes maps.
        taxonomy: of the frames.
        options: see there; can be changed between two frames.
        next_id: the first id to give; that of a tracker whose place this one takes.

    Attributes:
        options: as given.
        next_id: 1 more than the number of ids that were given.

    Raises:
        UserError: scipy is missing.

    Example:
        tracker = Tracker(open_device("cpu"), model.taxonomy)
        frame, tracks = tracker(pipeline(image), stamp_ns)
    """

    def __init__(
        self, device: Device, taxonomy: Taxonomy, options: TrackingOptions = DEFAULT_OPTIONS, next_id: int = 1
    ):
        self.next_id = next_id
        self.options = options
        self._device = device
        self._maps = InstanceMaps(device)
        self._associate = Association(self._maps)
        self._dtype = np.dtype(
            [
                *track_fields(len(taxonomy)),
                ("id", np.uint16),
                ("first_s", np.float64),
                ("vote_weight", np.float64),
                ("located_s", np.float64),
                ("ground", MOVING, (2,)),  # the filtered position, at the newest frame's time
            ]
        )
        self._size: tuple[int, ...] = ()
        self.forget()

    def forget(self) -> None:
        """Ends all tracks."""
        self._tracks = np.zeros(0, self._dtype)
        self._rows = np.zeros(0, np.int64)  # of the newest frame's instances, in the order of their ids
        self._before: Array | None = None
        self._stamp_ns: int | None = None
        self._now_s = 0.0

    def __call__(self, frame: PanopticFrame, stamp_ns: int) -> tuple[PanopticFrame, tuple[Track, ...]]:
        """Follows the objects into the camera's next frame.

        Args:
            frame: its segmentation, which must not change afterwards.
            stamp_ns: when it was taken, in nanoseconds.

        Returns:
            The same partition of the pixels, with the tracks' ids and classes; the tracks of its instances, in the same
            order.
        """
        self._advance(frame.class_map.shape, stamp_ns)
        instances = Instances.of(frame.instances)
        now = self._device.upload(frame.instance_map)
        self._associate.stand_or_go(self._tracks, instances, self._before, now)
        track_of = self._associate(self._tracks, instances, self._before, now, self.options.min_overlap)
        rows = self._update(instances, track_of)
        self._before = now
        self._rows = rows[np.argsort(self._tracks["id"][rows])]
        return self._relabel(frame, now, self._tracks[rows]), self._seen_tracks()

    def locate(self, positions: Mapping[int, np.ndarray]) -> tuple[Track, ...]:
        """Takes in where objects of the newest frame stand, as far as that is known; not more than once a frame.

        Args:
            positions: float (2, 2) by the tracks' ids: x and y in metres, a position on the ground in the same axes
                every time, and their variances. Speeds are relative to those axes, the vehicle's where they are its.

        Returns:
            The tracks of the newest frame, with what is now known of their speeds.
        """
        rows = self._rows[np.isin(self._tracks["id"][self._rows], list(positions))]
        located = self._tracks[rows]
        measured = np.array([positions[id_] for id_ in located["id"].tolist()], np.float64).reshape(-1, 2, 2)
        measured, variance = measured.swapaxes(0, 1)
        first = start(measured, variance, GROUND_SPEED_SIGMA**2)
        is_known = self._now_s - located["located_s"] <= MAX_UNLOCATED_S + EPSILON_S
        located["ground"] = np.where(is_known[:, None], update(located["ground"], measured, variance), first)
        located["located_s"] = self._now_s
        self._tracks[rows] = located
        return self._seen_tracks()

    def _advance(self, size: tuple[int, ...], stamp_ns: int) -> None:
        """Moves the tracks on to the new frame's time, those that are still remembered then."""
        seconds = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) / 1e9
        if size != self._size or not 0 <= seconds <= max(MAX_GAP_S, self.options.max_lost_s):
            self.forget()
        elif self._stamp_ns is not None:
            seconds = max(seconds, MIN_STEP_S)
            self._now_s += seconds
            tracks = self._tracks
            is_remembered = self._now_s - tracks["last_s"] <= self.options.max_lost_s + EPSILON_S
            self._tracks = tracks = tracks[is_remembered | (tracks["instance"] > 0)]
            predict(tracks["box"], seconds, (BOX_NOISE * scale(tracks["box"]["value"])) ** 2)
            predict(tracks["ground"], seconds, GROUND_NOISE**2)
        self._size, self._stamp_ns = size, stamp_ns

    def _update(self, instances: Instances, track_of: np.ndarray) -> np.ndarray:
        """Makes the tracks those that are seen now or still remembered; int (N,), the instances' among them."""
        is_new = track_of < 0
        rows = np.where(is_new, len(self._tracks) + np.cumsum(is_new) - 1, track_of)
        begun = np.zeros(np.count_nonzero(is_new), self._dtype)
        begun["first_s"], begun["located_s"] = self._now_s, -np.inf
        tracks = np.concatenate([self._tracks, begun])

        tracks["instance"] = 0
        seen = tracks[rows]
        seen["instance"], seen["seen"], seen["last_s"] = instances.id, instances.box, self._now_s
        seen["hits"] += 1
        seen["votes"] *= VOTE_DECAY
        seen["votes"][np.arange(len(seen)), instances.class_id] += np.maximum(instances.score, MIN_VOTE)
        seen["vote_weight"] = VOTE_DECAY * seen["vote_weight"] + 1
        variance = sigma(instances.box) ** 2
        first = start(instances.box, variance, (SPEED_SIGMA * scale(instances.box)) ** 2)
        seen["box"] = np.where(is_new[:, None], first, update(seen["box"], instances.box, variance))
        if is_new.any():
            seen["box"]["speed"][is_new, :2] = speed_at(instances.box[is_new], seen[~is_new], self._size[1])
        tracks[rows] = seen

        is_kept = (tracks["instance"] > 0) | (tracks["hits"] >= self.options.min_hits)
        if np.count_nonzero(is_kept) > MAX_INSTANCES:  # more than there are ids
            is_kept = tracks["instance"] > 0
        self._tracks = tracks[is_kept]
        self._give_ids()
        return np.cumsum(is_kept)[rows] - 1

    def _give_ids(self) -> None:
        """New tracks get the ids that follow, without those that tracks still have from a round before."""
        is_new = self._tracks["id"] == 0
        n = np.count_nonzero(is_new)
        numbers = self.next_id + np.arange(n)
        if n and numbers[-1] > MAX_INSTANCES:
            if self.next_id <= MAX_INSTANCES + 1:
                warnings.warn(f"tracking: all {MAX_INSTANCES} ids were given; they begin at 1 again", stacklevel=3)
            numbers = self.next_id + np.arange(min(len(self._tracks), MAX_INSTANCES))
            numbers = numbers[~np.isin((numbers - 1) % MAX_INSTANCES + 1, self._tracks["id"])][:n]
        if n:
            self._tracks["id"][is_new] = (numbers - 1) % MAX_INSTANCES + 1
            self.next_id = int(numbers[-1]) + 1

    def _relabel(self, frame: PanopticFrame, now: Array, tracks: np.ndarray) -> PanopticFrame:
        """The frame with ids and classes of its instances' tracks."""
        instances = frame.instances
        classes = tracks["votes"].argmax(axis=1)
        given = [each.id for each in instances]
        id_of, class_of = table(np.uint16, given, tracks["id"]), table(np.uint8, given, classes)
        class_map = self._device.upload(frame.class_map)
        instance_map, class_map = self._maps.relabel(now, class_map, id_of, class_of)
        things = [
            dataclasses.replace(each, id=id_, class_id=class_id)
            for each, id_, class_id in zip(instances, tracks["id"].tolist(), classes.tolist(), strict=True)
        ]
        stuff = [segment for segment in frame.segments if not segment.is_thing]
        segments = (*stuff, *sorted(things, key=lambda segment: segment.id))
        return PanopticFrame(class_map, instance_map, frame.confidence, segments)

    def _seen_tracks(self) -> tuple[Track, ...]:
        return tuple(_track(self._tracks[row], self._now_s) for row in self._rows)


def _track(track: np.void, now_s: float) -> Track:
    scores = track["votes"] / track["vote_weight"]
    likeliest = np.argsort(-scores, kind="stable").tolist()
    speed, ground = track["box"]["speed"][:2], track["ground"]
    speed_sigma = np.sqrt(ground["ss"])
    is_located = now_s - track["located_s"] <= MAX_UNLOCATED_S + EPSILON_S
    is_sure = is_located and (speed_sigma <= MAX_SPEED_SIGMA_M_S).all()
    return Track(
        id=int(track["id"]),
        class_scores=tuple((class_id, float(scores[class_id])) for class_id in likeliest if scores[class_id] > 0),
        hits=int(track["hits"]),
        age_s=float(now_s - track["first_s"]),
        velocity_px_s=tuple(speed.tolist()) if track["hits"] > 1 else None,
        position_m=tuple(ground["value"].tolist()) if is_located else None,
        velocity_m_s=tuple(ground["speed"].tolist()) if is_sure else None,
        velocity_sigma_m_s=tuple(speed_sigma.tolist()) if is_sure else None,
    )
