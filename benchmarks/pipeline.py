"""What stands around the network, against the network: python benchmarks/pipeline.py FOOTAGE [--size 480x360]

Stage times of the node's work on one frame, without ROS: preprocess, network, fusion, drivable area, and filling and
serializing all messages but the overlay. The last line is the ratio of everything else to the network, medians of one
run.
"""

from itertools import cycle, islice
from pathlib import Path

import click
import cv2

from perception_node.bags import typestore
from perception_node.drivable import drivable_area
from perception_node.messages import MessageFactory, camera_image
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.pipeline import Pipeline
from perception_node.sources import open_source
from perception_node.topics import OUTPUTS, Scene


@click.command()
@click.argument("footage", type=click.Path(path_type=Path))
@click.option("--size", default="480x360", show_default=True, help="WIDTHxHEIGHT that the frames are scaled to.")
@click.option("--runs", default=200, show_default=True)
@click.option("--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--threads", default=0, show_default=True)
def main(footage: Path, size: str, runs: int, model: str, threads: int) -> None:
    width, height = map(int, size.split("x"))
    make = MessageFactory.rosbags(typestore())
    header = make.header(0, "camera")
    images = [cv2.resize(image.bgr(), (width, height)) for _, image in islice(open_source(footage).frames(), 50)]
    messages = [make.image(header, image, "bgr8") for image in images]
    pipeline = Pipeline(load_model(model), threads=threads)
    pipeline.warm_up()
    timer, taxonomy = pipeline.timer, pipeline.model.taxonomy
    for message in islice(cycle(messages), runs):
        image = camera_image(message)
        frame = pipeline(image)
        with timer("drivable"):
            scene = Scene(header, image, frame, drivable_area(frame, taxonomy), taxonomy)
        with timer("messages"):
            for name, output in OUTPUTS.items():
                if name != "overlay":
                    typestore().serialize_cdr(output.fill(make, scene), output.type)
    medians = {stage: times["p50"] for stage, times in timer.percentiles().items()}
    for stage, median in medians.items():
        print(f"{stage:<12}{median:8.2f} ms")
    network = medians.pop("network")
    print(f"around the network / network: {sum(medians.values()) / network:.2f}")


if __name__ == "__main__":
    main()
