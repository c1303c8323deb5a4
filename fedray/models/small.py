"""fedray's own small networks, each from the shape (channels, height, width) of an image and the number of classes."""

from math import prod

from torch import nn

from fedray.models.model import Shape


def lenet5(shape: Shape, classes: int) -> nn.Module:
    """LeCun et al. 1998, with ReLU and max-pooling as in NIID-Bench (arXiv 2102.02079); 62,006 parameters."""
    channels, height, width = shape
    flat = 16 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip


def cnn(shape: Shape, classes: int) -> nn.Module:
    """The CIFAR-10 benchmark model of pfl-research (arXiv 2404.06430): 1,626,442 parameters on CIFAR-10."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, classes),
    )  # fmt: skip


def logistic(shape: Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression on the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """McMahan et al. 2017's 2NN: two hidden layers of 200 units with ReLU; 199,210 parameters on MNIST."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(shape), 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, classes)
    )


def mcmahan_cnn(shape: Shape, classes: int) -> nn.Module:
    """McMahan et al. 2017's CNN (arXiv 1602.05629, section 3): 1,663,370 parameters on MNIST, as the paper says."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU(), nn.Linear(512, classes),
    )  # fmt: skip


def vgg11(shape: Shape, classes: int) -> nn.Module:
    """Configuration A of Simonyan, Zisserman 2014 (arXiv 1409.1556) with hidden layers of 512 units for small images.

    Its convolutions are initialised as in He et al. 2015 (arXiv 1502.01852); without that it hardly begins to learn.
    It has 9,750,922 parameters on CIFAR-10, as in FedNova's experiments (arXiv 2007.07481).
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for out in stage:
            conv = nn.Conv2d(channels, out, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(512 * (height // 32) * (width // 32), 512), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, classes),
    )  # fmt: skip
