"""torchvision's wheel on PyPI is built for CUDA's torch: beside a CPU's torch its compiled operators cannot be loaded.

Then not even `import torchvision` works, and transformers, which looks for it, stops working too. The tests need two of
the operators, in small sizes: importing this module defines them in Python, if torchvision is there and broken.
"""

import importlib
import importlib.util
import inspect


def _repair_torchvision() -> None:
    if not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        return
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        library.impl("nms", _nms, "CPU")
        _repair_torchvision.library = library  # which takes the operators with it when it goes
        extension = importlib.import_module("torchvision.extension")
        module = importlib.import_module("torchvision.ops.roi_align")
        library.impl("roi_align", inspect.unwrap(module._roi_align), "CPU")  # unwrapped: not compiled
        torch.library.register_fake(
            "torchvision::roi_align",
            lambda image, rois, scale, height, width, ratio, aligned: image.new_empty(
                (rois.shape[0], image.shape[1], height, width)
            ),
            lib=library,
        )
        extension._has_ops = module._has_ops = lambda: True


def _nms(boxes, scores, iou_threshold):
    """Indices of the boxes that no better one overlaps by more, best first."""
    import torch

    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        corners = torch.maximum(boxes[best, :2], boxes[left, :2]), torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (corners[1] - corners[0]).clamp(min=0).prod(1)
        left = left[~(shared / (area[best] + area[left] - shared) > iou_threshold)]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)


_repair_torchvision()
