"""Images of several cameras at once beside one after the other: python benchmarks/batch.py MODEL [--max-batch 4]

MODEL takes any number of images: perception export --dynamic-batch. Both ways take turns, so that what else runs on the
machine slows both. Of each: the median time for all cameras' images and, on the CPU, the processor time, which is much
the same on a loaded machine; and how long the first camera waits for its frame.
"""

import statistics
import time
from collections import defaultdict

import click
import cv2
import numpy as np

from perception_node.engine import DEFAULT_PLAN, PlanOptions
from perception_node.image import CameraImage
from perception_node.model import load_model
from perception_node.pipeline import Pipeline, perceive_together


@click.command()
@click.argument("model")
@click.option("--max-batch", default=4, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--engine", default="auto", show_default=True)
@click.option("--threads", default=0, show_default=True, help="Of the CPU; 0 takes all cores.")
@click.option("--precision", default=DEFAULT_PLAN.precision, show_default=True, help="Of the TensorRT plan.")
@click.option("--runs", default=50, show_default=True)
def main(model: str, max_batch: int, device: str, engine: str, threads: int, precision: str, runs: int) -> None:
    loaded = load_model(model)
    first = Pipeline(loaded, device, threads, engine, PlanOptions(precision), max_batch)
    pipelines = [first, *(first.another() for _ in range(max_batch - 1))]
    coarse = np.random.default_rng(0).integers(0, 256, (max_batch, 12, 16, 3), np.uint8)
    sizes = loaded.input.size_hw[::-1]
    pictures = [CameraImage.from_bgr(cv2.resize(image, sizes, interpolation=cv2.INTER_CUBIC)) for image in coarse]
    print(f"{'images':<8}{'one after the other':<44}{'at once':<44}")
    for count in range(1, max_batch + 1):
        images = dict(zip(pipelines[:count], pictures, strict=False))

        def in_turn(images=images):
            return ((pipeline, pipeline(image)) for pipeline, image in images.items())

        def at_once(images=images):
            return perceive_together(images)

        times = defaultdict(list)
        for run in range(runs + 2):
            for perceive in (in_turn, at_once):
                cpu, start, ends = time.process_time(), time.perf_counter(), []
                for _ in perceive():
                    ends.append(time.perf_counter())
                if run > 1:  # the first are to warm up and to record
                    times[perceive].append((ends[-1] - start, time.process_time() - cpu, ends[0] - start))
        shown = []
        for perceive in (in_turn, at_once):
            total, cpu, one = (1e3 * statistics.median(each) for each in zip(*times[perceive], strict=True))
            shown.append(f"{total:.1f} ms, cpu {cpu:.1f}, the first {one:.1f}")
        print(f"{count:<8}{shown[0]:<44}{shown[1]:<44}", flush=True)


if __name__ == "__main__":
    main()
