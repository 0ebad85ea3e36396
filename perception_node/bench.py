"""`perception bench`: how fast a model is on this machine, how much memory it takes, and how two engines compare."""

import os
import platform
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from perception_node.bags import typestore
from perception_node.engine import DEFAULT_PLAN, ENGINES, PlanOptions, choose_engine
from perception_node.errors import SourceError, UserError
from perception_node.image import CameraImage
from perception_node.messages import MessageFactory
from perception_node.model import Model
from perception_node.panoptic import PanopticFrame
from perception_node.pipeline import Pipeline
from perception_node.sources import Source
from perception_node.timing import StageTimer
from perception_node.topics import OUTPUTS, Scene

FOOTAGE = 16
"""Frames of the footage that are used, over and over: enough to differ, few enough to hold in memory."""

ROUND = 20
"""Frames after which one and two in flight take turns: load of other processes should fall on both."""


def bench(
    model: Model,
    footage: Sequence[CameraImage] | None = None,
    *,
    device: str = "cpu",
    engine: str = "auto",
    threads: int = 0,
    plan: PlanOptions = DEFAULT_PLAN,
    frames: int = 100,
    warmup: int = 5,
    size_hw: tuple[int, int] | None = None,
    against: str | None = None,
    in_flight: int = 2,
) -> dict[str, Any]:
    """Times a model's pipeline, frame by frame and, unless it is compared with another, with two frames in flight.

    Two in flight are two pipelines, each with a thread of its own and every other frame.

    Args:
        model: what to measure.
        footage: images; without them, made-up ones, random but smooth.
        device, engine, threads, plan: see perception_node.pipeline.Pipeline.
        frames: how many are timed.
        warmup: how many are run before that.
        size_hw: of made-up frames; without it the model's input size.
        against: another engine, which takes turns with the first on the same frames.
        in_flight: 2 measures the throughput of two frames in flight too. It is not done beside another engine, whose
            turns would cost the first its warm caches when frames come one at a time.

    Returns:
        model, sha256, device, engine, threads (0: all cores), frames, warmup, size ([height, width] of the last
        frame), made_up.
        machine: processor, cores (that this process may use), load (the system's, of the last minute, at the start).
        stages_ms: by stage p50, p95, p99; "total" is the whole frame.
        around_network: the other stages' medians / the network's.
        throughput_fps: {"1": frames in a second one after the other, "2": with two in flight, or None}.
        in_flight_gain: how many times as many frames two in flight do, the median over rounds; None if not measured.
        memory_mib: the process's resident memory, "start" with nothing but the frames, then its "peak" when one
            pipeline is warm, and "peak_in_flight" when two are, or None. "gpu": of the GPU's, what one pipeline took;
            None on the CPU.
        against: None, or device, engine, stages_ms, throughput_fps as above and
            time_ratio: by stage, the median of its time on a frame / the first's.
            outputs: by tensor, max_abs and mean_abs difference and frames_compared, which leaves out those on which the
                shapes differ.
            equal_class_pixels, equal_instance_pixels: shares of 1, the latter of the pixels that belong to an instance
                for either engine, None if there are none.

    Raises:
        UserError: an option is out of range, or the model cannot be run.
    """
    for name, value, least in (("frames", frames, 1), ("warmup", warmup, 1), ("threads", threads, 0)):
        if value < least:
            raise UserError(f"{name} {value}: expected: {least} or more")
    engine = choose_engine(device, engine)
    # The other one may be of another device: a GPU's answers are compared with the CPU's.
    other_device = next((name for name, engines in ENGINES.items() if against in engines), device)
    other = choose_engine(other_device, against) if against is not None else None
    if other == engine:
        raise UserError(f"against {against!r}: is the engine that is measured; name another one")
    images = footage or _made_up(size_hw or model.input.size_hw)
    machine = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2)}
    memory = {"start": _memory_mib("VmRSS"), "peak": None, "peak_in_flight": None, "gpu": None}
    used_before = _gpu_memory_mib() if device == "cuda" else 0.0

    def load(device: str, engine: str) -> _Run:
        run = _Run(Pipeline(model, device, threads, engine, plan))
        for index in range(warmup):
            run.frame(images[index % len(images)], timed=False)
        return run

    run = load(device, engine)
    memory["peak"] = _memory_mib("VmHWM")
    if device == "cuda":
        memory["gpu"] = round(_gpu_memory_mib() - used_before, 1)
    rival = load(other_device, other) if other else None
    twin = load(device, engine) if in_flight == 2 and not rival else None
    if twin:
        memory["peak_in_flight"] = _memory_mib("VmHWM")
    comparison = _Comparison()
    batch: list[CameraImage] = []
    alone, in_pairs = [], []  # seconds of each round, one frame at a time and two
    for index in tqdm(range(frames), desc="bench", unit="frame"):
        image = images[index % len(images)]
        in_turn = [run, rival] if rival else [run]
        seen = {each: each.frame(image) for each in (in_turn if index % 2 else in_turn[::-1])}
        if rival:
            comparison.add(run.pipeline.outputs(), rival.pipeline.outputs(), seen[run], seen[rival])
        batch.append(image)
        if twin and (len(batch) == ROUND or index == frames - 1):
            alone.append(run.seconds - sum(alone))
            in_pairs.append(_seconds_in_flight(run, twin, batch))
            batch = []
    stages = run.pipeline.timer.percentiles()
    medians = {stage: times["p50"] for stage, times in stages.items()}
    rival_stages = rival.pipeline.timer.percentiles() if rival else {}
    return {
        "model": model.name,
        "sha256": model.sha256,
        "device": device,
        "engine": engine,
        "threads": threads,
        "frames": frames,
        "warmup": warmup,
        "size": list(seen[run].class_map.shape),
        "made_up": footage is None,
        "machine": machine,
        "stages_ms": stages,
        "around_network": round((sum(medians.values()) - medians["total"]) / medians["network"] - 1, 3),
        "throughput_fps": {
            "1": round(frames / run.seconds, 3),
            "2": round(frames / sum(in_pairs), 3) if twin else None,
        },
        "in_flight_gain": round(float(np.median(np.divide(alone, in_pairs))), 3) if twin else None,
        "memory_mib": memory,
        "against": rival
        and {
            "device": other_device,
            "engine": other,
            "stages_ms": rival_stages,
            "throughput_fps": round(frames / rival.seconds, 3),
            "time_ratio": {stage: round(times["p50"] / medians[stage], 3) for stage, times in rival_stages.items()},
            **comparison.summary(),
        },
    }


