"""The ground stage on the CPU: python benchmarks/ground.py [--threads 0]. Medians, beside the drivable area's."""

import statistics
import time
from collections.abc import Callable

import click
import numpy as np

from perception_node.camera import Camera
from perception_node.device import open_device
from perception_node.drivable import connected_surface
from perception_node.ground import Ground
from perception_node.mounting import Mounting
from perception_node.objects import grounded_objects
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import builtin_taxonomy

CAMVID = builtin_taxonomy("camvid")
SKY, ROAD, CAR = 0, 3, 8


def median_ms(work: Callable[[], object], runs: int) -> float:
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


@click.command()
@click.option("--threads", default=0, show_default=True, help="Of the CPU; 0 takes all cores.")
@click.option("--runs", default=50, show_default=True)
def main(threads: int, runs: int) -> None:
    for width, height, focal in ((480, 360, 400.0), (1280, 720, 1000.0)):
        k = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        camera = Camera(width, height, "plumb_bob", np.array([-0.1, 0.02, 0, 0, 0]), k, np.eye(3), np.zeros((3, 4)))
        start = time.perf_counter()
        ground = Ground(open_device("cpu", threads), camera, Mounting.from_angles(1.5, 0.07), CAMVID)
        tables_ms = (time.perf_counter() - start) * 1e3
        classes = np.full((height, width), ROAD, np.uint8)
        classes[: height * 2 // 5] = SKY
        classes[height * 2 // 5 : height * 3 // 5, width // 2 : width * 2 // 3] = CAR
        confidence = np.full(classes.shape, 255, np.uint8)
        frame = PanopticFrame.from_maps(classes, (classes == CAR).astype(np.uint16), confidence)
        connected = connected_surface(frame, CAMVID)
        sights = ground(frame, connected).sights
        look = median_ms(lambda g=ground, f=frame, c=connected: g(f, c), runs)
        stages = {
            "connected": median_ms(lambda f=frame: connected_surface(f, CAMVID), runs),
            "look": look,
            "grid": median_ms(lambda g=ground, f=frame, c=connected: g(f, c).grid, runs) - look,
            "free space": median_ms(lambda g=ground, f=frame, c=connected: g(f, c).free_space, runs) - look,
            "points": median_ms(lambda g=ground, f=frame, c=connected: g(f, c).points, runs) - look,
            "objects": median_ms(
                lambda g=ground, f=frame, s=sights: grounded_objects(g, f, s), runs
            ),
        }
        shown = "  ".join(f"{name} {milliseconds:.2f}" for name, milliseconds in stages.items())
        print(f"{width}x{height}: {shown} ms; tables, once for a calibration: {tables_ms:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
