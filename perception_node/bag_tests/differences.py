"""Two messages compared field by field, whatever their type: which fields differ, where, and by how much.

Numbers may differ within a tolerance; text, classes and ids may not. Objects that have ids are compared with those of
the same id. Arrays, such as the pixels of an image, are said to differ in so many places, and where first.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_node.bag_tests.checks import PIXELS, ROUNDING, Checks

_IMAGE, _CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
_DTYPES = {"mono8": "u1", "8UC1": "u1", "bgr8": "u1", "mono16": "u2", "16UC1": "u2", "32FC1": "f4"}
_POINT_FORMATS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""By sensor_msgs/PointField's datatype."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as it should be.

    Attributes:
        field: the topic and the fields that lead there, e.g. "instances.detections[7].bbox.size_x".
        text: what was expected and what came.
        count: how many pixels or other values of an array differ; None if it is none.
        first_xy: the first of those pixels, in rows from the top; None where there are none.
    """

    field: str
    text: str
    count: int | None = None
    first_xy: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def differences(
    topic: str, golden: Any, actual: Any, checks: Checks, class_names: Mapping[int, str] | None = None
) -> Iterator[Difference]:
    """Where two messages of a topic, of the rosbags library, differ by more than they may.

    Args:
        topic: it is the first of the names that tolerances go by.
        golden, actual: what was expected, and what came.
        checks: the tolerances.
        class_names: what the values of the class map are called.
    """
    return _Comparison(checks, class_names or {}).compare(topic, (topic,), golden, actual)


class _Comparison:
    """`where` is a field as it is shown, `path` its names alone."""

    def __init__(self, checks: Checks, class_names: Mapping[int, str]):
        self._checks, self._class_names = checks, class_names

    def compare(self, where: str, path: tuple[str, ...], golden: Any, actual: Any) -> Iterator[Difference]:
        if type(golden) is not type(actual):
            yield Difference(where, f"golden {golden!r:.60}, now {actual!r:.60}")
        elif getattr(golden, "__msgtype__", "") == _IMAGE:
            yield from self._picture(where, path, golden, actual)
        elif getattr(golden, "__msgtype__", "") == _CLOUD:
            yield from self._cloud(where, path, golden, actual)
        elif isinstance(golden, dict):
            for name in golden:
                yield from self.compare(f"{where}.{name}", (*path, name), golden[name], actual[name])
        elif dataclasses.is_dataclass(golden):
            yield from self._fields(where, path, golden, actual, without=())
        elif isinstance(golden, np.ndarray):
            yield from self._array(where, path, golden, actual)
        elif isinstance(golden, list):
            yield from self._list(where, path, golden, actual)
        elif isinstance(golden, float):
            limit = self._checks.tolerance(path, ROUNDING * max(1.0, abs(golden)))
            if not _is_close(np.float64(golden), np.float64(actual), limit):
                yield Difference(where, f"golden {golden:.6g}, now {actual:.6g}; may be off by {limit:.3g}")
        elif golden != actual:
            yield Difference(where, f"golden {golden!r}, now {actual!r}")

    def _fields(
        self, where: str, path: tuple[str, ...], golden: Any, actual: Any, without: Sequence[str]
    ) -> Iterator[Difference]:
        for each in dataclasses.fields(golden):
            if each.name in ("__msgtype__", *without):
                continue
            one, other = getattr(golden, each.name), getattr(actual, each.name)
            if each.name == "stamp":
                one, other = (f"{stamp.sec}.{stamp.nanosec:09d} s" for stamp in (one, other))
            yield from self.compare(f"{where}.{each.name}", (*path, each.name), one, other)

    def _list(self, where: str, path: tuple[str, ...], golden: list, actual: list) -> Iterator[Difference]:
        ids = [[getattr(entry, "id", None) for entry in entries] for entries in (golden, actual)]
        if any(None in side or len(set(side)) < len(side) for side in ids):
            if len(golden) != len(actual):
                yield Difference(where, f"golden has {len(golden)}, now {len(actual)}")
            ids = [list(range(len(golden))), list(range(len(actual)))]
        sides = (dict(zip(*side, strict=True)) for side in zip(ids, (golden, actual), strict=True))
        yield from self._by_id(where, path, *sides)

    def _by_id(self, where: str, path: tuple[str, ...], golden: dict, actual: dict) -> Iterator[Difference]:
        for id_, entry in golden.items():
            if id_ in actual:
                yield from self.compare(f"{where}[{id_}]", path, entry, actual[id_])
            else:
                yield Difference(f"{where}[{id_}]", "golden has it, now it is missing")
        for id_ in actual:
            if id_ not in golden:
                yield Difference(f"{where}[{id_}]", "new; golden has it not")

    def _picture(self, where: str, path: tuple[str, ...], golden: Any, actual: Any) -> Iterator[Difference]:
        found = list(self._fields(where, path, golden, actual, without=("data",)))
        yield from found
        pictures = [values_of(message) for message in (golden, actual)]
        if pictures[0].shape == pictures[1].shape and pictures[0].dtype == pictures[1].dtype:
            yield from self._array(where, path, *pictures)
        elif not found:
            yield Difference(f"{where}.data", f"golden has {golden.data.size} bytes, now {actual.data.size}")

    def _cloud(self, where: str, path: tuple[str, ...], golden: Any, actual: Any) -> Iterator[Difference]:
        """Of points with ids, as tracks are, each with that of its id; else place by place."""
        points = [_points(message) for message in (golden, actual)]
        if any(side is None for side in points) or points[0].dtype != points[1].dtype:
            yield from self._fields(where, path, golden, actual, without=())
            return
        names = points[0].dtype.names
        if "id" in names and all(len(np.unique(side["id"])) == side.size for side in points):
            yield from self._fields(where, path, golden, actual, without=("data", "width", "row_step"))
            records = [[{name: point[name].item() for name in names} for point in side.ravel()] for side in points]
            yield from self._by_id(where, path, *({record["id"]: record for record in side} for side in records))
            return
        yield from self._fields(where, path, golden, actual, without=("data",))
        if points[0].shape == points[1].shape:
            for name in names:
                yield from self._array(f"{where}.{name}", (*path, name), points[0][name], points[1][name])

    def _array(self, where: str, path: tuple[str, ...], golden: np.ndarray, actual: np.ndarray) -> Iterator[Difference]:
        if golden.shape != actual.shape:
            yield Difference(where, f"golden has {golden.size} values, now {actual.size}")
            return
        if golden.dtype.kind == "f":
            scale = max(1.0, float(np.max(np.abs(golden[np.isfinite(golden)]), initial=0.0)))
            limit = self._checks.tolerance(path, ROUNDING * scale)
        else:
            limit = self._checks.tolerance(path, 0.0)
        differs = ~_is_close(golden, actual, limit)
        if differs.ndim == 3:  # a pixel differs if one of its channels does
            differs = differs.any(axis=2)
        count = int(np.count_nonzero(differs))
        allowed = self._checks.tolerance((*path, PIXELS), 0.0)
        if count <= allowed * differs.size:
            return
        first = np.unravel_index(int(np.argmax(differs)), differs.shape)
        name = self._class_name if path == ("class_map",) else str
        told = f"golden {name(golden[first])}, now {name(actual[first])}"
        if differs.ndim == 2:
            rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
            first_xy = int(first[1]), int(first[0])
            text = f"{count} of {differs.size} pixels differ, first x {first_xy[0]} y {first_xy[1]}: {told}" + (
                f"; all within x {columns[0]}..{columns[-1]}, y {rows[0]}..{rows[-1]}" if count > 1 else ""
            )
            yield Difference(where, text, count, first_xy)
        else:
            yield Difference(where, f"{count} of {differs.size} values differ, first [{first[0]}]: {told}", count)

    def _class_name(self, value: Any) -> str:
        return f"{value} {self._class_names[int(value)]}" if int(value) in self._class_names else str(value)


