"""Frames that are known and predicted: what is matched with what; of files here, of bags in bags.py."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception_node.coco import open_coco_panoptic
from perception_node.errors import SourceError
from perception_node.labels import LabelSet, Readable, image_name, open_label_folder
from perception_node.sources import IMAGE_SUFFIXES, picture_or_none
from perception_node.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class FramePair:
    """One frame.

    Attributes:
        name: of the image, or its stamp.
        sequence: which sequence it is of.
        truth, predicted: its labels.
        image: uint8 (H, W, 3) BGR; None if it is not known or cannot be read.
    """

    name: str
    sequence: str
    truth: Readable
    predicted: Readable
    image: Callable[[], np.ndarray | None]


@dataclass(frozen=True, slots=True)
class Pairs:
    """All frames that are both known and predicted.

    Attributes:
        taxonomy: of both.
        frames: makes them, in order.
        n_frames: how many there are.
        missing, unused: how many were not predicted, and have no truth.
        is_video: they are sequences, and their ids last.
        notes: what a reader of the figures must know.
    """

    taxonomy: Taxonomy
    frames: Callable[[], Iterator[FramePair]]
    n_frames: int
    missing: int
    unused: int
    is_video: bool
    notes: list[str]


def pair_files(
    predicted_path: Path,
    truth_path: Path,
    taxonomy: Taxonomy | None,
    images: Path | None,
    video: bool,
    allow_missing: bool,
) -> Pairs:
    """Of COCO panoptic JSON files and folders of labels, by the images' names.

    Args:
        predicted_path, truth_path: the files or folders.
        taxonomy, images, video, allow_missing: see evaluate.

    Raises:
        SourceError: naming what is wrong and the remedy.
    """
    predicted, truth = _open(predicted_path, truth_path, taxonomy)
    names = [name for name in truth.frames if name in predicted.frames]
    missing = [name for name in truth.frames if name not in predicted.frames]
    if not names:
        raise SourceError(
            f"{predicted_path}: none of its images ({next(iter(predicted.frames), 'it has none')}, ...) is one of "
            f"{truth_path} ({next(iter(truth.frames), 'it has none')}, ...); the names must be the same"
        )
    if missing and not allow_missing:
        raise SourceError(
            f"{predicted_path}: has no prediction of {missing[0]} ({len(missing)} of {len(truth.frames)} such); "
            "predict all images, or measure the others alone with --partial"
        )
    first = {video: index for index, video in reversed(list(enumerate(truth.videos.values())))}
    names.sort(key=lambda name: first.get(truth.videos.get(name, ""), -1))  # stable: a video's frames stay in order
    pictures = _pictures(images) if images else {}

    def frames() -> Iterator[FramePair]:
        for name in names:
            file = pictures.get(image_name(Path(truth.image_files.get(name, name)).stem), pictures.get(name))
            image = partial(picture_or_none, cv2.imread, str(file)) if file else _no_image
            yield FramePair(name, truth.videos.get(name, ""), truth.frames[name], predicted.frames[name], image)

    notes = [f"{labels.path}: {labels.note}" for labels in (truth, predicted) if labels.note]
    return Pairs(
        truth.taxonomy,
        frames,
        len(names),
        len(missing),
        len(predicted.frames) - len(names),
        video or bool(truth.videos),
        notes,
    )


def _open(predicted_path: Path, truth_path: Path, taxonomy: Taxonomy | None) -> tuple[LabelSet, LabelSet]:
    """What the class ids of a folder mean, the other side says if `taxonomy` does not."""
    if truth_path.is_file():
        truth = open_coco_panoptic(truth_path, known=taxonomy)
    else:
        if taxonomy is None and predicted_path.is_file():
            classes = open_coco_panoptic(predicted_path)
            if all(identity == class_id for identity, class_id in classes.class_ids.items()):
                taxonomy = classes.taxonomy
        truth = open_label_folder(truth_path, taxonomy)
    if predicted_path.is_dir():
        return open_label_folder(predicted_path, truth.taxonomy), truth
    return open_coco_panoptic(predicted_path, truth), truth


def _pictures(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: is no folder; expected: the images of the labels")
    return {image_name(p.stem): p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}


def _no_image() -> None:
    return None
