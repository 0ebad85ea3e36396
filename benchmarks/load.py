"""How the node holds up: python benchmarks/load.py [--seconds 600] [--rate 30] [--size 1280x720] [--mad]

A camera in a process of its own, the node in another, and this one, which subscribes to what the node makes. It tells
how old the outputs were on arrival, beside what they may be: two of the camera's periods, and what the stages take;
what became of the images; and how the node's memory grew after the first fifth of the time.

With --mad the node has two cameras, front and rear. First the front one is alone, then the rear one sends what it
should, and then goes mad (tests/mad_camera.py). The front one should not notice the difference between the last two.
"""

import itertools
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception_node.dds import use_image_profile
from perception_node.diagnostics import DROPPED
from perception_node.messages import MessageFactory
from perception_node.timing import percentiles
from perception_node.topics import ALL_OUTPUTS, DIAGNOSTICS, NODE

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from mad_camera import mad_camera_infos, mad_images, mad_pictures

TIMEOUT_S, SETTLING_S, SAMPLE_S = 120.0, 5.0, 1.0
QOS = QoSProfile(depth=5)


def camera(namespace: str, rate: float, size: tuple[int, int], is_compressed: bool, is_mad: bool) -> None:
    """A process that publishes until it is killed."""
    if is_mad:
        os.nice(19)  # what it takes to send so much is not to be the node's trouble
    rclpy.init()
    node, make = rclpy.create_node("camera", namespace=namespace), MessageFactory.rclpy()
    coarse = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    pixels, header = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), make.header(0, "camera")
    good = make.compressed_image(header, pixels, "bgr8") if is_compressed else make.image(header, pixels, "bgr8")
    messages, infos = itertools.repeat(good), itertools.repeat(None)
    if is_mad:
        messages, infos = mad_pictures(make) if is_compressed else mad_images(make), mad_camera_infos(make)
    kind, topic = (CompressedImage, "image/compressed") if is_compressed else (Image, "image")
    image, info = node.create_publisher(kind, topic, 1), node.create_publisher(CameraInfo, "camera_info", 1)
    begin, number = time.monotonic(), 0
    for message, camera_info in zip(messages, infos, strict=False):
        if camera_info is not None:
            info.publish(camera_info)
        else:
            message.header.stamp = node.get_clock().now().to_msg()
        image.publish(message)
        number = max(number + 1, int((time.monotonic() - begin) * rate))  # what is late is left out
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))


def frozen(topics: Sequence[str], seconds: float) -> None:
    """A process that subscribes and is then stopped, as in a debugger: it is there, and takes nothing."""
    rclpy.init()
    node = rclpy.create_node("frozen")
    for topic in topics:
        node.create_subscription(message_class(topic), topic, lambda _: None, QOS)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    os.kill(os.getpid(), signal.SIGSTOP)


def message_class(topic: str) -> Any:
    """Of one of the node's topics, by its whole name."""
    name, _, suffix = topic.partition(f"{NODE}/")[2].partition("/")
    output = ALL_OUTPUTS[name].compressed if suffix else ALL_OUTPUTS[name]
    return MessageFactory.rclpy().message_class(output.type)


