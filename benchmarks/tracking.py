"""Ids that last beside ByteTrack's: python benchmarks/tracking.py [--camvid VAL] [--street SEED]... [--every N]

Both get the same instances, frame by frame: ours their masks and boxes, ByteTrack (of roboflow's `trackers`) the boxes.
What ByteTrack gives no id is one frame's object. Besides its defaults it runs with thresholds at 0, so that it follows
every instance, as ours does. Needs `pip install trackers`, and embreex for the street.

CamVid's labels have no instances, and no ids: 8-connected components of a thing class in the labels are taken for
instances, and those whose masks overlap best (IoU of 0.1 and more, or half of the smaller) from one labelled frame
to a later one, at most half a second on, for the same object. That favours whoever matches masks. The street's ids are
exact.
"""

import dataclasses
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import supervision
from scipy.optimize import linear_sum_assignment
from trackers import ByteTrackTracker

from perception_node.device import open_device
from perception_node.metrics import (
    VOID_INSTANCE,
    Overlaps,
    PanopticMap,
    SegmentationTrackingQuality,
    instances_from_classes,
    match,
)
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.pipeline import Pipeline
from perception_node.taxonomy import Taxonomy
from perception_node.tracking import Tracker

GAP = 7
"""Labelled frames (15 a second) over which components of CamVid's labels are linked."""
MIN_AREA = 20
"""Pixels; smaller things of the street are no instances, for any tracker, and unlabelled in the truth."""

Follow = Callable[[PanopticFrame, int], PanopticFrame]


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame of a sequence: the truth's class and instance maps, with ids that last, and what is seen, with others."""

    stamp_ns: int
    classes: np.ndarray
    ids: np.ndarray
    seen: dict[str, PanopticFrame]


