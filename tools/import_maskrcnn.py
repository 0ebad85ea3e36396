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
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from perception_node.errors import UserError
from perception_node.importing import Imported, Normalisation, import_network
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Taxonomy

OPSET = 18
ROUNDS = 32
"""Of non-maximum suppression: see _survive."""
NAMES = ("boxes", "classes", "scores", "masks28", "semantic")


class FixedMaskRCNN(torch.nn.Module):
    """Mask R-CNN's inference with the sizes of all tensors fixed, of operators that every TensorRT runs.

    torchvision filters with boolean masks at every step, so that no size is known before the image is. Here what is
    filtered out gets a score below zero instead, and the best K of a fixed number of boxes are taken. The answers are
    torchvision's own; detections that an image does not have come last, with score 0.

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
        rows, kept, start = [], [], 0
        for number in numbers:
            chosen = objectness[start : start + number, 0].topk(min(rpn.pre_nms_top_n(), number)).indices + start
            level = clip_boxes_to_image(boxes[chosen], self.size_hw)
            scores = objectness[chosen, 0].sigmoid()
            valid = _large(level, rpn.min_size) & (scores >= rpn.score_thresh)
            rows.append(level)
            kept.append(torch.where(_survive(level, valid, rpn.nms_thresh), scores, -1.0))
            start += number
        boxes, scores = torch.cat(rows), torch.cat(kept)
        scores, best = scores.topk(min(rpn.post_nms_top_n(), scores.numel()))
        return boxes[best], scores >= 0

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
        scores = torch.where(_survive(boxes, valid, heads.nms_thresh, labels), scores, -1.0)
        scores, best = scores.topk(min(heads.detections_per_img, scores.numel()))
        return boxes[best], labels[best], scores


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
        UserError: see import_network; or the labels are not as many as the class ids; or a pooler's sampling_ratio
            leaves the number of samples to the box.
    """
    labels = network.roi_heads.box_predictor.cls_score.out_features
    class_ids = (UNLABELLED, *taxonomy.thing_ids) if class_ids is None else tuple(class_ids)
    if len(class_ids) != labels:
        raise UserError(
            f"class_ids {class_ids}: the network has {labels} labels with the background; expected: an id for each"
        )
    for pooler in (network.roi_heads.box_roi_pool, network.roi_heads.mask_roi_pool):
        if pooler.sampling_ratio < 1:
            raise UserError(f"sampling_ratio {pooler.sampling_ratio}: expected: a fixed one, e.g. torchvision's 2")
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


def _survive(
    boxes: torch.Tensor, valid: torch.Tensor, threshold: float, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """Non-maximum suppression: which of the boxes no better one, that survives itself, overlaps.

    In rounds, each of which settles the boxes whose better ones were settled before. So the answer is that of taking
    the boxes one by one, unless a chain of more than ROUNDS boxes suppress each other in turn. It needs no operator
    whose output has a size of its own, which a CUDA graph could not hold and TensorRT-RTX does not have.

    Args:
        boxes: (N, 4), xyxy, the best first.
        valid: bool (N,), the others neither survive nor suppress.
        threshold: intersection over union, above which the better one suppresses.
        groups: int (N,), within which boxes compete; None: all do.

    Returns:
        bool (N,).
    """
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    rank = torch.arange(len(boxes))
    suppresses = (intersection > threshold * (area[:, None] + area - intersection)) & (rank[:, None] > rank)
    if groups is not None:
        suppresses &= groups[:, None] == groups
    suppresses, survives = suppresses.float(), valid.float()[:, None]
    for _ in range(ROUNDS):
        survives = valid[:, None] * (suppresses @ survives < 0.5).float()
    return survives[:, 0] > 0


def _align(feature: torch.Tensor, boxes: torch.Tensor, size_hw: Sequence[int], ratio: int) -> torch.Tensor:
    """torchvision.ops.roi_align by grid_sample: RoiAlign is a plugin, which TensorRT-RTX lacks.

    Args:
        feature: (1, C, h, w).
        boxes: (N, 4), xyxy in the feature's pixels, within it.
        size_hw: of the patches.
        ratio: samples for each of a patch's pixels, squared, whose mean it is.

    Returns:
        (N, C, *size_hw).
    """
    height, width = feature.shape[-2:]
    (patch_height, patch_width), number = size_hw, len(boxes)

    def along(begin: torch.Tensor, end: torch.Tensor, samples: int, length: int) -> torch.Tensor:
        """Where the samples lie, -1 to 1 from the first pixel's middle to the last one's; (N, samples)."""
        steps = (torch.arange(samples) + 0.5) / samples
        positions = begin[:, None] + (end - begin).clamp(min=1.0)[:, None] * steps
        return positions * (2.0 / max(length - 1, 1)) - 1.0

    left, top, right, bottom = boxes.unbind(1)
    x = along(left, right, patch_width * ratio, width)[:, None, :].expand(-1, patch_height * ratio, -1)
    y = along(top, bottom, patch_height * ratio, height)[:, :, None].expand(-1, -1, patch_width * ratio)
    grid = torch.stack([x, y], -1).reshape(1, number * patch_height * ratio, patch_width * ratio, 2)
    samples = torch.nn.functional.grid_sample(feature, grid, padding_mode="border", align_corners=True)
    samples = samples.reshape(-1, number, patch_height, ratio, patch_width, ratio)
    return samples.mean((3, 5)).transpose(0, 1)


def _pool(pooler: MultiScaleRoIAlign, features: Mapping[str, torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """(N, channels, *pooler.output_size): each box's patch of the level that its size calls for.

    Of every level, then the right one is taken: gathering the boxes of a level would make a tensor of unknown size.
    """
    levels = pooler.map_levels([boxes])
    features = [feature for name, feature in features.items() if name in pooler.featmap_names]
    pooled = 0.0
    for level, (feature, scale) in enumerate(zip(features, pooler.scales, strict=True)):
        patch = _align(feature, boxes * scale, pooler.output_size, pooler.sampling_ratio)
        pooled = pooled + patch * (levels == level)[:, None, None, None]
    return pooled
