"""`perception replay`: a bag in, a bag with everything the node would publish out; no ROS needed."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from perception_node.bags import BagWriter, typestore
from perception_node.errors import BadImage
from perception_node.messages import MessageFactory, camera_image
from perception_node.pipeline import Pipeline
from perception_node.sources import Source, check_apart
from perception_node.topics import IMAGE, LABEL_INFO, LABEL_INFO_TYPE, NODE, OUTPUTS, Scene


def replay(pipeline: Pipeline, source: Source, out: Path, overlay: bool = False) -> dict[str, Any]:
    """Runs the pipeline over every image of the footage.

    The bag that it writes has the node's topics with the headers of the images, logged at the images' times.

    Args:
        pipeline: what perceives.
        source: the footage.
        out: folder of the bag to write; replaced if it is a bag, and nothing else, already.
        overlay: write the overlay too, as large as the input.

    Returns:
        frames, refused (images that could not be used), missing (images that the footage should have but ends before),
        instances, stages_ms.

    Raises:
        SourceError: the footage cannot be read, or `out` is something else than a bag or overlaps the footage.
    """
    check_apart(source.path, out)
    taxonomy = pipeline.model.taxonomy
    make = MessageFactory.rosbags(typestore())
    frames = refused = instances = 0
    with BagWriter(out) as bag, tqdm(total=source.n_frames or None, desc="replay", unit="frame") as progress:
        for item in source:
            if item.topic != IMAGE:
                continue
            progress.update()
            try:
                with pipeline.timer("decode"):
                    image = camera_image(item.message)
            except BadImage as error:
                refused += 1
                progress.write(f"{item.name} refused: {error}", file=sys.stderr)
                continue
            header = item.message.header
            if frames == 0:
                info = make.label_info(header, taxonomy)
                bag.write(
                    f"/{NODE}/{LABEL_INFO}",
                    LABEL_INFO_TYPE,
                    item.time_ns,
                    typestore().serialize_cdr(info, LABEL_INFO_TYPE),
                )
            frame = pipeline(image)
            scene = Scene(header, image, frame, taxonomy, pipeline.timer)
            for name, output in OUTPUTS.items():
                if name != "overlay" or overlay:
                    message = output.fill(make, scene)
                    bag.write(
                        f"/{NODE}/{name}", output.type, item.time_ns, typestore().serialize_cdr(message, output.type)
                    )
            frames += 1
            instances += len(frame.instances)
    return {
        "frames": frames,
        "refused": refused,
        "missing": source.missing(frames + refused),
        "instances": instances,
        "stages_ms": pipeline.timer.percentiles(),
    }
