"""From the demo's bag to things to look at: summary.json, annotated.mp4, preview.jpg and index.html."""

import html
import json
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from tqdm import tqdm

from perception_node.bags import header_stamp_ns, open_bag
from perception_node.coco import write_json
from perception_node.demo.truth import measure_against
from perception_node.diagnostics import AGE, DROPPED
from perception_node.errors import UserError
from perception_node.messages import camera_image
from perception_node.timing import percentiles
from perception_node.topics import DIAGNOSTICS, IMAGE, NODE, OUTPUTS

N_PREVIEWS = 6
MAX_GAP_MS = 1000
"""Longer gaps between frames are shortened to this in the video."""


def make_report(out: Path, about: dict[str, str], truth: Path | None = None) -> dict[str, Any]:
    """Writes summary.json, annotated.mp4, preview.jpg and index.html beside out/bag; truth.jpg if there is a truth.

    Args:
        out: the folder that the demo wrote `bag` and `played.json` to.
        about: what was run, to go into the summary.
        truth: a bag with what is true of the frames.

    Returns:
        What summary.json holds.

    Raises:
        UserError: the bag has no answers.
    """
    played = json.loads((out / "played.json").read_text())
    summary = {**about, **summarise(out / "bag", played["sent"])}
    if truth:
        summary["truth"] = measure_against(out / "bag", truth, out / "truth.jpg")
    write_json(out / "summary.json", summary)
    previews = write_video(out / "bag", out / "annotated.mp4", summary["frames"]["out"])
    cv2.imwrite(str(out / "preview.jpg"), contact_sheet(previews))
    (out / "index.html").write_text(page(summary))
    (out / "played.json").unlink()
    return summary


def summarise(bag: Path, sent: int) -> dict[str, Any]:
    """The figures of a run: frames, stage times, latency, instances.

    Latency is from the publication of an image to that of the last message made from it. `sent` is how many images were
    published. Dropped: "transport" never reached the node, "unrecorded" were answered but are not in the bag; for the
    others see perception_node.diagnostics.DROPPED.
    """
    # By stamp and how often it occurred before: cameras may repeat stamps.
    published: dict[tuple[int, int], int] = {}
    answered: dict[tuple[int, int], int] = defaultdict(int)
    occurred: Counter[tuple[str, int]] = Counter()
    instances: list[int] = []
    values: dict[str, str] = {}
    outputs = {f"/{NODE}/{name}" for name in OUTPUTS}
    with open_bag(bag) as reader:
        for connection, time_ns, cdr in reader.messages():
            if connection.topic in (f"/{IMAGE}", *outputs):
                stamp_ns = header_stamp_ns(cdr)
                frame = stamp_ns, occurred[connection.topic, stamp_ns]
                occurred[connection.topic, stamp_ns] += 1
                if connection.topic in outputs:
                    answered[frame] = max(answered[frame], time_ns)
                else:
                    published[frame] = time_ns
            if connection.topic == f"/{NODE}/instances":
                instances.append(len(reader.deserialize(cdr, connection.msgtype).detections))
            elif connection.topic == DIAGNOSTICS:
                for status in reader.deserialize(cdr, connection.msgtype).status:
                    if status.name == f"/{NODE}: perception":
                        values = {item.key: item.value for item in status.values}
    if not instances:
        raise UserError(f"{bag}: the node answered none of {sent} images; its messages are above")
    if not values:
        raise UserError(f"{bag}: has no diagnostics of /{NODE}; let the node run for a second or more")
    stages: dict[str, dict[str, float]] = defaultdict(dict)
    for key, value in values.items():
        if key.endswith(" ms"):
            stage, percentile, _ = key.split()
            if stage != AGE:  # since the stamps, which footage has of another day
                stages[stage][percentile] = float(value)
    dropped = {
        "transport": sent - int(values["received"]),
        **{reason: int(values[reason]) for reason in DROPPED},
        "unrecorded": int(values["processed"]) - len(instances),
    }
    latencies = [(answered[frame] - time_ns) / 1e6 for frame, time_ns in published.items() if frame in answered]
    return {
        "frames": {"in": sent, "out": len(instances), "dropped": dropped},
        "stages_ms": dict(stages),
        "latency_ms": percentiles(latencies),
        "instances_per_frame": {"mean": round(float(np.mean(instances)), 2), "max": max(instances)},
    }


