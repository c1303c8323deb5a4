"""A small network of a user's own. Its bytes are in run ids: no byte of this file may change."""

from torch import nn


def build(shape, classes):
    """A convolution with BatchNorm, then the mean of each of its four channels."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )
