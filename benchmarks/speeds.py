"""Speeds in metres against the truth: python benchmarks/speeds.py [BAG]... [--every N] [--pitch DEGREES]

A bag is one that `perception simulate` writes; without one it is the drive of `make demo`, rendered now if it was not
before. A true speed is how the middle of an object's true box moves in the base frame, from the image before to the one
after. Counted is every true object whose foot is 5 to 30 m away and that an instance covers (IoU above 0.5): how many
of them have a speed, and how far it is from the true one, as a vector.

The street's vehicle does not pitch. With --pitch the camera is taken to nod at 1.5 Hz, as a car's body does, while the
images do not: that is as wrong as a camera that nods and is taken to stand still.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from perception_node.bags import header_stamp_ns, open_bag
from perception_node.calibration_input import CalibrationOptions
from perception_node.image import CameraImage
from perception_node.messages import camera_image
from perception_node.metrics import VOID_INSTANCE, Overlaps, PanopticMap, match
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.mounting import Mounting
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.perceiver import Perceiver
from perception_node.pipeline import Pipeline
from perception_node.simulation.cache import cached_drive
from perception_node.sources import deserialize, open_source
from perception_node.topics import IMAGE

NOD_HZ = 1.5
RANGES_M = (5, 10), (10, 20), (20, 30), (5, 30)
TRUTH = "/truth/class_map", "/truth/instance_map", "/truth/objects"


class ExactMasks:
    """Stands in for a pipeline: gives the true frames in their order."""

    def __init__(self, pipeline: Pipeline, truth: list[dict[str, Any]]):
        self.model, self.timer = pipeline.model, pipeline.timer
        self._frames = map(self._frame, truth)

    def __call__(self, _: CameraImage) -> PanopticFrame:
        return next(self._frames)

    def _frame(self, truth: dict[str, Any]) -> PanopticFrame:
        is_void = truth["instance_map"] == VOID_INSTANCE
        classes = np.where(is_void, np.uint8(UNLABELLED), truth["class_map"])
        ids = np.where(is_void, np.uint16(0), truth["instance_map"])
        return PanopticFrame.from_maps(classes, ids, np.full(ids.shape, 255, np.uint8))


def truth_of(bag: Path, every: int) -> list[dict[str, Any]]:
    """Of every n-th frame: stamp, class_map, instance_map; objects: id -> ((x, y) of the middle, and of the foot)."""
    frames: dict[int, dict[str, Any]] = defaultdict(dict)
    with open_bag(bag) as reader:
        for connection, _, cdr in reader.messages(TRUTH):
            message, name = deserialize(cdr, connection.msgtype), connection.topic.rpartition("/")[2]
            if name == "objects":
                places = {
                    int(each.id): [(p.x, p.y) for p in (each.bbox.center.position, each.results[0].pose.pose.position)]
                    for each in message.detections
                }
                frames[header_stamp_ns(cdr)][name] = places
            else:
                dtype = np.uint8 if name == "class_map" else np.uint16
                pixels = np.frombuffer(message.data, dtype).reshape(message.height, message.width)
                frames[header_stamp_ns(cdr)][name] = pixels
    return [{"stamp": stamp, **frames[stamp]} for stamp in sorted(frames)[::every]]


def nodding(mounting: Mounting, base_frame: str, pitch_deg: float, seconds: float) -> CalibrationOptions:
    """The mounting with a pitch that swings by this standard deviation."""
    swing = np.sqrt(2) * pitch_deg * np.sin(2 * np.pi * NOD_HZ * seconds)
    pitch, roll, yaw = np.degrees(mounting.angles())
    angles = {"mounting_pitch": pitch + swing, "mounting_roll": roll, "mounting_yaw": yaw}
    place = {"mounting_x": mounting.translation[0], "mounting_y": mounting.translation[1]}
    return CalibrationOptions(mounting_height=mounting.height_m, **angles, **place, base_frame=base_frame)


def speeds(
    bag: Path, truth: list[dict[str, Any]], pipeline: Any, pitch_deg: float
) -> Iterator[tuple[float, np.ndarray, Any]]:
    """Distance, true speed and track of each true object that is covered."""
    source, taxonomy = open_source(bag, "/camera/image_raw"), pipeline.model.taxonomy
    perceive, mounting = Perceiver(pipeline, source), None
    stamps = {each["stamp"]: index for index, each in enumerate(truth)}
    for item in source:
        if item.topic != IMAGE:
            perceive.take(item)
            continue
        stamp = item.message.header.stamp
        index = stamps.get(stamp.sec * 10**9 + stamp.nanosec)
        if index is None:
            continue
        image, header = camera_image(item.message), item.message.header
        if pitch_deg:
            known = perceive.calibrations
            mounting = mounting or known.calibration(header.frame_id, image.width, image.height).mounting
            seconds = (truth[index]["stamp"] - truth[0]["stamp"]) / 1e9
            known.set_options(nodding(mounting, known.options.base_frame, pitch_deg, seconds))
        scene = perceive(header, image)
        tracks = {track.id: track for track in scene.located}
        if not 0 < index < len(truth) - 1:
            continue
        before, now, after = truth[index - 1 : index + 2]
        overlaps = Overlaps.of(
            PanopticMap.from_maps(now["class_map"], now["instance_map"], taxonomy),
            PanopticMap.from_maps(scene.frame.class_map, scene.frame.instance_map, taxonomy),
        )
        seconds = (after["stamp"] - before["stamp"]) / 1e9
        for (_, known), ((_, seen), _) in match(overlaps).items():
            known, seen = known & 0xFFFF, seen & 0xFFFF
            if seen in tracks and all(known in each["objects"] for each in (before, now, after)):
                middles = np.array([each["objects"][known][0] for each in (before, after)])
                distance = np.hypot(*now["objects"][known][1])
                yield float(distance), (middles[1] - middles[0]) / seconds, tracks[seen]


def summary(found: list[tuple[float, np.ndarray, Any]], near: float, far: float) -> str:
    """True speed, part that has one, error (median, p90, median by axis), part within two standard deviations."""
    chosen = [(speed, track) for distance, speed, track in found if near <= distance < far]
    errors = np.array([np.subtract(t.velocity_m_s, speed) for speed, t in chosen if t.velocity_m_s]).reshape(-1, 2)
    sigmas = np.array([t.velocity_sigma_m_s for _, t in chosen if t.velocity_m_s]).reshape(-1, 2)
    if not len(errors):
        return f"{len(chosen):8d}{'none has a speed':>20}"
    size = np.hypot(*errors.T)
    figures = np.median([np.hypot(*speed) for speed, _ in chosen]), len(errors) / len(chosen), np.median(size)
    rest = np.percentile(size, 90), *np.median(np.abs(errors), axis=0), (np.abs(errors) < 2 * sigmas).mean()
    return f"{len(chosen):8d}" + "".join(f"{figure:9.2f}" for figure in (*figures, *rest))


@click.command()
@click.argument("bags", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--every", default=(1, 3), multiple=True, show_default=True, help="Take every n-th frame; repeatable.")
@click.option("--pitch", default=0.0, show_default=True, help="Standard deviation, degrees.")
def main(bags: tuple[Path, ...], every: tuple[int, ...], pitch: float) -> None:
    pipeline = Pipeline(load_model(DEFAULT_MODEL))
    heads = "speed", "known", "error", "p90", "ahead", "aside", "2 sigma"
    print(f"{'every':>5}  {'instances':<13}{'m away':>8}{'objects':>8}" + "".join(f"{head:>9}" for head in heads))
    for bag in bags or [cached_drive(seed=7, n_frames=150)]:
        print(bag)
        for step in every:
            truth = truth_of(bag, step)
            for name, source in (("exact masks", ExactMasks(pipeline, truth)), ("the network's", pipeline)):
                found = list(speeds(bag, truth, source, pitch))
                for near, far in RANGES_M:
                    print(f"{step:>5}  {name:<13}{f'{near}-{far}':>8}{summary(found, near, far)}", flush=True)


if __name__ == "__main__":
    main()
