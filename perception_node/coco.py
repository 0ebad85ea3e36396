"""COCO panoptic format (cocodataset.org): NAME.json with the segments, NAME/*.png with their ids.

A pixel's segment id is R + 256 G + 65536 B; 0 is unlabelled. Instances keep their id of the instance map, 1..65535;
stuff class c is 65536 + c.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_node.errors import SourceError, one_line
from perception_node.labels import LabelSet, image_name, known_category, read_png
from perception_node.metrics import VOID, FrameLabels, PanopticMap, SegmentLabel
from perception_node.metrics.panoptic_map import runs
from perception_node.panoptic import UNLABELLED, PanopticFrame, Segment
from perception_node.taxonomy import Taxonomy

STUFF_IDS = 65536


class CocoPanopticWriter:
    """Writes frames as FOLDER/NAME.json and FOLDER/NAME/*.png; the JSON appears when all frames are written.

    Args:
        folder: made if missing.
        name: of the JSON file and of the pictures' folder.
        taxonomy: becomes the categories, with the class ids as they are.
    """

    def __init__(self, folder: Path, name: str, taxonomy: Taxonomy):
        self._pictures, self._json = folder / name, folder / f"{name}.json"
        self._pictures.mkdir(parents=True, exist_ok=True)
        self._taxonomy = taxonomy
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def add(self, name: str, file_name: str, frame: PanopticFrame) -> None:
        """Writes one frame's picture. `name` becomes the image's id, `file_name` says which image it was."""
        height, width = frame.class_map.shape
        save_png(self._pictures / f"{name}.png", _id_picture_bgr(frame))
        self._images.append({"id": name, "file_name": file_name, "width": width, "height": height})
        self._annotations.append(
            {
                "image_id": name,
                "file_name": f"{name}.png",
                "segments_info": [_segment_info(segment) for segment in frame.segments],
            }
        )

    def close(self) -> None:
        """Writes the JSON, whole or not at all."""
        categories = [
            {"id": category.id, "name": category.name, "isthing": int(category.thing), "color": list(category.color)}
            for category in self._taxonomy
        ]
        write_json(self._json, {"images": self._images, "annotations": self._annotations, "categories": categories})


def write_json(path: Path, content: object) -> None:
    """Writes beside, then renames: the file is whole or not there."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Raises OSError where OpenCV only returns False."""
    if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise OSError(f"{path}: cannot be written")


def _id_picture_bgr(frame: PanopticFrame) -> np.ndarray:
    ids = frame.instance_map
    is_stuff = (ids == 0) & (frame.class_map != UNLABELLED)
    low = np.where(is_stuff, frame.class_map, ids & 0xFF)
    return np.dstack([is_stuff, ids >> 8, low]).astype(np.uint8)


def _segment_info(segment: Segment) -> dict:
    x0, y0, x1, y1 = segment.box_xyxy
    return {
        "id": segment.id if segment.is_thing else STUFF_IDS + segment.class_id,
        "category_id": segment.class_id,
        "area": segment.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": round(segment.score, 4),
    }


@dataclass(frozen=True, slots=True)
class CocoPng:
    """One image's segments in COCO panoptic format.

    Attributes:
        path: of the picture.
        json: where the segments are listed, for messages.
        segments: by id, as listed.
        areas: by id, pixels, as listed; empty for predictions, whose areas are counted, as panopticapi does.
    """

    path: Path
    json: Path
    segments: dict[int, SegmentLabel]
    areas: dict[int, int]

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> FrameLabels:
        picture = read_png(self.path, "write or get the file anew")
        if picture.dtype != np.uint8 or picture.ndim != 3:
            raise SourceError(f"{self.path}: is {picture.dtype} {picture.shape}; expected uint8 (H, W, 3), ids as RGB")
        blue, green, red = (picture[..., channel].astype(np.int32) for channel in range(3))
        ids = red | green << 8 | blue << 16
        starts, lengths = runs(ids.ravel())
        values = ids.ravel()[starts]
        found, of_run = np.unique(values, return_inverse=True)
        of_run = of_run.ravel()
        self._check(found, np.bincount(of_run, weights=lengths))
        classes = np.array(
            [UNLABELLED if identity == VOID else self.segments[identity].class_id for identity in found.tolist()],
            np.uint8,
        )
        class_map = np.repeat(classes[of_run], lengths).reshape(ids.shape)
        return FrameLabels(PanopticMap(ids, class_map, self.segments))

    def _check(self, found: np.ndarray, areas: np.ndarray) -> None:
        """Raises SourceError where picture and JSON contradict each other."""
        pixels = dict(zip(found.tolist(), areas.astype(int).tolist(), strict=True))
        pixels.pop(VOID, None)
        if strangers := sorted(pixels.keys() - self.segments.keys()):
            raise SourceError(
                f"{self.path}: has segment {strangers[0]} ({len(strangers)} such), which segments_info in "
                f"{self.json.name} does not list; write both anew"
            )
        if missing := sorted(self.segments.keys() - pixels.keys()):
            raise SourceError(
                f"{self.path}: has no pixel of segment {missing[0]} ({len(missing)} such), which segments_info in "
                f"{self.json.name} lists; write both anew"
            )
        for identity, area in self.areas.items():
            if area != pixels[identity]:
                raise SourceError(
                    f"{self.path}: segment {identity} has {pixels[identity]} pixels, its area in {self.json.name} is "
                    f"{area}; write both anew"
                )


def open_coco_panoptic(path: Path, truth: LabelSet | None = None, known: Taxonomy | None = None) -> LabelSet:
    """NAME.json and NAME/*.png.

    Args:
        path: of the JSON.
        truth: what this is a prediction of, whose classes it then has: by their names where the JSON lists categories,
            else by their ids.
        known: see known_category, for what the JSON does not tell of the truth's classes.

    Raises:
        SourceError: naming the file, the field and the remedy.
    """
    document = _read_json(path)
    entries = _entries(path, document, "annotations")
    categories = _categories(path, document) if truth is None or "categories" in document else None
    if truth is None:
        taxonomy = Taxonomy(
            [
                known_category(index, name, known, thing=bool(entry.get("isthing", 0)), **_color(entry))
                for index, (name, entry) in enumerate((entry["name"], entry) for entry in categories.values())
            ]
        )
        class_ids = {identity: index for index, identity in enumerate(categories)}
    else:
        taxonomy, class_ids = truth.taxonomy, truth.class_ids
        if categories is not None:
            by_name = {category.name: category.id for category in taxonomy}
            class_ids = {
                identity: by_name[entry["name"]] for identity, entry in categories.items() if entry["name"] in by_name
            }
    folder = path.with_suffix("")
    frames = {}
    for index, entry in enumerate(entries):
        where = f"{path}: annotations[{index}]"
        name = image_name(str(_field(where, entry, "image_id", (str, int))))
        if name in frames:
            raise SourceError(f"{where}.image_id: {name!r} is there twice; every image has one entry")
        segments, areas = {}, {}
        for place, info in enumerate(_field(where, entry, "segments_info", (list,))):
            inside = f"{where}.segments_info[{place}]"
            identity = _field(inside, info, "id", (int,))
            category = _field(inside, info, "category_id", (int,))
            if not 0 < identity < 1 << 24 or identity in segments:
                raise SourceError(f"{inside}.id: {identity} is out of range or a second one; expected: 1..16777215")
            if category not in class_ids:
                raise SourceError(
                    f"{inside}.category_id: {category} is none of the classes of "
                    f"{truth.path if truth else path}: {', '.join(c.name for c in taxonomy)}"
                )
            segments[identity] = SegmentLabel(class_ids[category], crowd=truth is None and info.get("iscrowd", 0) == 1)
            if truth is None and "area" in info:
                areas[identity] = info["area"]
        frames[name] = CocoPng(folder / _field(where, entry, "file_name", (str,)), path, segments, areas)
    missing = [frame.path for frame in frames.values() if not frame.path.is_file()]
    if missing:
        raise SourceError(
            f"{missing[0]}: missing, {len(missing)} of {len(frames)} such; {path.name} has its pictures in {folder}/"
        )
    images = {image_name(str(image.get("id"))): image for image in _entries(path, document, "images", optional=True)}
    return LabelSet(
        path,
        taxonomy,
        class_ids,
        frames,
        {name: str(image["file_name"]) for name, image in images.items() if "file_name" in image},
        {name: str(image["video_id"]) for name, image in images.items() if "video_id" in image},
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: is no JSON ({one_line(error)}); expected: COCO panoptic format") from error
    if not isinstance(document, dict):
        raise SourceError(f"{path}: is a JSON {type(document).__name__}; expected: COCO panoptic format, an object")
    return document


def _entries(path: Path, document: dict[str, Any], name: str, optional: bool = False) -> list[dict[str, Any]]:
    entries = document.get(name, [] if optional else None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SourceError(f"{path}: {name}: missing or no list of objects; expected: COCO panoptic format")
    return entries


def _categories(path: Path, document: dict[str, Any]) -> dict[int, dict[str, Any]]:
    categories = {}
    for index, entry in enumerate(_entries(path, document, "categories")):
        where = f"{path}: categories[{index}]"
        name, identity = _field(where, entry, "name", (str,)), _field(where, entry, "id", (int,))
        if identity in categories or any(other["name"] == name for other in categories.values()):
            raise SourceError(f"{where}: id {identity} or name {name!r} is there twice; expected: each once")
        categories[identity] = entry
    if len(categories) > UNLABELLED:
        raise SourceError(f"{path}: categories: {len(categories)} of them; at most {UNLABELLED} can be measured")
    return categories


def _field(where: str, entry: Any, name: str, types: tuple[type, ...]) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, types) or isinstance(value, bool):
        expected = " or ".join(kind.__name__ for kind in types)
        raise SourceError(f"{where}.{name}: {value!r}; expected: {expected}, as COCO's panoptic format has it")
    return value


def _color(entry: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """As a keyword, if it has one."""
    color = entry.get("color")
    is_color = isinstance(color, list) and len(color) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in color)
    return {"color": tuple(color)} if is_color else {}
