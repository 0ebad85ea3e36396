"""The preprocessing kernel beside OpenCV and numpy: python benchmarks/preprocess.py [--device cpu] [--threads 0]

Both make the network's input of a camera's bytes: decode, scale, normalise. Medians.
"""

import statistics
import time
from collections.abc import Callable

import click
import cv2
import numpy as np

from perception_node.device import open_device
from perception_node.image import ENCODINGS, CameraImage
from perception_node.model import InputSpec
from perception_node.preprocess import Preprocess

SIZES = (((360, 480), (360, 480)), ((540, 960), (360, 480)), ((1080, 1920), (512, 1024)), ((360, 480), (720, 960)))
"""Height and width of the image, and of the network's input."""


def with_opencv(image: CameraImage, spec: InputSpec) -> np.ndarray:
    pixels = image.bgr()
    height, width = spec.size_hw
    if pixels.shape[:2] != spec.size_hw:
        shrinks = height < image.height
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    tensor = np.empty((1, 3, height, width), np.float32)
    for plane, channel, mean, std in zip(tensor[0], (2, 1, 0), spec.mean, spec.std, strict=True):
        np.multiply(pixels[..., channel], np.float32(1 / std), out=plane)
        plane -= np.float32(mean / std)
    return tensor


def median_ms(work: Callable[[], object], runs: int) -> float:
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(times)


@click.command()
@click.option("--device", "name", default="cpu", show_default=True)
@click.option("--threads", default=0, show_default=True, help="Of the CPU; 0 takes all cores.")
@click.option("--runs", default=100, show_default=True)
def main(name: str, threads: int, runs: int) -> None:
    device = open_device(name, threads)
    cv2.setNumThreads(threads or -1)
    rng = np.random.default_rng(0)
    print(f"{'image':<10}{'input':<10}{'encoding':<13}{'kernel':>10}{'OpenCV':>10}")
    for (height, width), size_hw in SIZES:
        spec = InputSpec("image", size_hw, "rgb", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "stretch")
        for encoding in ("bgr8", "mono8", "uyvy", "bayer_rggb8", "bayer_rggb16"):
            step = width * ENCODINGS[encoding].channels * ENCODINGS[encoding].depth
            data = rng.integers(0, 256, height * step, dtype=np.uint8)
            image = CameraImage(data, height, width, step, encoding)
            preprocess = Preprocess(device, spec)
            tensor = device.empty((1, 3, *size_hw), np.float32)

            def with_kernel(preprocess=preprocess, image=image, tensor=tensor):
                preprocess(image, tensor)
                if name != "cpu":
                    device.download(device.view(tensor, 0, 1, np.uint8))  # waits

            # In turns: what else runs on the machine slows both.
            ours = median_ms(with_kernel, runs)
            theirs = median_ms(lambda image=image, spec=spec: with_opencv(image, spec), runs)
            sizes = f"{f'{width}x{height}':<10}{f'{size_hw[1]}x{size_hw[0]}':<10}"
            print(f"{sizes}{encoding:<13}{ours:7.2f} ms{theirs:7.2f} ms", flush=True)


if __name__ == "__main__":
    main()
