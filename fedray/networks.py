"""fedray's own networks under their short name; they are in models/small.py and models/resnets.py."""

from fedray.models.build import build
from fedray.models.resnets import resnet20, resnet56
from fedray.models.small import cnn, lenet5, logistic, mcmahan_cnn, mlp, vgg11

__all__ = ["build", "cnn", "lenet5", "logistic", "mcmahan_cnn", "mlp", "resnet20", "resnet56", "vgg11"]