@dataclass
class Watch:
    """What is seen of one camera's node.

    Attributes:
        ages_ms: of each output on arrival, since its stamp.
        stamps: of the images that something came of.
        values: of the newest diagnostics; with `level` and `message`.
    """

    ages_ms: list[float] = field(default_factory=list)
    stamps: set[int] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)

    def take(self, serialized: bytes) -> None:
        sec, nanosec = struct.unpack_from("<iI", serialized, 4)  # every output begins with its header's stamp
        stamp = sec * 10**9 + nanosec
        self.ages_ms.append((time.time_ns() - stamp) / 1e6)
        self.stamps.add(stamp)

    def counts(self) -> dict[str, int]:
        return {name: int(self.values[name]) for name in ("received", "processed", *DROPPED)}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds after so many frames: MiB of its own and of shared memory that it has touched."""

    seconds: float
    frames: int
    own: float
    shared: float
    files: int
    threads: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int, seconds: float, frames: int) -> "Sample":
        folder = Path(f"/proc/{pid}")  # proc(5)
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        own, shared = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssShmem"))
        files, threads = len(list((folder / "fd").iterdir())), int(status["Threads"])
        user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        cpu_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return cls(seconds, frames, own, shared, files, threads, cpu_s)


class Load:
    """Starts the other processes, and watches.

    Args:
        namespaces: of the cameras.
        parameters: of the nodes, as NAME:=VALUE.
    """

    def __init__(self, namespaces: Sequence[str], parameters: Sequence[str]):
        self.watches = {namespace: Watch() for namespace in namespaces}
        self.cameras: list[Any] = []
        self.node = rclpy.create_node("load")
        self.node.create_subscription(DiagnosticArray, DIAGNOSTICS, self._diagnosed, 10)
        words = []
        if len(namespaces) > 1:
            self.folder = tempfile.TemporaryDirectory()
            file = Path(self.folder.name) / "cameras.yaml"
            file.write_text(json.dumps({"cameras": [{"name": name, "image": "image"} for name in namespaces]}))
            words = ["--cameras", str(file)]
        words += ["--ros-args", "--log-level", "fatal", *(word for each in parameters for word in ("-p", each))]
        self.process = subprocess.Popen([sys.executable, "-m", "perception_node.main", *words])

    def _diagnosed(self, message: DiagnosticArray) -> None:
        (status,) = message.status
        watch = self.watches[status.name.partition(f"/{NODE}")[0].strip("/")]
        watch.values = {item.key: item.value for item in status.values}
        watch.values |= {"level": status.level[0], "message": status.message}

    def start(self, work: Callable[..., None], *arguments: Any) -> Any:
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
        process.start()
        self.cameras.append(process)
        return process

    def subscribe(self, namespace: str, topics: Sequence[str], times: int) -> None:
        for topic in [f"/{namespace}/{NODE}/{topic}".replace("//", "/") for topic in topics] * times:
            self.node.create_subscription(message_class(topic), topic, self.watches[namespace].take, QOS, raw=True)

    def spin(self, seconds: float, until: Callable[[], Any] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            if self.process.poll() is not None:
                raise SystemExit(f"the node ended with status {self.process.returncode}")
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def measure(self, namespace: str, seconds: float, rate: float) -> dict[str, float]:
        """Watches one camera's outputs and prints what came; its rate in Hz and ages in ms."""
        watch, begin, samples = self.watches[namespace], time.monotonic(), []
        self.spin(SETTLING_S)
        watch.ages_ms.clear()
        watch.stamps.clear()
        before = watch.counts()
        while (passed := time.monotonic() - begin) < seconds + SETTLING_S:
            samples.append(Sample.of(self.process.pid, passed, len(watch.stamps)))
            self.spin(SAMPLE_S)
        report(watch, before, samples, rate)
        hz = samples[-1].frames / (samples[-1].seconds - samples[0].seconds)
        return {"rate": hz, **percentiles(watch.ages_ms)}

    def close(self) -> None:
        for process in self.cameras:
            process.kill()
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def report(watch: Watch, before: dict[str, int], samples: Sequence[Sample], rate: float) -> None:
    values = watch.values
    became = {name: count - before[name] for name, count in watch.counts().items()}
    print("  images:", ", ".join(f"{count} {name}" for name, count in became.items() if count))
    stages = [name.removesuffix(" p50 ms") for name in values if name.endswith(" p50 ms")]
    stages = [name for name in stages if name not in ("wait", "age")]
    for percent, age in percentiles(watch.ages_ms).items():
        bound = 2e3 / rate + sum(float(values[f"{stage} {percent} ms"]) for stage in stages)
        print(f"  age {percent} {age:.0f} ms; two periods and the stages: {bound:.0f} ms")
    longest = ", ".join(f"{stage} {float(values[f'{stage} p50 ms']):.1f}" for stage in ("wait", *stages))
    print(f"  age at most {max(watch.ages_ms):.0f} ms; p50 of the stages, ms: {longest}")
    settled = samples[len(samples) // 5 :]
    first, last = settled[0], settled[-1]
    for name in ("own", "shared"):
        mib = [getattr(sample, name) for sample in settled]
        slope = np.polyfit([sample.frames / 1000 for sample in settled], mib, 1)[0]
        print(f"  {name} memory {min(mib):.1f} to {max(mib):.1f} MiB, {slope:+.2f} MiB in 1000 frames")
    print(f"  files {first.files} to {last.files}, threads {first.threads} to {last.threads}")
    frames, seconds = last.frames - first.frames, last.seconds - first.seconds
    cpu_ms = (last.cpu_s - first.cpu_s) * 1e3
    print(f"  {frames / seconds:.2f} Hz, {cpu_ms / max(1, frames):.0f} ms of processor time for a frame")
    print(f"  diagnostics: level {values['level']}, {values['message']}", flush=True)


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="To measure, each time.")
@click.option("--rate", default=30.0, show_default=True, help="Of the camera, Hz.")
@click.option("--size", default="1280x720", show_default=True)
@click.option("--compressed", is_flag=True, help="The cameras send JPEG.")
@click.option("--model", default="camvid_lite0", show_default=True)
@click.option("--topics", default="class_map,confidence,instances", show_default=True)
@click.option("--subscribers", default=1, show_default=True, help="Of each topic.")
@click.option("--frozen", "is_frozen", is_flag=True, help="One subscriber more, whose process is stopped.")
@click.option("--mad", is_flag=True, help="A second camera, which goes mad.")
@click.option("--mad-rate", default=500.0, show_default=True)
@click.option("--parameter", "parameters", multiple=True, help="Of the nodes, as max_rate:=10.0.")
def main(seconds, rate, size, compressed, model, topics, subscribers, is_frozen, mad, mad_rate, parameters) -> None:
    use_image_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    names, size_wh = topics.split(","), tuple(map(int, size.split("x")))
    first, *others = ("front", "rear") if mad else ("",)
    transport = "compressed" if compressed else "raw"
    words = [f"model:={json.dumps(model)}", f"image_transport:={transport}", *parameters]
    load = Load([first, *others], words)
    try:
        load.start(camera, first, rate, size_wh, compressed, False)
        load.subscribe(first, names, subscribers)
        watch = load.watches[first]
        load.spin(TIMEOUT_S, until=lambda: watch.stamps and watch.values)
        if is_frozen:
            load.start(frozen, [f"{NODE}/{name}" for name in names], SETTLING_S)
            load.spin(2 * SETTLING_S)
        about = f"{size} at {rate:g} Hz, {len(os.sched_getaffinity(0))} cores"
        print(f"{about}, load {os.getloadavg()[0]:.1f} before; {topics}")
        found = {"alone": load.measure(first, seconds, rate)}
        for other in others:
            load.subscribe(other, names, subscribers)
            for name, is_mad, hz in (("sane", False, rate), ("mad", True, mad_rate)):
                print(f"beside a {name} one:")
                process = load.start(camera, other, hz, size_wh, compressed, is_mad)
                found[name] = load.measure(first, seconds, rate)
                process.kill()
                print(f"  the other: {load.watches[other].counts()}; {load.watches[other].values['message']}")
            for name, base in (("sane", "alone"), ("mad", "sane")):
                ratios = (f"{key} {found[name][key] / found[base][key]:.2f}" for key in found[name])
                print(f"beside the {name} one / {'beside the ' * (base != 'alone')}{base}: {', '.join(ratios)}")
    finally:
        load.close()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