def take_frames(source: Source) -> list[CameraImage]:
    """The footage's first frames, FOOTAGE of them at most.

    Raises:
        SourceError: it has none, or one cannot be decoded.
    """
    images = [image for _, image in islice(source.frames(), FOOTAGE)]
    if not images:
        raise SourceError(f"{source.path}: holds no images; name other footage")
    return images


class _Run:
    """A pipeline at work; its timer has the stages of the timed frames, `seconds` is their sum."""

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self.seconds = 0.0
        self._make = MessageFactory.rosbags(typestore())
        self._header = self._make.header(0, "camera")

    def frame(self, image: CameraImage, timed: bool = True) -> PanopticFrame:
        """Everything that the node does with an image, but for DDS and the overlay, which few subscribe to."""
        timer = self.pipeline.timer
        if not timed:
            self.pipeline.timer = StageTimer()
        start = time.perf_counter()
        frame = self._perceive(image)
        seconds = time.perf_counter() - start
        self.pipeline.timer = timer
        if timed:
            timer.add("total", seconds * 1e3)
            self.seconds += seconds
        return frame

    def _perceive(self, image: CameraImage) -> PanopticFrame:
        timer, taxonomy = self.pipeline.timer, self.pipeline.model.taxonomy
        frame = self.pipeline(image)
        scene = Scene(self._header, image, frame, taxonomy, timer)
        with timer("messages"):
            for name, output in OUTPUTS.items():
                if name != "overlay":
                    typestore().serialize_cdr(output.fill(self._make, scene), output.type)
        return frame


def _seconds_in_flight(first: _Run, second: _Run, images: Sequence[CameraImage]) -> float:
    """How long the images take if each of two threads, with a pipeline of its own, does every other one."""

    def work(run: _Run, part: Sequence[CameraImage]) -> None:
        for image in part:
            run.frame(image, timed=False)

    with ThreadPoolExecutor(2) as threads:
        start = time.perf_counter()
        list(threads.map(work, (first, second), (images[::2], images[1::2])))  # a list, so that it raises
        return time.perf_counter() - start


