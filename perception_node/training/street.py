"""Frames of simulated streets to train on: python -m perception_node.training.street --out DATA/street/train

Writes images/NAME.jpg and, in COCO panoptic format, panoptic.json with panoptic/NAME.png. Every street has a seed of
its own; a few frames far apart are taken of each.
"""

import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import click
import cv2
from tqdm import tqdm

from perception_node.coco import CocoPanopticWriter
from perception_node.simulation import Street, StreetFrame
from perception_node.taxonomy import builtin_taxonomy

SECONDS_APART = 4.0
FPS = 10.0


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--first-seed", default=1000, show_default=True, help="Of the first street; those of a drive are small.")
@click.option("--streets", default=60, show_default=True, type=click.IntRange(1))
@click.option("--frames", default=3, show_default=True, type=click.IntRange(1), help="Of each street.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1))
def main(out: Path, first_seed: int, streets: int, frames: int, processes: int) -> None:
    (out / "images").mkdir(parents=True, exist_ok=True)
    writer = CocoPanopticWriter(out, "panoptic", builtin_taxonomy("camvid"))
    jobs = [(seed, frames) for seed in range(first_seed, first_seed + streets)]
    with get_context("spawn").Pool(processes) as pool:
        for names_and_frames in tqdm(pool.imap(_street_frames, jobs), total=streets, unit="street"):
            for name, frame in names_and_frames:
                path = out / "images" / f"{name}.jpg"
                if not cv2.imwrite(str(path), frame.image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
                    raise OSError(f"{path}: cannot be written")
                writer.add(name, path.name, frame.panoptic)
    writer.close()


def _street_frames(job: tuple[int, int]) -> list[tuple[str, StreetFrame]]:
    return list(street_frames(*job))


def street_frames(seed: int, n_frames: int) -> Iterator[tuple[str, StreetFrame]]:
    """Frames of one street, far apart, with their names."""
    apart = round(SECONDS_APART * FPS)
    street = Street(seed, n_frames=(n_frames - 1) * apart + 1, fps=FPS)
    for index in range(0, len(street), apart):
        yield f"{seed:05}_{index:05}", street.frame(index)


if __name__ == "__main__":
    sys.exit(main())
