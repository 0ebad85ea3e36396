"""CamVid-layout street scenes (images/*.jpg, labels/*.png) as training targets for Panoptic-DeepLab."""

from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from perception_node.metrics import VOID_INSTANCE, instances_from_classes
from perception_node.panoptic import UNLABELLED
from perception_node.training.augmentation import augment_colour, augment_geometry, augment_weather


class CamVid(Dataset):
    """Frames with their targets.

    Args:
        folder: holds images/NAME.jpg and labels/NAME.png (class id per pixel).
        n_classes: C; a label value of C or more is void.
        thing_class_ids: the classes that have instances.
        size: (height, width) of a training crop in pixels.
        augment: random scale, crop, flip, colour and blur; without it, frames of exactly `size`.
        seed: of the augmentation; a frame's variation depends on seed, epoch and index alone.

    An item is a dict of image (H, W, 3) RGB uint8, semantic (H, W) uint8 with 255 void, center (1, h, w) float32
    in 0..1, offset (2, h, w) float32 (dy, dx) in input pixels, thing (h, w) bool where offset counts and
    known (h, w) bool where center counts; h, w are at stride 4.
    """

    def __init__(
        self,
        folder: Path,
        n_classes: int,
        thing_class_ids,
        size: tuple[int, int],
        augment: bool,
        seed: int = 0,
        stride: int = 2,
        crop: tuple[int, int] | None = None,
        scales: tuple[float, float] = (0.5, 2.0),
    ):
        names = sorted(path.stem for path in (folder / "images").glob("*.jpg"))
        if not names:
            raise FileNotFoundError(f"{folder}/images holds no .jpg files")
        self.images = [cv2.cvtColor(cv2.imread(str(folder / "images" / f"{n}.jpg")), cv2.COLOR_BGR2RGB) for n in names]
        self.labels = [_labels(folder / "labels" / f"{n}.png", n_classes) for n in names]
        self.instances = [instances_from_classes(labels, thing_class_ids) for labels in self.labels]
        self.crop, self.scales = crop, scales
        self.size, self.augment, self.seed, self.stride = size, augment, seed, stride
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image, semantic, instance = self.images[index], self.labels[index], self.instances[index]
        if self.augment:
            rng = np.random.default_rng((self.seed, self.epoch, index))
            image, semantic, instance = augment_geometry(
                rng, image, semantic, instance, self.size, self.crop, self.scales
            )
            image = augment_colour(rng, augment_weather(rng, image))
        return {"image": image, "semantic": semantic, **instance_targets(instance, self.stride)}


def _labels(path: Path, n_classes: int) -> np.ndarray:
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise FileNotFoundError(f"{path}: missing or not an image; every image needs its label")
    labels[labels >= n_classes] = UNLABELLED
    return labels


def instance_targets(instance: np.ndarray, stride: int, sigma: float = 8.0) -> dict[str, np.ndarray]:
    """Centre heatmap and offsets (Panoptic-DeepLab, sections 3.2 and 3.3) of a uint16 (H, W) instance map.

    Args:
        instance: 0 no instance, VOID_INSTANCE void, else the id of the pixel's instance.
        stride: of the network's outputs; targets are sampled at the middle of each stride x stride block, which is
            where bilinear upsampling with half-pixel centres puts an output.
        sigma: of the Gaussian around a centre, in input pixels.
    """
    height, width = instance.shape
    ys = (np.arange(-(-height // stride), dtype=np.float32) + 0.5) * stride - 0.5
    xs = (np.arange(-(-width // stride), dtype=np.float32) + 0.5) * stride - 0.5
    # The sample position lies between four pixels; the one up and left of it speaks for the block.
    sampled = instance[np.minimum(ys.astype(int), height - 1)[:, None], np.minimum(xs.astype(int), width - 1)[None]]
    center = np.zeros((1, len(ys), len(xs)), np.float32)
    offset = np.zeros((2, len(ys), len(xs)), np.float32)
    thing = np.zeros(sampled.shape, bool)
    for identity in np.unique(instance):
        if identity in (0, VOID_INSTANCE):
            continue
        rows, cols = np.nonzero(instance == identity)
        cy, cx = rows.mean(), cols.mean()
        gaussian = np.exp(-((ys[:, None] - cy) ** 2 + (xs[None] - cx) ** 2) / (2 * sigma**2))
        np.maximum(center[0], gaussian, out=center[0])
        mine = sampled == identity
        thing |= mine
        offset[0][mine] = np.broadcast_to(cy - ys[:, None], mine.shape)[mine]
        offset[1][mine] = np.broadcast_to(cx - xs[None], mine.shape)[mine]
    return {"center": center, "offset": offset, "thing": thing, "known": sampled != VOID_INSTANCE}
