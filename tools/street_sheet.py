"""The picture of docs/simulation.md: several streets, and the truth of one frame.

python -m tools.street_sheet docs/street.jpg
"""

import sys
from pathlib import Path

import click
import cv2
import numpy as np
from tqdm import tqdm

from perception_node.demo.report import contact_sheet
from perception_node.demo.truth import GRID_COLORS
from perception_node.simulation import Street, StreetFrame

STREETS = ((23, 150, "day"), (22, 40, "day"), (3, 100, "dusk"), (2, 60, "overcast"), (26, 30, "rain"), (21, 100, "day"))
"""Seeds, frames and weathers; the truth is that of the first."""
WIDTH = 400


def truth_tiles(frame: StreetFrame, colors_bgr: np.ndarray) -> list[np.ndarray]:
    """Classes and instances, depth, and the drivable grid from above."""
    shades = np.random.default_rng(0).integers(60, 255, (1 << 16, 3), dtype=np.uint8)
    labels = colors_bgr[frame.class_map]
    thing = frame.instance_map > 0
    labels[thing] = shades[frame.instance_map[thing]]
    near = np.clip(255 * (1 - np.log(np.maximum(frame.depth, 2) / 2) / np.log(60)), 0, 255)
    depth = cv2.applyColorMap(near.astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    cells = frame.grid.cells.T[::-1, ::-1]
    grid = np.zeros((*cells.shape, 3), np.uint8)
    for value, color in GRID_COLORS.items():
        grid[cells == value] = color
    height, width = frame.class_map.shape
    grid = cv2.resize(grid, (height * 3 // 4, height), interpolation=cv2.INTER_NEAREST)
    side = width - grid.shape[1]
    grid = cv2.copyMakeBorder(grid, 0, 0, side // 2, side - side // 2, cv2.BORDER_CONSTANT, value=GRID_COLORS[-1])
    return [labels, depth, grid]


@click.command(help=__doc__)
@click.argument("picture", type=click.Path(path_type=Path))
def main(picture: Path) -> None:
    tiles, truth = [], []
    for seed, index, weather in tqdm(STREETS, unit="street"):
        street = Street(seed, n_frames=index + 1, weather=weather)
        frame = street.frame(index)
        tiles.append(frame.image)
        truth = truth or truth_tiles(frame, street.taxonomy.colors_bgr())
    cv2.imwrite(str(picture), contact_sheet([*tiles, *truth], width=WIDTH), [cv2.IMWRITE_JPEG_QUALITY, 72])


if __name__ == "__main__":
    sys.exit(main())