def write_video(bag: Path, path: Path, n_frames: int) -> list[np.ndarray]:
    """Writes the overlays as H.264, at the pace of their stamps; some of them, spread over the drive, BGR."""
    part = path.with_name(f"part-{path.name}")
    previews = []
    wanted = set(np.linspace(0, n_frames - 1, N_PREVIEWS).astype(int))
    with open_bag(bag) as reader, av.open(str(part), "w") as container:
        stream, last_ns, pts = None, None, 0
        frames = reader.messages({f"/{NODE}/overlay"})
        for index, (connection, _, cdr) in enumerate(tqdm(frames, total=n_frames, desc="video", unit="frame")):
            image = camera_image(reader.deserialize(cdr, connection.msgtype)).bgr()
            stamp_ns = header_stamp_ns(cdr)
            if stream is None:
                stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
                # H.264's chroma has half the resolution, so sides are even.
                stream.height, stream.width = (max(2, size - size % 2) for size in image.shape[:2])
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
            else:
                pts += int(np.clip((stamp_ns - last_ns) // 10**6, 1, MAX_GAP_MS))
            last_ns = stamp_ns
            if index in wanted:
                previews.append(image)
            if image.shape[:2] != (stream.height, stream.width):
                image = cv2.resize(image, (stream.width, stream.height))
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part.replace(path)
    return previews


def contact_sheet(images: list[np.ndarray], columns: int = 3, width: int = 480) -> np.ndarray:
    """The images in rows, scaled to one width."""
    height = max(1, round(width * images[0].shape[0] / images[0].shape[1]))
    tiles = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])


def page(summary: dict[str, Any]) -> str:
    """index.html: the video and the figures."""
    frames = summary["frames"]
    rows = [("latency", summary["latency_ms"]), *summary["stages_ms"].items()]
    times = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{value:.1f}</td>" for value in t.values()) + "</tr>"
        for name, t in rows
    )
    dropped = ", ".join(f"{count} {reason}" for reason, count in frames["dropped"].items() if count) or "none"
    about = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(summary[key]))}</td></tr>"
        for key in ("source", "model", "device", "pace")
    )
    truth = _truth_part(summary["truth"]) if "truth" in summary else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>perception_node</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }}
  video, img {{ width: 100%; border-radius: 4px; background: #000 }}
  table {{ border-collapse: collapse; margin: 1em 0 }}
  td, th {{ padding: .2em 1.2em .2em 0; text-align: left; border-bottom: 1px solid #ddd }}
</style>
<h1>What the node saw</h1>
<video src="annotated.mp4" poster="preview.jpg" controls muted loop></video>
<p>Class colours, instances outlined with their ids, the drivable area outlined in green.</p>
<table>{about}
<tr><td>frames</td><td>{frames["in"]} in, {frames["out"]} out; dropped: {dropped}</td></tr>
<tr><td>instances in a frame</td><td>{summary["instances_per_frame"]["mean"]} on average,
{summary["instances_per_frame"]["max"]} at most</td></tr></table>
{truth}
<table><tr><th>milliseconds</th><th>p50</th><th>p95</th><th>p99</th></tr>{times}</table>
<p>Latency: from the publication of an image to that of the last message made from it.</p>
<img src="preview.jpg" alt="Six frames of the drive, annotated">
</html>
"""


def _truth_part(truth: dict[str, Any]) -> str:
    """Of the page: how right it was."""
    names = {
        "pq": "panoptic quality",
        "pq_things": "of things",
        "pq_stuff": "of stuff",
        "miou": "mean IoU of the classes",
        "drivable_iou": "IoU of the drivable area, in the image",
        "grid_iou": "IoU of free cells, on the ground",
        "distance_error": "median error of objects' distances, relative",
    }
    rows = "".join(
        f"<tr><td>{name}</td><td>{truth[key]:.3f}</td></tr>" for key, name in names.items() if truth[key] is not None
    )
    return f"""<h2>How right it was</h2>
<table>{rows}<tr><td>frames compared</td><td>{truth["frames"]}</td></tr></table>
<img src="truth.jpg" alt="Image, truth and what the node saw, side by side">
<p>From left to right: the image, the truth, what the node saw; then the drivable grid as it is and as the node
saw it, from above: green is free, red is not, gray is not known.</p>"""
