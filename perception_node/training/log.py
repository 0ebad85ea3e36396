"""The course of a training: log.csv with a line an epoch, and log.png, drawn of it."""

import csv
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def append(path: Path, row: dict[str, Any], epochs_before: int) -> None:
    """Adds a row to a CSV file, of which only the rows of the first epochs stay: a killed run may have logged more
    than it saved."""
    rows = [old for old in read(path) if int(old["epoch"]) <= epochs_before] if path.is_file() else []
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows([*rows, row])
    part.replace(path)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plot(csv_path: Path, png_path: Path) -> None:
    """Draws the losses and, where they were measured, PQ and mIoU over the epochs."""
    rows = read(csv_path)
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, measures = figure.subplots(1, 2)
    for axes, names, title in (
        (losses, ("semantic", "region", "center", "offset"), "losses, weighted (training frames)"),
        (measures, ("pq", "miou"), "PQ and mIoU (validation frames)"),
    ):
        for name in names:
            points = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
            axes.plot(*zip(*points, strict=True) if points else ([], []), label=name)
        axes.set_xlabel("epoch")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set_yscale("log")
    part = png_path.with_name(f"{png_path.name}.part")
    figure.savefig(part, format="png", dpi=120)
    part.replace(png_path)