def _is_close(golden: np.ndarray, actual: np.ndarray, limit: float) -> np.ndarray:
    """Also where both are the same infinity, or no number."""
    if golden.dtype.kind != "f" and limit == 0:
        return golden == actual
    one, other = golden.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (np.abs(one - other) <= limit) | (one == other) | (np.isnan(one) & np.isnan(other))


def values_of(image: Any) -> np.ndarray:
    """(H, W) or (H, W, C) of a sensor_msgs/Image; its bytes, where they are of another kind."""
    data = np.asarray(image.data)
    dtype = np.dtype(_DTYPES.get(image.encoding, "u1")).newbyteorder(">" if image.is_bigendian else "<")
    if not data.size or data.size != image.height * image.step or image.step % (dtype.itemsize * max(1, image.width)):
        return data
    values = data.view(dtype).reshape(image.height, image.width, -1)
    return values[..., 0] if values.shape[2] == 1 else values


def _points(cloud: Any) -> np.ndarray | None:
    """(H, W) of a sensor_msgs/PointCloud2, with its fields; None if they do not fit its bytes."""
    order = ">" if cloud.is_bigendian else "<"
    try:
        dtype = np.dtype(
            {
                "names": [each.name for each in cloud.fields],
                "formats": [f"{each.count}{order}{_POINT_FORMATS[each.datatype]}" for each in cloud.fields],
                "offsets": [each.offset for each in cloud.fields],
                "itemsize": cloud.point_step,
            }
        )
        rows = np.asarray(cloud.data).reshape(cloud.height, cloud.row_step)[:, : cloud.width * cloud.point_step]
        return np.ascontiguousarray(rows).view(dtype).reshape(cloud.height, cloud.width)
    except (KeyError, ValueError, TypeError):
        return None
