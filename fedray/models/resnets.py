"""Residual networks for CIFAR-10: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv
1512.03385, section 4.2. They have a 3 x 3 convolution and three stages of n blocks with 16, 32 and 64 channels, 6n + 2
layers in all.

Shortcuts have no parameters (the paper's option A). At the start of a stage they take every other pixel, and the new
channels are 0. Convolutions are initialised as in He et al. 2015, arXiv 1502.01852, as the paper says.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fedray.models.model import Shape


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.stride, self.new = stride, out - channels
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


def resnet(n: int, shape: Shape, classes: int) -> nn.Module:
    """The network of 6n + 2 layers."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for out in (16, 32, 64):
        for i in range(n):
            layers.append(Block(channels, out, 2 if i == 0 and out > 16 else 1))
            channels = out
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return module


def resnet20(shape: Shape, classes: int) -> nn.Module:
    """n = 3: 269,722 parameters on CIFAR-10 (the paper says 0.27 M)."""
    return resnet(3, shape, classes)


def resnet56(shape: Shape, classes: int) -> nn.Module:
    """n = 9: 853,018 parameters on CIFAR-10 (the paper says 0.85 M)."""
    return resnet(9, shape, classes)
