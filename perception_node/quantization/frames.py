"""Which frames of the footage a calibration sees.

A drive is mostly more of the same: of a hundred frames at a traffic light one tells all. Farthest-point selection
(Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; in machine learning the k-center core-set of
Sener and Savarese 2018) takes, time after time, the frame that is least like any taken before: a tunnel, a low sun or
rain come in, however short they were.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from perception_node.errors import BadImage, SourceError
from perception_node.image import CameraImage
from perception_node.messages import camera_image
from perception_node.quantization.recipe import Recipe
from perception_node.sources import Source
from perception_node.topics import IMAGE

GRID_HW = (6, 8)
"""Cells of a frame for which its descriptor holds the mean colour and edge strength."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame that was chosen.

    Attributes:
        name: in its source.
        stamp_ns: of its header, nanoseconds since the epoch.
        image: as the camera sent it.
    """

    name: str
    stamp_ns: int
    image: CameraImage


def descriptor(image: np.ndarray) -> np.ndarray:
    """What a frame looks like from afar: colour and edges, coarsely.

    Args:
        image: uint8 (H, W, 3) BGR.

    Returns:
        float32 (192,): of each of 6x8 cells the mean L, a, b and gradient magnitude, in 8-bit steps. Distances between
        frames are Euclidean.
    """
    small = cv2.resize(image, (GRID_HW[1] * 8, GRID_HW[0] * 8), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).astype(np.float32)
    edges = np.hypot(cv2.Sobel(lab[..., 0], cv2.CV_32F, 1, 0), cv2.Sobel(lab[..., 0], cv2.CV_32F, 0, 1))
    cells = np.dstack([lab, edges]).reshape(GRID_HW[0], 8, GRID_HW[1], 8, 4)
    return cells.mean(axis=(1, 3)).ravel()


def farthest_points(points: np.ndarray, count: int, seed: int) -> list[int]:
    """Indices of points that cover all of them: a random first one, then always the one farthest from those taken.

    Args:
        points: float (N, D).
        count: how many, at most N; they are all different, even where points are equal.
        seed: decides on the first.
    """
    taken = [int(np.random.default_rng(seed).integers(len(points)))]
    distances = np.full(len(points), np.inf)
    while len(taken) < count:
        distances = np.minimum(distances, np.linalg.norm(points - points[taken[-1]], axis=1))
        distances[taken] = -1
        taken.append(int(distances.argmax()))
    return taken


def choose_frames(
    source: Source, recipe: Recipe, progress: Callable[..., Iterable], say: Callable[[str], None]
) -> tuple[list[Frame], list[Frame]]:
    """The frames to calibrate on, which cover the footage, and those held out, a random sample of the others.

    It reads the footage twice, and holds no more than the chosen frames in memory. Both lists are in order of time; the
    same footage and recipe give the same.

    Args:
        source: the footage.
        recipe: frames, held_out and seed.
        progress: shows an iterable's progress, as tqdm does.
        say: is told which frames were left out as they are damaged.

    Raises:
        SourceError: the footage holds too few images.
    """
    descriptors: list[np.ndarray] = []
    readable: list[int] = []
    images = (item for item in source if item.topic == IMAGE)
    for index, item in enumerate(progress(images, total=source.n_frames or None, desc="look at the footage")):
        try:
            descriptors.append(descriptor(camera_image(item.message).bgr()))
            readable.append(index)
        except BadImage as error:
            say(f"{source.path}: {item.name}: {error}; left out")
    if len(readable) <= recipe.frames:
        remedy = f"fewer --frames, at most {len(readable) - 1}" if len(readable) > 1 else "longer footage"
        raise SourceError(
            f"{source.path}: holds {len(readable)} usable images, but {recipe.frames} are for calibration and at least "
            f"1 is held out for the report; expected: {remedy}"
        )
    taken = farthest_points(np.array(descriptors), recipe.frames, recipe.seed)
    others = np.setdiff1d(np.arange(len(readable)), taken)
    sample = np.random.default_rng(recipe.seed).permutation(others)[: recipe.held_out]
    wanted = {readable[index]: True for index in taken} | {readable[index]: False for index in sample}

    frames = {True: [], False: []}
    images = (item for item in source if item.topic == IMAGE)
    for index, item in enumerate(images):
        if index in wanted:
            stamp = item.message.header.stamp
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
            frames[wanted[index]].append(Frame(item.name, stamp_ns, camera_image(item.message)))
    return frames[True], frames[False]
