"""Fusion: from a network's raw outputs to a PanopticFrame. One module for each family of networks."""

from collections.abc import Callable, Mapping

import numpy as np

from perception_node.fusion.center_offset import CenterOffset
from perception_node.model import Model
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Geometry

Fusion = Callable[[Mapping[str, np.ndarray], Geometry], PanopticFrame]
"""(outputs by the family's names, each without batch; how the image lay in the network's input) -> the frame."""

FAMILIES: dict[str, Callable[..., Fusion]] = {"center_offset": CenterOffset}


def make_fusion(model: Model) -> Fusion:
    """The fusion that the model's manifest asks for, with its thresholds."""
    return FAMILIES[model.family](model.taxonomy, model.stride, **model.fusion)
