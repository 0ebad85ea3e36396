"""`perception segment`: footage in, COCO panoptic files, class maps and overlays out."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from perception_node.coco import CocoPanopticWriter, save_png, write_json
from perception_node.drivable import drivable_area
from perception_node.labels import read_class_ids
from perception_node.metrics import (
    VOID_INSTANCE,
    Evaluation,
    FrameLabels,
    PanopticMap,
    instances_from_classes,
    measure,
)
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.pipeline import Pipeline
from perception_node.sources import Source, check_outside
from perception_node.visualize import draw_overlay


def segment(pipeline: Pipeline, source: Source, out: Path, truth: Path | None = None) -> dict[str, Any]:
    """Segments every frame of the footage.

    Writes panoptic.json and panoptic/NAME.png (COCO panoptic), class_ids/NAME.png (uint8, 255 unlabelled),
    overlay/NAME.jpg and summary.json; with a truth also truth.json and truth/NAME.png, so that panopticapi can
    be run on the two.

    Args:
        pipeline: what segments.
        source: the footage.
        out: folder, made if missing.
        truth: folder of labels, NAME.png with a class id per pixel. Labels say nothing of instances: the 8-connected
            components of thing classes are taken for them, those under 50 pixels as void.

    Returns:
        What summary.json holds: frames, missing (images that the footage should have but ends before), instances,
        stages_ms and, with a truth, metrics.

    Raises:
        SourceError: a frame or its label cannot be read, they differ in size, or they lie where the results go.
    """
    for folder in ("panoptic", "class_ids", "overlay", *(["truth"] if truth else [])):
        for read in (source.path, *([truth] if truth else [])):
            check_outside(read, out / folder)
    for name in ("panoptic.json", "truth.json", "summary.json"):  # an older run's would pass for this one's
        (out / name).unlink(missing_ok=True)
    taxonomy = pipeline.model.taxonomy
    for folder in ("class_ids", "overlay"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    panoptic = CocoPanopticWriter(out, "panoptic", taxonomy)
    truth_writer = CocoPanopticWriter(out, "truth", taxonomy) if truth else None
    evaluation = Evaluation(taxonomy)
    instances = frames = 0
    for name, image in tqdm(source.frames(), total=source.n_frames or None, desc="segment", unit="frame"):
        frame = pipeline(image)
        panoptic.add(name, source.file_name(name), frame)
        save_png(out / "class_ids" / f"{name}.png", frame.class_map)
        overlay = draw_overlay(image.bgr(), frame, drivable_area(frame, taxonomy), taxonomy)
        if not cv2.imwrite(str(out / "overlay" / f"{name}.jpg"), overlay):
            raise OSError(f"{out / 'overlay' / name}.jpg: cannot be written")
        if truth_writer:
            labels = read_class_ids(truth / f"{name}.png", taxonomy, frame.class_map.shape)
            instance_map = instances_from_classes(labels, taxonomy.thing_ids)
            truth_writer.add(name, source.file_name(name), _without_void(labels, instance_map))
            known = FrameLabels(PanopticMap.from_maps(labels, instance_map, taxonomy))
            seen = FrameLabels(PanopticMap.from_maps(frame.class_map, frame.instance_map, taxonomy), frame.confidence)
            evaluation.add(measure(known, seen, taxonomy))
        frames += 1
        instances += len(frame.instances)
    panoptic.close()
    summary = {
        "frames": frames,
        "missing": source.missing(frames),
        "instances": instances,
        "stages_ms": pipeline.timer.percentiles(),
    }
    if truth_writer:
        truth_writer.close()
        summary["metrics"] = evaluation.summary()
    write_json(out / "summary.json", summary)
    return summary


def _without_void(labels: np.ndarray, instance_map: np.ndarray) -> PanopticFrame:
    """For panopticapi: small components are unlabelled, that is, void."""
    is_void = instance_map == VOID_INSTANCE
    class_map = np.where(is_void, np.uint8(UNLABELLED), labels)
    return PanopticFrame.from_maps(class_map, np.where(is_void, 0, instance_map), np.full_like(labels, 255))
