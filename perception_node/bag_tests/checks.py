"""What is asked of a replayed bag: how far results may differ from the golden ones, how long the stages may take."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from perception_node.bag_tests.rates import PEAK, RATES_HZ, rate_of
from perception_node.bags import typestore
from perception_node.checked_yaml import read_yaml, validate
from perception_node.errors import ModelError, UserError
from perception_node.timing import PERCENTILES
from perception_node.topics import ALL_OUTPUTS, LABEL_INFO
from perception_node.tracking_messages import TRACK

DEFAULT_TOLERANCES = {
    "score": 0.001,
    "bbox": 0.5,
    **dict.fromkeys((f"tracks.{name}" for name in ("u", "v", "width", "height", "du", "dv")), 0.5),
    **dict.fromkeys(("pose", "points", "ranges", "objects.bbox"), 0.05),
    **dict.fromkeys((f"tracks.{name}" for name in ("x", "y", "vx", "vy", "vx_sigma", "vy_sigma")), 0.05),
}
"""Scores; pixels, and pixels a second; metres, and metres a second."""
PIXELS = "pixels"
"""Name of the tolerance that is a share of an array's values, as 0.001."""
ROUNDING = 1e-6
"""What other numbers may differ by, in parts of theirs or, below 1, as such."""
_LIMIT = {"type": "number", "minimum": 0}
_SCHEMA = {
    "type": "object",
    "description": "tolerances, budgets",
    "additionalProperties": False,
    "properties": {
        "tolerances": {
            "type": "object",
            "description": "names of fields with a number from 0, e.g. score: 0.01",
            "additionalProperties": _LIMIT,
        },
        "budgets": {
            "type": "object",
            "description": "STAGE.p50, .p95 or .p99 with milliseconds, e.g. network.p95: 40",
            "additionalProperties": _LIMIT,
        },
    },
}
_PERCENTILES = tuple(f"p{percent}" for percent in PERCENTILES)


@dataclass(frozen=True)
class Checks:
    """What is asked of a bag's results.

    Attributes:
        tolerances: by names of fields, the largest difference that is none; see `tolerance`.
        budgets: "STAGE.p95" -> milliseconds at most, "30hz.loss" -> share of lost frames at most, "30hz.p95" ->
            milliseconds from arrival to answer at most, "peak.hz" -> images a second at least.

    Raises:
        UserError: a name that there is not, or a limit that is none.
    """

    tolerances: Mapping[str, float] = field(default_factory=dict)
    budgets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        for name in self.tolerances:
            unknown = [part for part in name.split(".") if part not in _field_names()]
            if unknown:
                raise UserError(
                    f"tolerance {name!r}: no results have a field {unknown[0]!r}; "
                    f"expected: such as score, bbox, pose, tracks.du, class_map.pixels"
                )
        for name in self.budgets:
            stage, _, key = name.rpartition(".")
            rate = rate_of(stage)
            known = ("hz",) if stage == PEAK else ("loss", *_PERCENTILES) if rate else _PERCENTILES
            if not stage or key not in known:
                raise UserError(
                    f"budget {name!r}: expected: network.p95, total.p99, 30hz.loss, 30hz.p95, peak.hz or so"
                )

    def updated(self, tolerances: Mapping[str, float], budgets: Mapping[str, float]) -> "Checks":
        """With others beside these, or in their place."""
        return Checks({**self.tolerances, **tolerances}, {**self.budgets, **budgets})

    @classmethod
    def from_yaml(cls, path: Path) -> "Checks":
        """Of a file with `tolerances` and `budgets`, each names with numbers.

        Raises:
            UserError: it is something else.
        """
        document, tree = read_yaml(path)
        validate(path, tree, document, _SCHEMA, [])
        try:
            return cls(document.get("tolerances", {}), document.get("budgets", {}))
        except UserError as error:
            raise ModelError(f"{path}: {error}") from error

    @property
    def rates_hz(self) -> tuple[float, ...]:
        """Those of RATES_HZ, and of the budgets."""
        asked = {rate for name in self.budgets if (rate := rate_of(name.rpartition(".")[0]))}
        return tuple(sorted({*RATES_HZ, *asked}))

    def tolerance(self, path: Sequence[str], default: float) -> float:
        """How far a number may be off.

        A tolerance holds for every number under a field of its name: "bbox" for all of a box, "instances.score" for the
        scores in that topic. Of several the one with most names counts, then the outermost; the user's before ours.

        Args:
            path: the topic and the fields that lead to the number.
            default: where there is no tolerance.
        """
        for tolerances in (self.tolerances, DEFAULT_TOLERANCES):
            found = []
            for name, limit in tolerances.items():
                where = _place(name.split("."), path)
                if where is not None and (PIXELS in path) == (PIXELS in name):
                    found.append((-len(name.split(".")), where, limit))
            if found:
                return min(found)[2]
        return default

    def over_budget(self, figures: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
        """Each budget with its name, limit, value (None if there is no such stage) and whether it is kept.

        Args:
            figures: by stage, or rate, its percentiles and so on.
        """
        found = []
        for name, limit in self.budgets.items():
            stage, _, key = name.rpartition(".")
            value = figures.get(stage, {}).get(key)
            is_kept = value is not None and (value >= limit if stage == PEAK else value <= limit)
            found.append({"name": name, "limit": limit, "value": value, "ok": is_kept})
        return found


def parse_limit(option: str, text: str) -> tuple[str, float]:
    """("network.p95", 40.0) of "network.p95=40".

    Raises:
        UserError: it is something else.
    """
    name, _, number = text.partition("=")
    try:
        limit = float(number)
    except ValueError:
        limit = -1.0
    if not name or not 0 <= limit < float("inf"):
        raise UserError(f"{option} {text!r}: expected: NAME=NUMBER, a number from 0")
    return name, limit


def _place(parts: Sequence[str], path: Sequence[str]) -> int | None:
    """Where in `path` the last of `parts` is, if they are there in this order."""
    place = -1
    for part in parts:
        if part not in path[place + 1 :]:
            return None
        place = list(path).index(part, place + 1)
    return place


@cache
def _field_names() -> frozenset[str]:
    """Of the results: topics, and fields of their messages."""
    names = {PIXELS, LABEL_INFO, *ALL_OUTPUTS, *TRACK.names}
    types = typestore().types
    waiting = [types[output.type] for output in ALL_OUTPUTS.values()]
    seen = set()
    while waiting:
        message = waiting.pop()
        seen.add(message)
        for each in dataclasses.fields(message):
            names.add(each.name)
            # Annotations are text, in which other messages stand as package__msg__Name.
            inner = {types[name.replace("__", "/")] for name in re.findall(r"\w+?__msg__\w+", str(each.type))}
            waiting += inner - seen
    return frozenset(names)
