"""The measures as text for a terminal and as an HTML page, with the worst frames as pictures."""

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_node.errors import UserError
from perception_node.evaluate.pairs import FramePair
from perception_node.metrics import PanopticMap
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Taxonomy

PICTURE_WIDTH = 480
Table = list[list[str]]


def tables(summary: dict[str, Any]) -> list[Table]:
    """What Evaluation.summary has, as tables of text: the first row and column are headings."""
    groups = {"all": "", "things": "_things", "stuff": "_stuff"}
    found = [
        [["", "PQ", "SQ", "RQ"]]
        + [
            [name, *(_number(summary[measure + suffix]) for measure in ("pq", "sq", "rq"))]
            for name, suffix in groups.items()
        ]
    ]
    rows = [["mIoU", _number(summary["miou"])], ["boundary IoU", _number(summary["boundary_iou"])]]
    for name, key in (("drivable area", "drivable"), ("free cells", "grid")):
        if key in summary:
            rows += [
                [f"{name}, {measure}", _number(summary[key][m])]
                for m, measure in (("iou", "IoU"), ("precision", "precision"), ("recall", "recall"))
            ]
    for size, values in summary["recall_by_size"].items():
        rows.append([f"found of {values['instances']} {size} instances", _number(values["recall"])])
    if "distance" in summary:
        values = summary["distance"]
        rows += [
            [f"distance of {values['objects']} objects, {name} relative error", _number(values[key])]
            for name, key in (("median", "median"), ("90th percentile", "p90"))
        ]
    if "ece" in summary:
        rows.append(["expected calibration error", _number(summary["ece"])])
    if "stq" in summary:
        rows += [[name.upper() + (" of STQ" if name == "sq" else ""), _number(v)] for name, v in summary["stq"].items()]
    found.append([["", ""], *rows])
    if "vpq" in summary:
        windows = summary["vpq"]
        found.append(
            [["VPQ", *(f"k={name}" if name.isdigit() else name for name in windows)]]
            + [[kind, *(_number(values[kind]) for values in windows.values())] for kind in groups]
        )
    names = {"iou": "IoU", "boundary_iou": "boundary IoU", "pq": "PQ", "sq": "SQ", "rq": "RQ"}
    counts = ("tp", "fp", "fn")
    found.append(
        [["class", *names.values(), *(name.upper() for name in counts)]]
        + [
            [name, *(_number(values[key]) for key in names), *(str(values[key]) for key in counts)]
            for name, values in summary["classes"].items()
        ]
    )
    return found


def describe_measures(summary: dict[str, Any]) -> str:
    """The tables as aligned text."""
    lines = []
    for table in tables(summary):
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table if any(table[0]) else table[1:]:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        lines.append("")
    return "\n".join(lines[:-1])


def describe(summary: dict[str, Any]) -> str:
    """What evaluate returns, for a terminal."""
    return "\n".join(
        [
            f"{summary['frames']} frames: {summary['predicted']} against {summary['truth']}",
            *remarks(summary),
            "",
            describe_measures(summary),
        ]
    )


