"""Fusion: from a network's raw outputs to a PanopticFrame. One module for each family of networks."""

from perception_node.device import Device
from perception_node.fusion.base import Fusion
from perception_node.fusion.center_offset import CenterOffset
from perception_node.fusion.instance_semantic import InstanceSemantic
from perception_node.fusion.mask_classification import MaskClassification
from perception_node.fusion.prototype import Prototype
from perception_node.fusion.semantic import Semantic
from perception_node.model import Model

FAMILIES: dict[str, type[Fusion]] = {
    "center_offset": CenterOffset,
    "mask_classification": MaskClassification,
    "instance_semantic": InstanceSemantic,
    "prototype": Prototype,
    "semantic": Semantic,
}


def make_fusion(model: Model, device: Device) -> Fusion:
    """The fusion that the model's manifest asks for, with its thresholds."""
    return FAMILIES[model.family](device, model.taxonomy, model.stride, **model.fusion)
