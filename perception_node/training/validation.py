"""How good a network is while it is trained: with the node's preprocessing and fusion, and evaluate's measures."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_node.device import open_device
from perception_node.fusion.center_offset import CenterOffset
from perception_node.image import CameraImage
from perception_node.metrics import Evaluation, FrameLabels, PanopticMap, measure
from perception_node.panoptic import UNLABELLED
from perception_node.preprocess import Preprocess, fit
from perception_node.training.config import Config
from perception_node.training.frames import LabelledFrame
from perception_node.training.network import OUTPUT_STRIDE

OUTPUTS = ("semantic", "center", "offset")


class Validation:
    """Measures networks on labelled frames.

    Args:
        sets: of frames of any size; they are fitted into the network's input as the node does it.
        config: says input, classes and fusion.
    """

    def __init__(self, sets: Sequence[Sequence[LabelledFrame]], config: Config):
        self._sets, self._config = sets, config
        device = open_device()
        self._preprocess = Preprocess(device, config.input)
        self._fusion = CenterOffset(device, config.taxonomy, OUTPUT_STRIDE, **config["manifest"]["fusion"])

    def measure(self, net: nn.Module) -> dict[str, Any]:
        """What `perception evaluate` finds: see Evaluation.summary."""
        taxonomy = self._config.taxonomy
        evaluation = Evaluation(taxonomy)
        for frame, outputs in self._outputs(net):
            geometry = fit(frame.class_map.shape, self._config.input.size_hw, self._config.input.resize)
            seen = self._fusion(outputs, geometry)
            truth = PanopticMap.from_maps(frame.class_map, frame.instance_map, taxonomy)
            predicted = PanopticMap.from_maps(seen.class_map, seen.instance_map, taxonomy)
            evaluation.add(measure(FrameLabels(truth), FrameLabels(predicted, seen.confidence), taxonomy))
        return evaluation.summary()

    def logits(self, net: nn.Module, pixels: int = 4000) -> tuple[np.ndarray, np.ndarray]:
        """Class logits and true classes of some labelled pixels of each frame, evenly spread.

        Returns:
            float32 (N, C) and int64 (N,).
        """
        logits, classes = [], []
        for frame, outputs in self._outputs(net):
            geometry = fit(frame.class_map.shape, self._config.input.size_hw, self._config.input.resize)
            rows, columns = np.nonzero(frame.class_map != UNLABELLED)
            chosen = np.linspace(0, len(rows) - 1, min(pixels, len(rows))).astype(int)
            rows, columns = rows[chosen], columns[chosen]
            plane = (np.array(frame.class_map.shape) / geometry.scale_yx / OUTPUT_STRIDE).tolist()
            y = (rows + 0.5) / frame.class_map.shape[0] * plane[0] - 0.5
            x = (columns + 0.5) / frame.class_map.shape[1] * plane[1] - 0.5
            logits.append(_sample(outputs["semantic"], y, x))
            classes.append(frame.class_map[rows, columns].astype(np.int64))
        return np.concatenate(logits), np.concatenate(classes)

    @torch.no_grad()
    def _outputs(self, net: nn.Module) -> Iterator[tuple[LabelledFrame, dict[str, np.ndarray]]]:
        was_training = net.training
        net.eval()
        where = next(net.parameters()).device
        for frame in itertools.chain.from_iterable(self._sets):
            tensor, _ = self._preprocess(CameraImage.from_bgr(frame.image))
            outputs = net(torch.from_numpy(np.array(tensor)).to(where))
            yield frame, {name: _numpy(output) for name, output in zip(OUTPUTS, outputs, strict=True)}
        net.train(was_training)


def _numpy(output: Tensor) -> np.ndarray:
    return np.ascontiguousarray(output[0].float().cpu().numpy())


def _sample(planes: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear, edges clamped, as fusion does it: float32 (C, h, w) at (N,) positions -> (N, C)."""
    y = np.clip(y, 0, planes.shape[1] - 1)
    x = np.clip(x, 0, planes.shape[2] - 1)
    top, left = y.astype(int), x.astype(int)
    bottom, right = np.minimum(top + 1, planes.shape[1] - 1), np.minimum(left + 1, planes.shape[2] - 1)
    down, across = y - top, x - left
    upper = planes[:, top, left] * (1 - across) + planes[:, top, right] * across
    lower = planes[:, bottom, left] * (1 - across) + planes[:, bottom, right] * across
    return (upper * (1 - down) + lower * down).T.astype(np.float32)
