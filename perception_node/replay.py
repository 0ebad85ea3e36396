"""`perception replay`: a bag in, a bag with everything the node would publish out; no ROS needed."""

import contextlib
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from perception_node.bags import BagWriter, typestore
from perception_node.calibration_input import CalibrationOptions
from perception_node.errors import BadImage, SourceError
from perception_node.ground import GridOptions
from perception_node.messages import MessageFactory, camera_image
from perception_node.perceiver import Perceiver
from perception_node.pipeline import Pipeline
from perception_node.sources import Source, check_apart
from perception_node.stamps import irregularities, usual_step_ns
from perception_node.topics import ALL_OUTPUTS, IMAGE, LABEL_INFO, LABEL_INFO_TYPE, NODE


def replay(
    pipeline: Pipeline,
    source: Source,
    out: Path,
    overlay: bool = False,
    progress_bar: bool = True,
    tracking: bool = True,
    calibration: CalibrationOptions | None = None,
    grid: GridOptions | None = None,
) -> dict[str, Any]:
    """Runs the pipeline over every image of the footage.

    The bag that it writes has the node's topics with the headers of the images, logged at the images' times.

    Args:
        pipeline: what perceives.
        source: the footage.
        out: folder of the bag to write; replaced if it is a bag, and nothing else, already.
        overlay: write the overlay too, as large as the input.
        progress_bar: show one on stderr.
        tracking: give objects ids that last.
        calibration: where to look for it; without it in the bag: camera_info, /tf_static and /tf.
        grid: what of the ground is looked at.

    Returns:
        frames, refused (images that could not be used), missing (images that the footage should have but ends before),
        warnings (what is odd about the images and their stamps, in words), recorded_hz (images a second by their
        stamps, or None), instances, in_metres (images with topics in metres), no_metres (why there were others, or
        None), stages_ms; its "total" is all that a node does with an image, but for sending the answers.

    Raises:
        SourceError: the footage cannot be read or has no image that can be used, or `out` is something else than a bag
            or overlaps the footage.
    """
    check_apart(source.path, out)
    taxonomy = pipeline.model.taxonomy
    make = MessageFactory.rosbags(typestore())
    perceive = Perceiver(pipeline, source, tracking, calibration, grid)
    frames = instances = in_metres = 0
    refused: list[str] = []
    names: list[str] = []
    stamps_ns: list[int] = []
    with (
        BagWriter(out) as bag,
        tqdm(total=source.n_frames or None, desc="replay", unit="frame", disable=not progress_bar) as progress,
    ):
        for item in source:
            if item.topic != IMAGE:
                with contextlib.suppress(BadImage):  # a damaged one: another comes
                    perceive.take(item)
                continue
            progress.update()
            start = time.perf_counter()
            try:
                with pipeline.timer("decode"):
                    image = camera_image(item.message)
            except BadImage as error:
                refused.append(f"{item.name}: {error}")
                continue
            header = item.message.header
            names.append(item.name)
            stamps_ns.append(header.stamp.sec * 10**9 + header.stamp.nanosec)
            if frames == 0:
                info = make.label_info(header, taxonomy)
                bag.write(
                    f"/{NODE}/{LABEL_INFO}",
                    LABEL_INFO_TYPE,
                    item.time_ns,
                    typestore().serialize_cdr(info, LABEL_INFO_TYPE),
                )
            scene = perceive(header, image)
            messages = {
                name: output.fill(make, scene) for name, output in ALL_OUTPUTS.items() if name != "overlay" or overlay
            }
            pipeline.timer.add("total", (time.perf_counter() - start) * 1e3)
            for name, message in messages.items():
                if message is not None:
                    cdr = typestore().serialize_cdr(message, ALL_OUTPUTS[name].type)
                    bag.write(f"/{NODE}/{name}", ALL_OUTPUTS[name].type, item.time_ns, cdr)
            in_metres += perceive.in_metres(scene)
            frames += 1
            instances += len(scene.frame.instances)
        if not frames:
            raise SourceError(
                f"{source.path}: none of its {len(refused)} images can be used: {refused[0]}"
                if refused
                else f"{source.path}: holds no image; record it anew"
            )
    warnings = irregularities(names, stamps_ns)
    if refused:
        warnings.insert(0, f"images that could not be used: {len(refused)}, at first {refused[0]}")
    return {
        "frames": frames,
        "refused": len(refused),
        "missing": source.missing(frames + len(refused)),
        "warnings": warnings,
        "recorded_hz": round(1e9 / step_ns, 3) if (step_ns := usual_step_ns(stamps_ns)) else None,
        "instances": instances,
        "in_metres": in_metres,
        "no_metres": str(perceive.no_metres) if perceive.no_metres else None,
        "stages_ms": pipeline.timer.percentiles(),
    }
