"""Panoptic-DeepLab (Cheng et al., CVPR 2020) on an EfficientNet-Lite0 backbone.

EfficientNet-Lite has no squeeze-and-excite and no swish: convolutions, ReLU6 and additions only, which TensorRT
fuses and INT8 keeps. Everything added here stays within those, plus concatenation and bilinear upsampling.
"""

import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

# (index of the last block at this stride, its channels), strides 4, 8, 16, 32 of EfficientNet-Lite0.
# The last block (320 channels) and the classifier's 1280 are left out: a third of the weights, little of the accuracy.
STAGES = ((2, 24), (4, 40), (10, 112), (14, 192))
OUTPUT_STRIDE = 4


def conv_bn_relu6(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU6(inplace=True),
    )


def separable(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """Depthwise, then pointwise: the paper's decoder block."""
    return nn.Sequential(conv_bn_relu6(c_in, c_in, kernel, groups=c_in), conv_bn_relu6(c_in, c_out))


class Backbone(nn.Module):
    """EfficientNet-Lite0 up to stride 32, returning the features at strides 4, 8, 16 and 32."""

    def __init__(self, input_size: tuple[int, int], weights: str | None):
        super().__init__()
        options = {"image_size": list(input_size), "drop_connect_rate": 0.0}
        if weights is None:
            net = EfficientNet.from_name("efficientnet-lite0", **options)
        else:
            net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights, **options)
        self.stem, self.stem_bn = net._conv_stem, net._bn0
        self.blocks = net._blocks[: STAGES[-1][0] + 1]
        for module in self.modules():
            _fold_symmetric_padding(module)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem_bn(self.stem(image)))
        features = []
        last_blocks = [index for index, _ in STAGES]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in last_blocks:
                features.append(x)
        return features


def _fold_symmetric_padding(module: nn.Module) -> None:
    """The library pads in a layer of its own; where the padding is symmetric the convolution can do it for free."""
    pad = getattr(module, "static_padding", None)
    if isinstance(pad, nn.ZeroPad2d):
        left, right, top, bottom = pad.padding
        if left == right and top == bottom:
            module.padding = (top, left)
            module.static_padding = nn.Identity()


class Context(nn.Module):
    """A light atrous spatial pyramid: what is around a pixel, near, far and over the whole image."""

    def __init__(self, c_in: int, c_out: int, width: int = 96, dilations: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        self.reduce = conv_bn_relu6(c_in, width)
        self.branches = nn.ModuleList(conv_bn_relu6(width, width, 3, d, groups=width) for d in dilations)
        self.whole = conv_bn_relu6(width, width)
        self.merge = conv_bn_relu6(width * (2 + len(dilations)), c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand_as(x)
        return self.merge(torch.cat([x, *(branch(x) for branch in self.branches), whole], 1))


class UpBlock(nn.Module):
    """Upsample to the skip's size, concatenate the projected skip, mix."""

    def __init__(self, c_in: int, c_skip: int, c_project: int, c_out: int, kernel: int):
        super().__init__()
        self.project = conv_bn_relu6(c_skip, c_project)
        self.mix = separable(c_in + c_project, c_out, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.mix(torch.cat([x, self.project(skip)], 1))


class Head(nn.Sequential):
    def __init__(self, c_in: int, width: int, c_out: int):
        super().__init__(separable(c_in, width, 3), nn.Conv2d(width, c_out, 1))


class PanopticDeepLab(nn.Module):
    """Image to semantic logits, centre heatmap and offsets, all at stride 4.

    Args:
        n_classes: number of semantic classes C.
        input_size: (height, width) of the network's input in pixels.
        backbone_weights: path of ImageNet weights for EfficientNet-Lite0, or None for random ones.

    Forward: image float32 (B, 3, H, W), normalised -> semantic (B, C, h, w) logits, center (B, 1, h, w) in about
    0..1, offset (B, 2, h, w) as (dy, dx) in input pixels from a pixel to the centre of its instance;
    h = ceil(H / 4), w = ceil(W / 4).
    """

    def __init__(self, n_classes: int, input_size: tuple[int, int], backbone_weights: str | None = None):
        super().__init__()
        (_, c4), (_, c8), (_, c16), (_, c32) = STAGES
        self.backbone = Backbone(input_size, backbone_weights)
        self.context = Context(c32, 128)
        # 5x5 as in the paper where pixels are few, 3x3 at stride 4, where they are not.
        self.up16 = UpBlock(128, c16, 64, 128, 5)
        self.up8 = UpBlock(128, c8, 32, 96, 5)
        self.semantic_up4 = UpBlock(96, c4, 24, 64, 3)
        self.instance_up4 = UpBlock(96, c4, 16, 48, 3)
        self.semantic = Head(64, 64, n_classes)
        self.center = Head(48, 32, 1)
        self.offset = Head(48, 32, 2)
        # Offsets are tens of pixels: a head that starts at that scale need not grow its weights first.
        self.offset_scale = 32.0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x4, x8, x16, x32 = self.backbone(image)
        x = self.up8(self.up16(self.context(x32), x16), x8)
        instance = self.instance_up4(x, x4)
        return self.semantic(self.semantic_up4(x, x4)), self.center(instance), self.offset(instance) * self.offset_scale
