"""COCO panoptic format (cocodataset.org): NAME.json with the segments, NAME/*.png with their ids.

A pixel's segment id is R + 256 G + 65536 B; 0 is unlabelled. Instances keep their id of the instance map, 1..65535;
stuff class c is 65536 + c.
"""

import json
from pathlib import Path

import cv2
import numpy as np

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