def remarks(summary: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know, a line each."""
    lines = []
    if summary["missing"]:
        lines.append(f"{summary['missing']} frames of the truth have no prediction and are not measured")
    if summary["unused"]:
        lines.append(f"{summary['unused']} predicted frames have no truth and are not measured")
    return [*lines, *summary["notes"]]


def write_report(
    path: Path, summary: dict[str, Any], worst: Sequence[tuple[FramePair, float]], taxonomy: Taxonomy
) -> None:
    """One HTML file with everything in it.

    Raises:
        UserError: it cannot be written.
    """
    content = page(summary, [(pair.name, pq, compare(pair, taxonomy)) for pair, pq in worst], taxonomy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(content)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); name another file") from error


def compare(pair: FramePair, taxonomy: Taxonomy) -> np.ndarray:
    """The image, if there is one, the truth and the prediction side by side, uint8 (h, w, 3) BGR."""
    truth, predicted = pair.truth.read().panoptic, pair.predicted.read().panoptic
    image = pair.image()
    if image is not None and image.shape[:2] != truth.ids.shape:
        image = cv2.resize(image, truth.ids.shape[::-1])
    panels = [draw(truth, taxonomy, image), draw(predicted, taxonomy, image)]
    if image is not None:
        panels.insert(0, image)
    height, width = truth.ids.shape
    size = (PICTURE_WIDTH, max(1, round(PICTURE_WIDTH * height / width)))
    gap = np.full((size[1], 4, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, cv2.resize(panel, size, interpolation=cv2.INTER_AREA))]
    return np.hstack(parts[1:])


def draw(labels: PanopticMap, taxonomy: Taxonomy, image: np.ndarray | None) -> np.ndarray:
    """Classes in their colours, over the image if there is one; instances outlined; what is no segment hatched."""
    canvas = cv2.LUT(cv2.merge([labels.class_map] * 3), taxonomy.colors_bgr()[None])
    if image is not None:
        canvas = cv2.addWeighted(image, 0.35, canvas, 0.65, 0)
    ignored = [identity for identity, label in labels.segments.items() if label.void or label.crowd]
    unlabelled = (labels.class_map == UNLABELLED) | np.isin(labels.ids, ignored)
    rows, columns = np.indices(labels.ids.shape, sparse=True)
    canvas[unlabelled & ((rows + columns) % 8 < 2)] = (255, 255, 255)
    thickness = max(1, labels.ids.shape[1] // 480)
    for identity, label in labels.segments.items():
        if taxonomy[label.class_id].thing and identity not in ignored:
            mask = (labels.ids == identity).view(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outlines, -1, (255, 255, 255), thickness)
    return canvas


def page(summary: dict[str, Any], worst: Sequence[tuple[str, float, np.ndarray]], taxonomy: Taxonomy) -> str:
    """The HTML page.

    Args:
        summary: what evaluate returns.
        worst: name, panoptic quality and picture of the worst frames.
        taxonomy: the classes, for the legend.
    """
    say: Callable[[object], str] = lambda value: html.escape(str(value))  # noqa: E731
    legend = " ".join(
        f'<span class="class"><i style="background:rgb{category.color}"></i>{say(category.name)}</span>'
        for category in taxonomy
        if any(summary["classes"][category.name].values())
    )
    frames = "".join(
        f'<figure><figcaption>{say(name)}: PQ {pq:.3f}</figcaption><img src="data:image/jpeg;base64,{_jpeg(picture)}" '
        f'alt="{say(name)}"></figure>'
        for name, pq, picture in worst
    )
    found = "".join(_html_table(table, say) for table in tables(summary))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Evaluation</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; color: #222 }}
  .tables {{ display: flex; flex-wrap: wrap; gap: 1em 4em; align-items: flex-start }}
  table {{ border-collapse: collapse }}
  td, th {{ padding: .15em 0 .15em 1.2em; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal;
    font-variant-numeric: tabular-nums }}
  td:first-child, th:first-child {{ text-align: left; padding-left: 0 }}
  th {{ color: #777 }}
  figure {{ margin: 1em 0 }} img {{ width: 100%; border-radius: 3px }}
  .class {{ white-space: nowrap; margin-right: 1em }}
  i {{ display: inline-block; width: .9em; height: .9em; margin-right: .3em; vertical-align: -.1em }}
</style>
<h1>{summary["frames"]} frames</h1>
<p>{say(summary["predicted"])}, measured against {say(summary["truth"])}.</p>
{"".join(f"<p>{say(line)}.</p>" for line in remarks(summary))}
<div class="tables">{found}</div>
<h2>The worst frames</h2>
<p>By their panoptic quality: the image, where it is known, the truth, the prediction. Instances are outlined in white;
what is void, a crowd or unlabelled is hatched.</p>
<p>{legend}</p>
{frames}
</html>
"""


def _html_table(table: Table, say: Callable[[object], str]) -> str:
    head = "<tr>" + "".join(f"<th>{say(cell)}</th>" for cell in table[0]) + "</tr>" if any(table[0]) else ""
    rows = "".join("<tr>" + "".join(f"<td>{say(cell)}</td>" for cell in row) + "</tr>" for row in table[1:])
    return f"<table>{head}{rows}</table>"


def _jpeg(picture: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]).decode()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