class _Comparison:
    """How the answers of two engines to the same frames differ."""

    def __init__(self):
        self._largest: dict[str, float] = {}
        self._means: dict[str, list[float]] = defaultdict(list)
        self._pixels = Counter()

    def add(
        self,
        outputs: Mapping[str, np.ndarray],
        others: Mapping[str, np.ndarray],
        frame: PanopticFrame,
        other: PanopticFrame,
    ) -> None:
        for name, output in outputs.items():
            self._means[name]  # is listed, even if its shapes always differ
            if output.shape == others[name].shape and output.size:
                with np.errstate(invalid="ignore"):
                    difference = np.abs(output.astype(np.float64) - others[name])
                difference[output == others[name]] = 0  # infinite ones too
                self._largest[name] = max(self._largest.get(name, 0.0), float(difference.max()))
                self._means[name].append(float(difference.mean()))
        in_instance = (frame.instance_map > 0) | (other.instance_map > 0)
        self._pixels["all"] += frame.class_map.size
        self._pixels["equal_class"] += np.count_nonzero(frame.class_map == other.class_map)
        self._pixels["instance"] += np.count_nonzero(in_instance)
        self._pixels["equal_instance"] += np.count_nonzero((frame.instance_map == other.instance_map) & in_instance)

    def summary(self) -> dict[str, Any]:
        """What `bench` returns of it."""
        pixels = self._pixels
        return {
            "outputs": {
                name: {
                    "max_abs": self._largest.get(name),
                    "mean_abs": float(np.mean(means)) if means else None,
                    "frames_compared": len(means),
                }
                for name, means in self._means.items()
            },
            "equal_class_pixels": pixels["equal_class"] / pixels["all"],
            "equal_instance_pixels": pixels["equal_instance"] / pixels["instance"] if pixels["instance"] else None,
        }


def _made_up(size_hw: tuple[int, int]) -> list[CameraImage]:
    """Four images of smooth colours."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 12, 16, 3), np.uint8)
    images = (cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_CUBIC) for image in coarse)
    return [CameraImage.from_bgr(image) for image in images]


def _memory_mib(field: str) -> float:
    """Of this process: "VmRSS", what is resident now, or "VmHWM", the most that ever was (proc(5))."""
    # Not getrusage, which after an exec starts from what the parent process had.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status[field].split()[0]) / 1024, 1)


def _gpu_memory_mib() -> float:
    from perception_node.device.cuda import used_memory

    return used_memory() / 2**20


def _processor() -> str:
    names = re.findall(r"(?m)^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.machine()


# ---- for people ----


def describe(result: Mapping[str, Any]) -> str:
    """What bench returned, as lines of at most 80 characters or so."""
    size, machine, against = result["size"], result["machine"], result["against"]
    what = "made-up frames" if result["made_up"] else "frames"
    lines = [
        f"{result['model']} on {result['device']}: {result['frames']} {what} of {size[0]}x{size[1]}",
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} at the start",
        "",
        *_stage_lines(result["engine"], result["stages_ms"]),
        f"  all but the network / network: {result['around_network']:.2f}",
    ]
    fps = result["throughput_fps"]
    lines.append(f"  {fps['1']:.1f} frames/s one at a time")
    if fps["2"]:
        lines.append(f"  {fps['2']:.1f} frames/s with two in flight; median gain x {result['in_flight_gain']:.2f}")
    memory = result["memory_mib"]
    lines.append(f"  memory {memory['start']:.0f} MiB at the start, {memory['peak']:.0f} at the peak")
    if memory["peak_in_flight"]:
        lines[-1] += f", {memory['peak_in_flight']:.0f} with two in flight"
    if memory["gpu"] is not None:
        lines.append(f"  {memory['gpu']:.0f} MiB of the GPU's")
    if against:
        lines += ["", *_stage_lines(against["engine"], against["stages_ms"], against["time_ratio"])]
        lines.append(f"  {against['throughput_fps']:.1f} frames/s one at a time")
        lines += ["", f"{against['engine']} and {result['engine']} differ by"]
        for name, difference in against["outputs"].items():
            if difference["max_abs"] is None:
                lines.append(f"  {name:<12}shapes differ on every frame")
            else:
                lines.append(f"  {name:<12}max {difference['max_abs']:.2e}  mean {difference['mean_abs']:.2e}")
        instances = against["equal_instance_pixels"]
        shown = "no instances" if instances is None else f"{instances:.4%} of instance pixels"
        lines.append(f"  the same: {against['equal_class_pixels']:.4%} of class pixels, {shown}")
    return "\n".join(lines)


def _stage_lines(engine: str, stages: Mapping[str, Any], ratios: Mapping[str, float] | None = None) -> list[str]:
    lines = [f"{engine:<14}{'p50':>9} {'p95':>9} {'p99':>9}  ms" + ("   p50 / the first's" if ratios else "")]
    for stage, times in stages.items():
        line = f"  {stage:<12}" + " ".join(f"{value:9.2f}" for value in times.values())
        lines.append(line + (f"  {ratios[stage]:9.2f}" if ratios else ""))
    return lines
