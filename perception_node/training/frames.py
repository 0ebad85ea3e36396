"""Labelled frames to train on: images beside labels of any format that `perception evaluate` reads, in our classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset, Sampler

from perception_node.coco import open_coco_panoptic
from perception_node.errors import SourceError
from perception_node.labels import LabelSet, image_name, open_label_folder
from perception_node.metrics import VOID, VOID_INSTANCE
from perception_node.panoptic import UNLABELLED
from perception_node.sources import IMAGE_SUFFIXES, picture_or_none
from perception_node.taxonomy import Taxonomy
from perception_node.training.augmentation import augment_colour, augment_geometry, augment_weather, letterbox
from perception_node.training.config import Config
from perception_node.training.network import OUTPUT_STRIDE
from perception_node.training.targets import instance_targets


@dataclass(frozen=True)
class LabelledFrame:
    """A frame and what is known of it.

    Attributes:
        name: of the image.
        image: uint8 (H, W, 3) BGR.
        class_map: uint8 (H, W), our class ids, UNLABELLED where void.
        instance_map: uint16 (H, W), 0 where no thing is, 1, 2, ... for instances, VOID_INSTANCE for thing pixels of
            which the instance is not known.
    """

    name: str
    image: np.ndarray
    class_map: np.ndarray
    instance_map: np.ndarray


class LabelledFrames(Sequence[LabelledFrame]):
    """Images and their labels; each is read when it is asked for.

    Args:
        images: folder, searched to all depths.
        labels: a folder of NAME.png with class ids, Cityscapes' gtFine, or a COCO panoptic JSON.
        taxonomy: our classes; the labels' classes are found in it by their names.
        rename: the labels' name of a class -> ours.

    Raises:
        SourceError: there is nothing, an image has no label, or no class is known.
    """

    def __init__(self, images: Path, labels: Path, taxonomy: Taxonomy, rename: Mapping[str, str] | None = None):
        self._taxonomy = taxonomy
        self._labels = open_labels(labels, taxonomy)
        files = {image_name(p.stem): p for p in sorted(images.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}
        if not files:
            raise SourceError(f"{images}: holds no images; expected: {', '.join(IMAGE_SUFFIXES)}")
        named = {name: image_name(Path(file).stem) for name, file in self._labels.image_files.items()}
        self._files = [(n, files[named.get(n, n)]) for n in self._labels.frames if named.get(n, n) in files]
        if not self._files:
            first = f"{next(iter(files))} there, {next(iter(self._labels.frames), 'nothing')} here"
            raise SourceError(f"{labels}: has no label of an image in {images} ({first}); names must be the same")
        if len(self._files) < len(files) and labels.is_dir():
            missing = next(name for name in files if name not in self._labels.frames)
            raise SourceError(f"{labels}: {missing} is missing; every image needs its label")
        by_name = {category.name: category.id for category in taxonomy}
        self._class_of = np.full(256, UNLABELLED, np.uint8)
        for category in self._labels.taxonomy:
            name = (rename or {}).get(category.name, category.name)
            self._class_of[category.id] = by_name.get(name, UNLABELLED)
        if (self._class_of == UNLABELLED).all():
            theirs = ", ".join(category.name for category in self._labels.taxonomy)
            raise SourceError(f"{labels}: has none of our classes but {theirs}; say which they are with `rename`")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> LabelledFrame:
        """Raises SourceError for a file that cannot be read, or a label of another size than its image."""
        name, path = self._files[index]
        image = picture_or_none(cv2.imread, str(path))
        if image is None:
            raise SourceError(f"{path}: not an image, or cut off; get the file anew")
        panoptic = self._labels.frames[name].read().panoptic
        if panoptic.class_map.shape != image.shape[:2]:
            where = self._labels.frames[name].where
            sizes = f"{panoptic.class_map.shape}, its image {image.shape[:2]}"
            raise SourceError(f"{where}: is {sizes}; expected: one size")
        class_map = self._class_of[panoptic.class_map]
        instance_map = np.zeros(class_map.shape, np.uint16)
        is_thing = self._taxonomy.table("thing")
        count = 0
        for identity, segment in panoptic.segments.items():
            if identity == VOID or not is_thing[self._class_of[segment.class_id]]:
                continue
            # Several things drawn as one teach nothing of instances; neither do those of a class that is stuff there.
            if segment.crowd or segment.void or not self._labels.taxonomy[segment.class_id].thing:
                instance_map[panoptic.ids == identity] = VOID_INSTANCE
            else:
                count += 1
                instance_map[panoptic.ids == identity] = count
        instance_map[class_map == UNLABELLED] = VOID_INSTANCE
        return LabelledFrame(name, image, class_map, instance_map)


def open_labels(path: Path, taxonomy: Taxonomy) -> LabelSet:
    """Labels in any of the formats. Raises SourceError."""
    return open_coco_panoptic(path) if path.suffix == ".json" else open_label_folder(path, taxonomy)


def open_frames(config: Config, split: str, root: Path) -> list[LabelledFrames]:
    """The sets of frames that the configuration names under data.SPLIT, below `root`."""
    return [
        LabelledFrames(root / entry["images"], root / entry["labels"], config.taxonomy, entry["rename"])
        for entry in config["data"][split]
    ]


class TrainingFrames(Dataset):
    """Augmented frames with their targets.

    An item is asked for by (epoch, set, index), on which with the seed its variation depends alone. It is a dict of
    image (H, W, 3) uint8 in the network's channel order, semantic (H, W) uint8 with 255 void, and those of
    instance_targets; H and W are the crop's.
    """

    def __init__(self, sets: Sequence[Sequence[LabelledFrame]], config: Config):
        self._sets, self._config = sets, config

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, np.ndarray]:
        _, set_index, index = key
        options, inputs = self._config["augmentation"], self._config.input
        frame = self._sets[set_index][index]
        rng = np.random.default_rng((self._config["seed"], *key))
        image, semantic, instance = augment_geometry(
            rng,
            frame.image if inputs.color == "bgr" else cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB),
            frame.class_map,
            frame.instance_map,
            inputs.size_hw,
            tuple(options["crop"]),
            options["scales"],
        )
        image = augment_weather(rng, image, options["weather"])
        if rng.uniform() < options["color"]:
            image = augment_colour(rng, image)
        if rng.uniform() < options["letterbox"]:
            letterbox(rng, image, semantic, instance)
        return {"image": image, "semantic": semantic, **instance_targets(instance, OUTPUT_STRIDE)}


class EpochSampler(Sampler):
    """Which frames an epoch sees, in which order: (epoch, set, index), the same for a seed and an epoch.

    A set without a share is seen whole; one with a share s is drawn from, so that it makes up the part s of the epoch.
    The epoch's end that does not fill a step is left out.

    Args:
        sizes: of the sets.
        shares: of the sets, None for those seen whole.
        batch: frames in a step, of all processes together.
        seed: of the order.
        rank, world: of this process and the number of processes, which share a step's frames.

    Attributes:
        epoch: to be set before each.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float | None], batch: int, seed: int, rank=0, world=1):
        self._sizes, self._seed, self._rank, self._world = sizes, seed, rank, world
        whole = sum(size for size, share in zip(sizes, shares, strict=True) if share is None)
        total = whole / (1 - sum(share or 0 for share in shares))
        self._counts = [
            size if share is None else round(share * total) for size, share in zip(sizes, shares, strict=True)
        ]
        self._total = sum(self._counts) // batch * batch
        if not self._total:
            raise SourceError(f"data.train: {sum(self._counts)} frames do not fill a step of {batch}; expected: more")
        self.epoch = 0

    def __len__(self) -> int:
        return self._total // self._world

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        rng = np.random.default_rng((self._seed, self.epoch))
        keys = [
            (self.epoch, number, int(index))
            for number, (size, count) in enumerate(zip(self._sizes, self._counts, strict=True))
            # Drawn more often than there are frames, each is seen as often as the others, or once more.
            for index in np.concatenate([rng.permutation(size) for _ in range(count // size + 1)])[:count]
        ]
        order = rng.permutation(len(keys))[: self._total]
        return iter([keys[index] for index in order[self._rank :: self._world]])
