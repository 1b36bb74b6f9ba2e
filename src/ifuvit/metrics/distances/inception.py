"""The Inception network of 2015 that FID is defined by, as a module that loads pytorch-fid's weight file.

Layers and shapes are those of Szegedy et al. 2015, arXiv:1512.00567, Table 1 and Figures 5 to 7 and 10; parameters have
torchvision's names, which the weight file uses. The network of FID differs from the published one in its pooling: the
average pools of the Mixed blocks do not count the padding, and the last block takes a maximum instead of an average.

Shapes: images (B, 3, 299, 299) in [-1, 1]; feature maps below as channels x side.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv(NamedTuple):
    """A convolution of a Mixed block. Stride 1 keeps the side of the map, stride 2 has no padding."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Pool(NamedTuple):
    """A 3 x 3 pool at the begin of a branch."""

    kind: str
    """"average" (padding not counted), "maximum", or "reduce" (maximum with stride 2)"""


class Fork(NamedTuple):
    """Two convolutions of the same input at a branch's end, whose outputs are concatenated."""

    first: Conv
    second: Conv


Branch = tuple[Conv | Pool | Fork, ...]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), *, stride: int = 1, padded: bool = False
    ):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, their outputs concatenated along the channels in their order."""

    def __init__(self, inputs: int, branches: tuple[Branch, ...]):
        super().__init__()
        self.branches = branches
        self.channels = 0
        for branch in branches:
            channels = inputs
            for step in branch:
                if isinstance(step, Conv):
                    channels = self._add(step, channels)
                elif isinstance(step, Fork):
                    channels = self._add(step.first, channels) + self._add(step.second, channels)
            self.channels += channels

    def _add(self, conv: Conv, inputs: int) -> int:
        layer = ConvNorm(inputs, conv.channels, conv.kernel, stride=conv.stride, padded=conv.stride == 1)
        self.add_module(conv.name, layer)
        return conv.channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._run(branch, x) for branch in self.branches], dim=1)

    def _run(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            elif isinstance(step, Fork):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], dim=1)
            elif step.kind == "average":
                x = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            elif step.kind == "maximum":
                x = functional.max_pool2d(x, 3, stride=1, padding=1)
            else:
                x = functional.max_pool2d(x, 3, stride=2)
        return x


def _mixed_35(inputs: int, pooled: int) -> Mixed:
    """Figure 5, on maps of 35 x 35."""
    return Mixed(
        inputs,
        (
            (Conv("branch1x1", 64),),
            (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
            (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
            (Pool("average"), Conv("branch_pool", pooled)),
        ),
    )


def _reduce_35(inputs: int) -> Mixed:
    """Figure 10: 35 x 35 to 17 x 17."""
    return Mixed(
        inputs,
        (
            (Conv("branch3x3", 384, (3, 3), 2),),
            (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3), 2)),
            (Pool("reduce"),),
        ),
    )


def _mixed_17(inputs: int, inner: int) -> Mixed:
    """Figure 6, on maps of 17 x 17: 7 x 7 convolutions in two parts."""
    wide, tall = (1, 7), (7, 1)
    return Mixed(
        inputs,
        (
            (Conv("branch1x1", 192),),
            (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, wide), Conv("branch7x7_3", 192, tall)),
            (
                Conv("branch7x7dbl_1", inner),
                Conv("branch7x7dbl_2", inner, tall),
                Conv("branch7x7dbl_3", inner, wide),
                Conv("branch7x7dbl_4", inner, tall),
                Conv("branch7x7dbl_5", 192, wide),
            ),
            (Pool("average"), Conv("branch_pool", 192)),
        ),
    )


def _reduce_17(inputs: int) -> Mixed:
    """17 x 17 to 8 x 8."""
    return Mixed(
        inputs,
        (
            (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)),
            (
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, (1, 7)),
                Conv("branch7x7x3_3", 192, (7, 1)),
                Conv("branch7x7x3_4", 192, (3, 3), 2),
            ),
            (Pool("reduce"),),
        ),
    )


def _mixed_8(inputs: int, pool: str) -> Mixed:
    """Figure 7, on maps of 8 x 8: 3 x 3 convolutions in two parts side by side."""
    wide, tall = (1, 3), (3, 1)
    return Mixed(
        inputs,
        (
            (Conv("branch1x1", 320),),
            (Conv("branch3x3_1", 384), Fork(Conv("branch3x3_2a", 384, wide), Conv("branch3x3_2b", 384, tall))),
            (
                Conv("branch3x3dbl_1", 448),
                Conv("branch3x3dbl_2", 384, (3, 3)),
                Fork(Conv("branch3x3dbl_3a", 384, wide), Conv("branch3x3dbl_3b", 384, tall)),
            ),
            (Pool(pool), Conv("branch_pool", 192)),
        ),
    )


class Inception2015(nn.Module):
    """The network up to its last average pool; the classifier is there for the sake of the weight file."""

    width = 2048
    """D, the width of the features"""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, padded=True)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = _mixed_35(192, pooled=32)
        self.Mixed_5c = _mixed_35(256, pooled=64)
        self.Mixed_5d = _mixed_35(288, pooled=64)
        self.Mixed_6a = _reduce_35(288)
        self.Mixed_6b = _mixed_17(768, inner=128)
        self.Mixed_6c = _mixed_17(768, inner=160)
        self.Mixed_6d = _mixed_17(768, inner=160)
        self.Mixed_6e = _mixed_17(768, inner=192)
        self.Mixed_7a = _reduce_17(768)
        self.Mixed_7b = _mixed_8(1280, pool="average")
        self.Mixed_7c = _mixed_8(2048, pool="maximum")
        self.fc = nn.Linear(self.width, 1008)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 299, 299) in [-1, 1] -> features (B, 2048)."""
        x = images
        for name, layer in self.named_children():
            if name != "fc":
                x = layer(x)
        return x.mean((2, 3))
