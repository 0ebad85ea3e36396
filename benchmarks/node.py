"""What the node adds to what its pipeline costs: python benchmarks/node.py [--size 1280x720] [--frames 100]

The node runs in a process of its own; this one sends it an image over DDS, waits for the answers and sends the next.
For each set of topics: the median from sending an image until its last answer has come, and the processor time that the
node took for a frame. Beside it that of the pipeline alone, on the same image in this process: processor time is much
the same on a loaded machine. What is left is transport, the topics' contents, messages, threads and Python.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import cv2
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from perception_node.dds import use_image_profile
from perception_node.messages import MessageFactory
from perception_node.model import load_model
from perception_node.pipeline import Pipeline
from perception_node.topics import NODE, OUTPUTS

SUBSCRIPTIONS = (("instances",), ("class_map", "confidence", "instances"), tuple(n for n in OUTPUTS if n != "overlay"))
TIMEOUT_S = 60.0


class Bench:
    """A camera, and who wants the answers."""

    def __init__(self, pixels: np.ndarray):
        self.node, self.make = rclpy.create_node("bench"), MessageFactory.rclpy()
        self.pixels = pixels
        self.image = self.node.create_publisher(Image, "image", QoSProfile(depth=1))
        self.answers: dict[str, int] = {}

    def spin_until(self, condition) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > end:
                raise SystemExit("the node does not answer")
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def run(self, topics: tuple[str, ...], frames: int, pid: int) -> tuple[list[float], float]:
        """Milliseconds from sending each image to its last answer; processor time of the node for one of them."""
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        subscriptions = [
            self.node.create_subscription(
                self.make.message_class(OUTPUTS[topic].type),
                f"{NODE}/{topic}",
                lambda _, topic=topic: self.answers.update({topic: self.answers.get(topic, 0) + 1}),
                qos,
                raw=True,  # what receiving costs here is not the node's
            )
            for topic in topics
        ]
        self.spin_until(
            lambda: self.image.get_subscription_count() and all(s.get_publisher_count() for s in subscriptions)
        )
        self.spin_until(lambda: self._ask(topics, timeout_s=2.0) is not None)  # until all have found each other
        before = cpu_ms(pid)
        times = [self._ask(topics) for _ in range(frames)]
        taken = (cpu_ms(pid) - before) / frames
        for subscription in subscriptions:
            self.node.destroy_subscription(subscription)
        return [time for time in times if time is not None], taken

    def _ask(self, topics: tuple[str, ...], timeout_s: float = 10.0) -> float | None:
        message = self.make.image(self.make.header(time.time_ns(), "camera"), self.pixels, "bgr8")
        self.answers.clear()
        start = time.perf_counter()
        self.image.publish(message)
        while set(self.answers) < set(topics):
            if time.perf_counter() - start > timeout_s:
                return None
            rclpy.spin_once(self.node, timeout_sec=0.1)
        return (time.perf_counter() - start) * 1e3


def cpu_ms(pid: int) -> float:
    """Processor time that a process has taken (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def pipeline_cpu_ms(model: str, device: str, pixels: np.ndarray, frames: int) -> float:
    pipeline = Pipeline(load_model(model), device)
    pipeline.warm_up()
    pipeline(pixels)
    start = time.process_time()
    for _ in range(frames):
        pipeline(pixels)
    return (time.process_time() - start) * 1e3 / frames


@click.command()
@click.option("--size", default="1280x720", show_default=True)
@click.option("--frames", default=100, show_default=True)
@click.option("--model", default="camvid_lite0", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--topics", multiple=True, help="What is subscribed to, e.g. class_map,instances; instead of several sets."
)
def main(size: str, frames: int, model: str, device: str, topics: tuple[str, ...]) -> None:
    width, height = map(int, size.split("x"))
    coarse = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    use_image_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    alone_ms = pipeline_cpu_ms(model, device, pixels, frames)
    words = ["-p", f"model:={json.dumps(model)}", "-p", f"device:={device}"]
    node = subprocess.Popen([sys.executable, "-m", "perception_node.main", "--ros-args", *words])
    try:
        rclpy.init()
        bench = Bench(pixels)
        print(
            f"{size}, {frames} frames, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start"
        )
        print(f"the pipeline alone: {alone_ms:.1f} ms of processor time a frame")
        for subscribed in [tuple(names.split(",")) for names in topics] or SUBSCRIPTIONS:
            times, taken = bench.run(subscribed, frames, node.pid)
            total, more = statistics.median(times), taken - alone_ms
            print(f"{total:7.1f} ms; processor {taken:.1f}, {more:+.1f}: {', '.join(subscribed)}")
    finally:
        node.send_signal(signal.SIGINT)
        node.wait()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