def camvid(folder: Path, pipeline: Pipeline) -> Iterator[Moment]:
    taxonomy = pipeline.model.taxonomy
    known: dict[int, tuple[int, int, np.ndarray]] = {}  # id -> frame, class and mask, when it was last seen
    for index, path in enumerate(sorted((folder / "labels").glob("*.png"))):
        classes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        classes = np.where(classes < len(taxonomy), classes, UNLABELLED).astype(np.uint8)
        components = instances_from_classes(classes, taxonomy.thing_ids)
        masks = [components == i for i in range(1, int(components[components != VOID_INSTANCE].max(initial=0)) + 1)]
        labels = [int(classes[mask][0]) for mask in masks]
        ids = link(known, masks, labels, index)
        truth = np.where(components == VOID_INSTANCE, components, 0)
        for id_, mask in zip(ids, masks, strict=True):
            truth[mask] = id_
        void = np.where(components == VOID_INSTANCE, UNLABELLED, classes).astype(np.uint8)
        exact = np.where(components == VOID_INSTANCE, 0, components).astype(np.uint16)
        seen = {
            "masks of the labels": PanopticFrame.from_maps(void, exact, np.full(classes.shape, 255, np.uint8)),
            "the network's": pipeline(cv2.imread(str(folder / "images" / f"{path.stem}.jpg"))),
        }
        yield Moment(index * 10**9 // 15, classes, truth.astype(np.uint16), seen)


def link(known: dict, masks: list[np.ndarray], labels: list[int], index: int) -> list[int]:
    """Ids of the components: those of the ones that they overlap best, of the newest frames first, or new ones."""
    ids = [0] * len(masks)
    for age in range(1, GAP + 2):
        before = [id_ for id_, (seen, *_) in known.items() if seen == index - age and id_ not in ids]
        free = [i for i, id_ in enumerate(ids) if not id_]
        if not before or not free:
            continue
        overlaps = np.array(
            [[overlap(known[id_][2], masks[i]) * (known[id_][1] == labels[i]) for i in free] for id_ in before]
        )
        for row, column in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
            if overlaps[row, column] >= 0.1:
                ids[free[column]] = before[row]
    for i, mask in enumerate(masks):
        ids[i] = ids[i] or max([*known, *ids]) + 1
        known[ids[i]] = index, labels[i], mask
    return ids


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union; or a fifth of the part of the smaller mask within three pixels of the other: who comes
    out from behind a car moves and grows."""
    smaller, larger = sorted((a, b), key=np.count_nonzero)
    around = cv2.dilate(larger.view(np.uint8), np.ones((7, 7), np.uint8)).view(bool)
    of_union = np.count_nonzero(a & b) / np.count_nonzero(a | b)
    return max(of_union, np.count_nonzero(smaller & around) / np.count_nonzero(smaller) / 5)


def street(seed: int, pipeline: Pipeline, frames: int) -> Iterator[Moment]:
    from perception_node.simulation import Street

    rng = np.random.default_rng(seed)
    for frame in Street(seed=seed, n_frames=frames).drive():
        truth = frame.panoptic
        number = np.zeros(65536, np.uint16)
        instances = [each.id for each in truth.instances if each.area >= MIN_AREA]
        number[instances] = 1 + rng.permutation(len(instances))
        small = (truth.instance_map > 0) & (number[truth.instance_map] == 0)
        classes = np.where(small, UNLABELLED, truth.class_map).astype(np.uint8)
        exact = PanopticFrame.from_maps(classes, number[truth.instance_map], truth.confidence)
        seen = {
            "exact masks": exact,
            "disturbed masks": disturbed(exact, pipeline.model.taxonomy, rng),
            "the network's": pipeline(frame.image),
        }
        yield Moment(round(frame.time_s * 1e9), classes, np.where(small, 0, truth.instance_map), seen)


def disturbed(frame: PanopticFrame, taxonomy: Taxonomy, rng: np.random.Generator) -> PanopticFrame:
    """As a network might see it: 10 % of the instances are missed, 10 % get a class by lot, 10 % are cut in two by a
    gap of two columns; half of them are thinner by a pixel all around."""
    classes, ids = frame.class_map.copy(), frame.instance_map.copy()
    for each in frame.instances:
        mask = frame.instance_map == each.id
        gone, lot = np.zeros_like(mask), rng.random()
        if lot < 0.1:
            gone = mask
        elif lot < 0.2:
            classes[mask] = rng.choice(taxonomy.thing_ids)
        elif lot < 0.3:
            x = round(each.centroid_xy[0])
            gone[:, x : x + 2] = mask[:, x : x + 2]
            ids[:, x + 2 :][mask[:, x + 2 :]] = ids.max() + 1
        if rng.random() < 0.5:
            gone = gone | (mask & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool))
        classes[gone], ids[gone] = UNLABELLED, 0
    return PanopticFrame.from_maps(classes, ids, frame.confidence)


def ours(taxonomy: Taxonomy, _: float) -> Follow:
    tracker = Tracker(open_device("cpu"), taxonomy)
    return lambda frame, stamp_ns: tracker(frame, stamp_ns)[0]


def byte_track(taxonomy: Taxonomy, rate: float, **options) -> Follow:
    tracker = ByteTrackTracker(frame_rate=rate, **options)
    singles = iter(range(30000, 65535))

    def follow(frame: PanopticFrame, _: int) -> PanopticFrame:
        boxes = np.array([each.box_xyxy for each in frame.instances], np.float64).reshape(-1, 4)
        detections = supervision.Detections(
            boxes,
            confidence=np.array([each.score for each in frame.instances]),
            class_id=np.array([each.class_id for each in frame.instances], int),
            data={"index": np.arange(len(boxes))},
        )
        found = tracker.update(detections)
        ids = dict(zip(found.data.get("index", ()), (found.tracker_id if len(found) else ()), strict=True))
        things, number = [], np.zeros(65536, np.uint16)
        for index, each in enumerate(frame.instances):
            id_ = int(ids.get(index, -1))
            number[each.id] = id_ + 1 if id_ >= 0 else next(singles)
            things.append(dataclasses.replace(each, id=int(number[each.id])))
        stuff = [each for each in frame.segments if not each.is_thing]
        return PanopticFrame(frame.class_map, number[frame.instance_map], frame.confidence, (*stuff, *things))

    return follow


def all_followed(taxonomy: Taxonomy, rate: float) -> Follow:
    thresholds = {"track_activation_threshold": 0.0, "high_conf_det_threshold": 0.0, "minimum_consecutive_frames": 1}
    return byte_track(taxonomy, rate, **thresholds)


TRACKERS = {"ours": ours, "ByteTrack": byte_track, "ByteTrack, all": all_followed}


def measure(moments: list[Moment], source: str, taxonomy: Taxonomy, make: Callable) -> str:
    """STQ, AQ, id switches, and milliseconds a frame.

    A switch: a true object is covered (IoU > 0.5) by another id than the last that covered it.
    """
    rate = 1e9 / (moments[1].stamp_ns - moments[0].stamp_ns)
    follow, quality = make(taxonomy, rate), SegmentationTrackingQuality(len(taxonomy), taxonomy.thing_ids)
    last: dict = {}
    switches, times = 0, []
    for moment in moments:
        start = time.perf_counter()
        frame = follow(moment.seen[source], moment.stamp_ns)
        times.append(1e3 * (time.perf_counter() - start))
        overlaps = Overlaps.of(
            PanopticMap.from_maps(moment.classes, moment.ids, taxonomy),
            PanopticMap.from_maps(frame.class_map, frame.instance_map, taxonomy),
        )
        quality.add(overlaps)
        for truth, (predicted, _) in match(overlaps).items():
            if truth[0] in taxonomy.thing_ids:
                switches += last.setdefault(truth, predicted[1]) != predicted[1]
                last[truth] = predicted[1]
    stq, aq, _ = quality.quality()
    return f"{stq:8.3f}{aq:8.3f}{switches:10d}{statistics.median(times):9.1f} ms"


@click.command()
@click.option("--camvid", "folder", type=click.Path(path_type=Path, exists=True), help="Folder with images/, labels/.")
@click.option("--street", "seeds", multiple=True, type=int, help="Seed of a simulated drive; repeatable.")
@click.option("--frames", default=100, show_default=True, help="Of each simulated drive.")
@click.option("--every", default=(1, 3), multiple=True, show_default=True, help="Take every n-th frame; repeatable.")
def main(folder: Path | None, seeds: tuple[int, ...], frames: int, every: tuple[int, ...]) -> None:
    pipeline = Pipeline(load_model(DEFAULT_MODEL))
    taxonomy = pipeline.model.taxonomy
    sequences = {"CamVid val": lambda: camvid(folder, pipeline)} if folder else {}
    sequences |= {f"street {seed}": lambda seed=seed: street(seed, pipeline, frames) for seed in seeds}
    print(f"ByteTrack: trackers {importlib.metadata.version('trackers')}")
    print(
        f"{'sequence':<12}{'every':>6}  {'instances':<21}{'tracker':<16}{'STQ':>8}{'AQ':>8}{'switches':>10}"
        f"{'a frame':>12}"
    )
    for name, make in sequences.items():
        moments = list(make())
        for step in every:
            for source in moments[0].seen:
                for tracker, make_tracker in TRACKERS.items():
                    figures = measure(moments[::step], source, taxonomy, make_tracker)
                    print(f"{name:<12}{step:>6}  {source:<21}{tracker:<16}{figures}", flush=True)


if __name__ == "__main__":
    main()
