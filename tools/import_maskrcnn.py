"""A torchvision Mask R-CNN and a semantic head on its features, made into an instance_semantic model folder.

    from tools.import_maskrcnn import import_maskrcnn
    import_maskrcnn(network, semantic_head, read_taxonomy("cityscapes"), Path("engines/mine"), size_hw=(512, 1024))

`network` is a torchvision.models.detection.MaskRCNN, `semantic_head` a module that takes the features of its backbone,
a dictionary as torchvision's FPN gives it, and answers with logits (1, C, h, w), as in Panoptic FPN (Kirillov et al.,
CVPR 2019, section 3).
"""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, nms, roi_align

from perception_node.errors import UserError
from perception_node.importing import Imported, Normalisation, import_network
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Taxonomy

OPSET = 18  # RoiAlign samples half pixels since 16
NAMES = ("boxes", "classes", "scores", "masks28", "semantic")


class FixedMaskRCNN(torch.nn.Module):
    """Mask R-CNN's inference with the sizes of all tensors fixed, except within the non-maximum suppression.

    torchvision filters with boolean masks at every step, so that no size is known before the image is. Here what is
    filtered out gets a score below zero and zero area instead, and the best K of a fixed number of boxes are taken. The
    boxes, classes and scores are torchvision's own; detections that an image does not have come last, with score 0.

    Args:
        network: whose transform is left out: images come resized and normalised.
        semantic_head: features -> logits (1, C, h, w).
        class_ids: class id of each of the network's labels; label 0, the background, is never given.
        size_hw: height and width of the input.
        candidates: the most boxes, of all classes, that enter the last non-maximum suppression; the highest scores.
    """

    def __init__(
        self,
        network: MaskRCNN,
        semantic_head: torch.nn.Module,
        class_ids: Sequence[int],
        size_hw: tuple[int, int],
        candidates: int = 1000,
    ):
        super().__init__()
        self.network, self.semantic_head = network, semantic_head
        self.size_hw, self.candidates = size_hw, candidates
        self.eval()
        with torch.no_grad():
            image = torch.zeros(1, 3, *size_hw)
            features = network.backbone(image)
            anchors = network.rpn.anchor_generator(ImageList(image, [size_hw]), list(features.values()))
            for pooler in (network.roi_heads.box_roi_pool, network.roi_heads.mask_roi_pool):
                pooler.scales = None  # those of another size may be there
                pooler(features, [torch.tensor([[0.0, 0.0, 8.0, 8.0]])], [size_hw])
        self.register_buffer("anchors", anchors[0])
        self.register_buffer("class_ids", torch.tensor(class_ids))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Image float32 (1, 3, H, W) -> NAMES: (1, D, 4) xyxy, (1, D) int64, (1, D), (1, D, 28, 28), (1, C, h, w)."""
        features = self.network.backbone(image)
        boxes, labels, scores = self._detect(features, *self._propose(features))
        heads = self.network.roi_heads
        pooled = _pool(heads.mask_roi_pool, features, boxes)
        masks = heads.mask_predictor(heads.mask_head(pooled)).sigmoid()
        index = labels[:, None, None, None].expand(-1, 1, *masks.shape[-2:])
        masks = masks.gather(1, index)[:, 0]
        outputs = boxes, self.class_ids[labels], scores.clamp(min=0), masks
        return *(output[None] for output in outputs), self.semantic_head(features)

    def _propose(self, features: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Proposals (P, 4), and which of them there are, bool (P,)."""
        rpn = self.network.rpn
        objectness, deltas = rpn.head(list(features.values()))
        numbers = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = rpn.box_coder.decode(deltas, [self.anchors])[:, 0]
        best, levels, start = [], [], 0
        for level, number in enumerate(numbers):
            chosen = objectness[start : start + number, 0].topk(min(rpn.pre_nms_top_n(), number)).indices + start
            best.append(chosen)
            levels.append(torch.full_like(chosen, level))
            start += number
        chosen, levels = torch.cat(best), torch.cat(levels)
        boxes = clip_boxes_to_image(boxes[chosen], self.size_hw)
        scores = objectness[chosen, 0].sigmoid()
        valid = _large(boxes, rpn.min_size) & (scores >= rpn.score_thresh)
        kept, scores = self._suppress(boxes, scores, levels, valid, rpn.nms_thresh, rpn.post_nms_top_n())
        return boxes[kept], scores >= 0

    def _detect(
        self, features: Mapping[str, torch.Tensor], proposals: torch.Tensor, there: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes (D, 4), labels (D,) and scores (D,), below 0 where there is no detection."""
        heads = self.network.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(_pool(heads.box_roi_pool, features, proposals)))
        boxes = clip_boxes_to_image(heads.box_coder.decode(deltas, [proposals]), self.size_hw)[:, 1:].reshape(-1, 4)
        scores = (logits.softmax(-1) * there[:, None])[:, 1:]
        labels = torch.arange(1, logits.shape[1]).expand_as(scores).reshape(-1)
        scores, chosen = scores.reshape(-1).topk(min(self.candidates, scores.numel()))
        boxes, labels = boxes[chosen], labels[chosen]
        valid = (scores > heads.score_thresh) & _large(boxes, 1e-2)
        kept, scores = self._suppress(boxes, scores, labels, valid, heads.nms_thresh, heads.detections_per_img)
        return boxes[kept], labels[kept], scores

    def _suppress(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        groups: torch.Tensor,
        valid: torch.Tensor,
        threshold: float,
        most: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best boxes that no better one of their group overlaps: indices and scores (most,), -1 where none is left.

        Boxes of different groups are moved apart, so that one non-maximum suppression does for all.
        """
        apart = (boxes + groups[:, None] * (max(self.size_hw) + 1.0)) * valid[:, None]
        survivors = nms(apart, scores, threshold)
        survives = torch.zeros_like(scores).index_fill(0, survivors, 1.0) > 0
        scores = torch.where(survives & valid, scores, -1.0)
        scores, kept = scores.topk(min(most, scores.numel()))
        return kept, scores


def import_maskrcnn(
    network: MaskRCNN,
    semantic_head: torch.nn.Module,
    taxonomy: Taxonomy,
    out: Path,
    size_hw: tuple[int, int],
    class_ids: Sequence[int] | None = None,
    options: tuple[str, ...] = (),
    force: bool = False,
) -> Imported:
    """Exports both as one ONNX and makes a model folder of it.

    Args:
        network, semantic_head, size_hw: see FixedMaskRCNN.
        taxonomy: the classes, in the order of the semantic head's channels.
        out: model folder.
        class_ids: class id of each of the network's labels, the background's (label 0) first, 255 for those that the
            taxonomy lacks; None takes label i for the i-th thing class.
        options, force: see perception_node.importing.import_network.

    Raises:
        UserError: see import_network; or the labels are not as many as the class ids.
    """
    labels = network.roi_heads.box_predictor.cls_score.out_features
    class_ids = (UNLABELLED, *taxonomy.thing_ids) if class_ids is None else tuple(class_ids)
    if len(class_ids) != labels:
        raise UserError(
            f"class_ids {class_ids}: the network has {labels} labels with the background; expected: an id for each"
        )
    transform = network.transform
    mean, std = (tuple(round(255 * v, 4) for v in values) for values in (transform.image_mean, transform.image_std))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maskrcnn.onnx"
        onnx.save(export(FixedMaskRCNN(network, semantic_head, class_ids, size_hw)), path)
        return import_network(
            path,
            "instance_semantic",
            taxonomy,
            out,
            normalisation=Normalisation(mean, std),
            tensors={role: role for role in NAMES},
            options=options,
            description="Mask R-CNN with a semantic head, from torchvision",
            force=force,
        )


def export(module: FixedMaskRCNN) -> onnx.ModelProto:
    """The network as ONNX: image -> NAMES."""
    image = torch.zeros(1, 3, *module.size_hw)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(NAMES),
        )
        program.optimize()
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where each layer came from in Python, of no use to an engine
    return model


def _large(boxes: torch.Tensor, side: float) -> torch.Tensor:
    """Whether both sides are at least that, bool (N,)."""
    return (boxes[:, 2:] - boxes[:, :2] >= side).all(1)


def _pool(pooler: MultiScaleRoIAlign, features: Mapping[str, torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """(N, channels, *pooler.output_size): each box's patch of the level that its size calls for.

    Of every level, then the right one is taken: gathering the boxes of a level would make a tensor of unknown size.
    """
    rois = torch.nn.functional.pad(boxes, (1, 0))  # the batch's index, 0
    levels = pooler.map_levels([boxes])
    features = [feature for name, feature in features.items() if name in pooler.featmap_names]
    pooled = 0.0
    for level, (feature, scale) in enumerate(zip(features, pooler.scales, strict=True)):
        patch = roi_align(feature, rois, pooler.output_size, scale, pooler.sampling_ratio)
        pooled = pooled + patch * (levels == level)[:, None, None, None]
    return pooled
