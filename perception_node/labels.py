"""Labels in files: folders of class ids (CamVid) and Cityscapes' gtFine. COCO panoptic files are read in coco.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from perception_node.errors import SourceError
from perception_node.metrics import VOID, FrameLabels, PanopticMap, SegmentLabel
from perception_node.metrics.panoptic_map import present
from perception_node.panoptic import UNLABELLED
from perception_node.sources import picture_or_none
from perception_node.taxonomy import Category, Taxonomy, builtin_taxonomy

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ids in Cityscapes' files of the 19 classes that are measured, in the order of the taxonomy `cityscapes`."""

_CITYSCAPES_SUFFIXES = ("_leftImg8bit", "_gtFine_instanceIds", "_gtFine_panoptic", "_gtFine_labelIds", "_gtFine")


class Readable(Protocol):
    """One frame's labels, read when they are wanted; small, so that another process can be sent it.

    Attributes:
        where: for messages.
    """

    @property
    def where(self) -> str: ...

    def read(self) -> FrameLabels:
        """Raises SourceError, which names the file, the value and the remedy."""
        ...


@dataclass(frozen=True)
class LabelSet:
    """The labels of several images, truth or predicted.

    Attributes:
        path: where they lie.
        taxonomy: their classes.
        class_ids: category id in the files -> class id in the taxonomy.
        frames: by the image's name, in order.
        image_files: name -> the image's file name, where the labels tell it.
        videos: name -> the sequence that the image is of; empty where nothing is told of sequences.
        note: what a reader of the measures must know of the labels.
    """

    path: Path
    taxonomy: Taxonomy
    class_ids: Mapping[int, int]
    frames: Mapping[str, Readable]
    image_files: Mapping[str, str] = field(default_factory=dict)
    videos: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def image_name(stem: str) -> str:
    """The name that an image's labels share with it: Cityscapes says after it what kind of file it is."""
    for suffix in _CITYSCAPES_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def known_category(class_id: int, name: str, taxonomy: Taxonomy | None = None, **known: object) -> Category:
    """A class of which a data set tells only some things, `known`: the rest is that of the class of the same name in
    `taxonomy`, or in one that comes with the package; what none has is stuff, not drivable, and of some colour."""
    category = next((category for category in taxonomy or () if category.name == name), _known_categories().get(name))
    if category is None:
        hue = np.uint8([[[class_id * 67 % 180, 160, 220]]])
        category = Category(class_id, name, tuple(cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()))
    return replace(category, id=class_id, **known)


@cache
def _known_categories() -> dict[str, Category]:
    taxonomies = map(builtin_taxonomy, ("coco", "cityscapes", "camvid"))
    return {category.name: category for taxonomy in taxonomies for category in taxonomy}


def read_png(path: Path, remedy: str) -> np.ndarray:
    """A picture as it is in the file. Raises SourceError if it is missing or damaged."""
    if not path.is_file():
        raise SourceError(f"{path}: missing or not an image; {remedy}")
    picture = picture_or_none(cv2.imread, str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise SourceError(f"{path}: missing or not an image, or cut off; {remedy}")
    return picture


def read_class_ids(path: Path, taxonomy: Taxonomy, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """uint8 (H, W) class ids of a label picture; values that are no class are UNLABELLED.

    Raises:
        SourceError: it cannot be read, or is not one uint8 a pixel of the shape (H, W).
    """
    labels = read_png(path, "every frame needs its label")
    if labels.dtype != np.uint8 or labels.ndim != 2 or (shape is not None and labels.shape != shape):
        expected = "" if shape is None else f" {shape}"
        raise SourceError(f"{path}: is {labels.dtype} {labels.shape}; expected uint8{expected}, one class id per pixel")
    return np.where(labels < len(taxonomy), labels, np.uint8(UNLABELLED))


@dataclass(frozen=True, slots=True)
class ClassPng:
    """A picture with a class id per pixel."""

    path: Path
    taxonomy: Taxonomy

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> FrameLabels:
        return FrameLabels(PanopticMap.from_classes(read_class_ids(self.path, self.taxonomy), self.taxonomy))


@dataclass(frozen=True, slots=True)
class CityscapesPng:
    """A *_gtFine_instanceIds.png: id, or 1000 id + n for instance n; things without an n are a crowd."""

    path: Path
    taxonomy: Taxonomy

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> FrameLabels:
        ids = read_png(self.path, "get the file anew")
        if ids.ndim != 2 or ids.dtype not in (np.uint8, np.uint16):
            raise SourceError(f"{self.path}: is {ids.dtype} {ids.shape}; expected uint16 (H, W), ids")
        ids = ids.astype(np.int32)
        class_of = np.full(66, UNLABELLED, np.uint8)  # ids are uint16, so classes are at most 65
        class_of[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
        class_map = class_of[np.where(ids < 1000, np.minimum(ids, 65), ids // 1000)]
        ids[class_map == UNLABELLED] = VOID
        segments = {}
        for identity in present(ids):
            class_id = int(class_of[identity if identity < 1000 else identity // 1000])
            segments[identity] = SegmentLabel(class_id, crowd=identity < 1000 and self.taxonomy[class_id].thing)
        return FrameLabels(PanopticMap(ids, class_map, segments))


def open_label_folder(path: Path, taxonomy: Taxonomy | None) -> LabelSet:
    """A folder of NAME.png with a class id per pixel, or Cityscapes' gtFine (or a part of it).

    Args:
        path: the folder.
        taxonomy: what the class ids mean; Cityscapes' have a meaning of their own.

    Raises:
        SourceError: it holds no labels, or their classes are not known.
    """
    instance_ids = {image_name(file.stem): file for file in sorted(path.rglob("*_instanceIds.png"))}
    if instance_ids:
        cityscapes = builtin_taxonomy("cityscapes")
        class_ids = {identity: class_id for class_id, identity in enumerate(CITYSCAPES_IDS)}
        frames = {name: CityscapesPng(file, cityscapes) for name, file in instance_ids.items()}
        return LabelSet(path, cityscapes, class_ids, frames)
    files = sorted(path.glob("*.png"))
    if not files:
        raise SourceError(f"{path}: holds no NAME.png and no *_instanceIds.png; expected: a folder of labels")
    if taxonomy is None:
        raise SourceError(f"{path}: what its class ids mean is not known; name the classes with --taxonomy")
    class_ids = {category.id: category.id for category in taxonomy}
    frames = {image_name(file.stem): ClassPng(file, taxonomy) for file in files}
    note = "instances are 8-connected components of thing classes, those under 50 pixels void"
    return LabelSet(path, taxonomy, class_ids, frames, note=note if taxonomy.thing_ids else "")
