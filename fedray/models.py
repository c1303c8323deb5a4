"""The models by name, and what the driver knows of one. The networks themselves are in networks/, since a driver with
its clients in other processes has no use for torch, which takes seconds to import."""

import dataclasses
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from fedray import own_models, weights
from fedray.errors import BadInputError
from fedray.settings import Auto, nearest, section, setting

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Facts:
    """What is known of a network without building it."""

    about: str
    """Its size and source, for the help."""
    least: int
    """The shortest side of the images that it takes, in pixels; found by trying, and smaller ones are resized to it."""
    channels_last: bool = False
    """The memory format in which it is faster on a CPU, where the difference could be told."""
    norms: bool = False
    """Whether it has BatchNorm layers."""
    weights: str = ""
    """The file of torchvision's IMAGENET1K_V1 weights, which tells the networks that are torchvision's."""
    least_aux: int = 0
    """`least` for it with its auxiliary classifiers; 0: it has none."""
    stem: bool = False
    """Whether it begins with a 7 x 7 convolution of stride 2 and max-pooling, so that model.stem is for it."""


# channels_last where a training step of 10 and of 32 images took less time so, on one thread: cnn, densenet121 (0.79
# and 0.78 of the time at 32 x 32 pixels) and inception_v3 (0.93 and 0.86 at 75 x 75).
KNOWN: dict[str, Facts] = {
    "lenet5": Facts("62 k parameters", 16),
    "cnn": Facts("1.6 M, the CIFAR-10 benchmark of pfl-research", 6, channels_last=True),
    "logistic": Facts("multinomial logistic regression", 1),
    "mlp": Facts("two hidden layers of 200, McMahan's 2NN", 1),
    "mcmahan_cnn": Facts("1.7 M on MNIST, McMahan's CNN", 4),
    "vgg11": Facts("9.8 M, VGG-11 for CIFAR as in FedNova's experiments", 32),
    "resnet20": Facts("0.27 M, He et al.'s for CIFAR", 1, norms=True),
    "resnet56": Facts("0.85 M, the same, deeper", 1, norms=True),
    "resnet18": Facts("11.2 M", 1, norms=True, weights="resnet18-f37072fd.pth", stem=True),
    "resnet50": Facts("23.5 M", 1, norms=True, weights="resnet50-0676ba61.pth", stem=True),
    "densenet121": Facts("7.0 M", 29, channels_last=True, norms=True, weights="densenet121-a639ec97.pth"),
    "alexnet": Facts("57 M", 63, weights="alexnet-owt-7be5be79.pth"),
    "vgg16": Facts("134 M", 32, weights="vgg16-397923af.pth"),
    "vgg19": Facts("140 M", 32, weights="vgg19-dcbb9e9d.pth"),
    "inception_v3": Facts(
        "21.8 M", 75, channels_last=True, norms=True, weights="inception_v3_google-0cc3c7bd.pth", least_aux=299
    ),
    "googlenet": Facts("5.6 M", 15, norms=True, weights="googlenet-1378be20.pth", least_aux=15),
}
"""Every network that has a name. Those with `weights` are torchvision's, for images of three channels."""

WRITTEN_OUT = ("logistic", "mlp")
"""Stacks of Linear and ReLU, whose gradients fused/dense.py writes out, so that many clients at once are faster."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What images are normalised by for weights that were trained on ImageNet (torchvision's documentation of them)."""
GROUPS = 2  # of channels, unless model.groups says otherwise


def names_help() -> str:
    """The names with what is said about each, torchvision's apart."""
    own, torchvision = (
        ", ".join(f"{name} ({facts.about})" for name, facts in KNOWN.items() if bool(facts.weights) == whether)
        for whether in (False, True)
    )
    return f"{own}; torchvision's {torchvision}"


@section
class Model:
    """Which network the clients train."""

    name: str = setting(
        "lenet5",
        f"The network: {names_help()}; or one of your own, package.module:function, called as function(shape, "
        "classes) with the shape (channels, height, width) of an image, which gives a torch.nn.Module.",
    )
    pretrained: bool = setting(
        False,
        "Whether to start from torchvision's weights of ImageNet (IMAGENET1K_V1), but for the last layer and auxiliary "
        "classifiers, which start fresh; images are normalised as theirs were. FEDRAY_WEIGHTS_URL names a mirror.",
    )
    freeze: Literal["none", "backbone"] = setting(
        "none",
        "What is not trained, and so neither sent nor changed: backbone is all but the last Linear layer, or its "
        "projection head; it is for pretrained weights, or those that a function of your own loads.",
    )
    norm: Literal["own", "group"] = setting(
        "own", "Normalisation layers: the network's own, or GroupNorm in the place of every BatchNorm."
    )
    groups: int = setting(GROUPS, "Groups of channels of those GroupNorm layers; 2 as in Reddi et al. 2021.", ge=1)
    stem: Literal["own", "cifar"] = setting(
        "own",
        "How torchvision's resnets begin: as for ImageNet, or with a 3 x 3 convolution of stride 1 and no max-pooling, "
        "for small images.",
    )
    resize: int = setting(
        0,
        "Side to which images are resized inside the network, bilinearly, antialiased where they shrink; 0: they are "
        "not, but for those smaller than "
        f"what it takes at least ({', '.join(f'{name} {f.least}' for name, f in KNOWN.items() if f.least > 16)}).",
        unit="pixels",
        ge=0,
        le=4096,
    )
    aux_weight: float = setting(
        0.0,
        "Weight of the loss of each auxiliary classifier of googlenet and inception_v3 in training; 0: they are left "
        "out; GoogLeNet's paper has 0.3, PyTorch's tutorial on fine-tuning 0.4 for inception_v3.",
        ge=0,
        le=1e6,
    )
    precision: Literal["float32", "tf32", "bfloat16"] = setting(
        "float32",
        "Arithmetic of the forward and backward pass. tf32 is TensorFloat-32 for matrix products and convolutions on "
        "GPUs that have it, and float32 elsewhere; float32 uses it for neither, as torch does for convolutions unless "
        "told not to. bfloat16 is autocast: parameters and updates stay float32; it is faster for large convolutions "
        "where the processor has it (AVX512-BF16, AMX).",
    )
    channels_last: Auto[bool] = setting(
        None,
        "Memory format of images inside the network; auto: true for "
        f"{', '.join(name for name, facts in KNOWN.items() if facts.channels_last)}, where it is faster.",
    )
    projection: int = setting(
        0, "Width of a projection head in front of the last layer, which MOON's models have (256); 0: none.", ge=0
    )

    def __post_init__(self) -> None:
        if self.name not in KNOWN and not own_models.is_name(self.name):
            raise BadInputError(
                f"model.name = {self.name!r} is neither one of {', '.join(KNOWN)} nor "
                f"package.module:function{nearest(self.name, KNOWN)}"
            )
        self.check("pretrained = true", self.pretrained, [name for name, facts in KNOWN.items() if facts.weights])
        self.check("stem = cifar", self.stem == "cifar", [name for name, facts in KNOWN.items() if facts.stem])
        self.check(
            f"aux_weight = {self.aux_weight:g}", self.aux_weight > 0, [n for n, f in KNOWN.items() if f.least_aux]
        )
        if self.is_known:
            with_norms = [name for name, facts in KNOWN.items() if facts.norms]
            self.check("norm = group, in the place of BatchNorm,", self.norm == "group", with_norms)
        if self.groups != GROUPS and self.norm == "own":
            raise BadInputError(f"model.groups = {self.groups} is for model.norm = group, not own")
        if self.pretrained and (self.norm, self.stem) != ("own", "own"):
            changed = "norm = group" if self.norm == "group" else "stem = cifar"
            raise BadInputError(f"model.pretrained = true is for the network as it is, not with model.{changed}")
        if self.aux_weight and self.freeze == "backbone":
            raise BadInputError(
                f"model.aux_weight = {self.aux_weight:g} trains layers that model.freeze = backbone does not train"
            )
        if 0 < self.resize < self.least:
            raise BadInputError(f"model.resize = {self.resize} is less than the {self.least} pixels of {self.name}")

    def check(self, what: str, wanted: bool, names: list[str]) -> None:
        """Refuse what is wanted but is for other networks only."""
        if wanted and self.name not in names:
            raise BadInputError(f"model.{what} is for {', '.join(names)}, not for model.name = {self.name}")

    @property
    def is_known(self) -> bool:
        """Whether it is one of fedray's or torchvision's, not the user's own."""
        return self.name in KNOWN

    @property
    def is_torchvisions(self) -> bool:
        return self.is_known and bool(KNOWN[self.name].weights)

    @property
    def is_written_out(self) -> bool:
        """Whether it is a stack of Linear and ReLU that computes in float32."""
        return self.name in WRITTEN_OUT and not (self.projection or self.resize) and self.precision != "bfloat16"

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has BatchNorm layers that train; nobody knows of one of the user's own before it is built."""
        return self.is_known and KNOWN[self.name].norms and self.norm == "own" and self.freeze == "none"

    @property
    def features_are_fixed(self) -> str:
        """The setting by which nothing before the last Linear layer is trained; empty if something is."""
        fixed = {"model.freeze = backbone": self.freeze == "backbone", "model.name = logistic": self.name == "logistic"}
        return "" if self.projection else next((setting for setting, holds in fixed.items() if holds), "")

    @property
    def least(self) -> int:
        """The shortest side of the images that the network takes, in pixels."""
        if not self.is_known:
            return 1
        return KNOWN[self.name].least_aux if self.aux_weight else KNOWN[self.name].least

    def side(self, shape: Shape) -> int | None:
        """The side to which images of this shape are resized; None where they stay as they are."""
        _, height, width = shape
        return self.resize or (self.least if min(height, width) < self.least else None)

    def resolved(self) -> "Model":
        """With "auto" replaced by its value: a rule on the model alone, since it changes the bits."""
        if self.channels_last is not None:
            return self
        return dataclasses.replace(self, channels_last=self.is_known and KNOWN[self.name].channels_last)

    @property
    def preloaded(self) -> tuple[str, ...]:
        """What building it imports besides torch."""
        return ("torchvision.models",) if self.is_torchvisions else ()

    @property
    def is_here(self) -> bool:
        """Whether nothing of it would have to be fetched."""
        return not self.pretrained or weights.find(KNOWN[self.name].weights) is not None

    @property
    def is_read_whole(self) -> bool:
        """Whether building it takes the memory of all its pretrained weights; what is mapped from a file takes none."""
        return self.pretrained and not weights.is_mappable(weights.locate(self.name, KNOWN[self.name].weights))

    def fingerprint(self) -> str:
        """A digest of what the settings do not say of it: the file of a function of the user's, pretrained weights.

        BadInputError where there is no such file; weights are fetched if they are not here.
        """
        if not self.is_known:
            return own_models.fingerprint(self.name)
        return weights.fingerprint(weights.locate(self.name, KNOWN[self.name].weights)) if self.pretrained else ""


def imagenet_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and std that pretrained weights want images normalised by; of a grey image's channel, their means."""
    if channels == 1:
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    return IMAGENET_MEAN, IMAGENET_STD


AROUND, WIDEST = 1.5, 3
"""So that what is counted is 0.95 to 1.5 times the peak that was measured, which depends on how the allocator finds
room: least for resnet20 (256 images, MOON), most for resnet18 (64 images of 224 x 224 pixels)."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model as the driver needs it: its initial params [P] and buffers [B], and how they make a state dict."""

    params: np.ndarray
    buffers: np.ndarray
    places: dict[str, tuple[str, tuple[int, ...]]]
    """In the vectors' order, each tensor's name: the vector that holds it ("params" or "buffers") and its shape."""
    others: dict[str, np.ndarray]
    """What is in neither vector and stays as it was built: integer buffers, and layers that are frozen."""
    names: list[str]
    """The names of all in the vectors that the model's state dict has, in its own order."""
    norms: list[str]
    """Those of them that belong to BatchNorm layers, with which a training step fails on a batch of one image."""
    kept_bytes: int
    """What a forward pass in training keeps of one image for the backward pass."""
    widest_bytes: int
    """The largest tensor that a layer gives for one image."""
    torch: "Torch"
    featureless: str = ""
    """Why a network of the user's own learns no features that its last Linear layer is given; empty if it does."""
    idle: tuple[str, ...] = ()
    """The parameters of a network of the user's own that its output does not depend on."""
    unstackable: str = ""
    """Why many clients' of a network of the user's own cannot be computed as one program; empty if they can."""
    draws: bool = False
    """Whether a forward pass in training draws from torch's own generator, as all that is random does but nn.Dropout,
    whose masks have addresses."""

    def activation_bytes(self, batch: int, evaluated: int) -> int:
        """The most that batches of so many images, in training and in evaluation, take at once.

        What is kept comes to take AROUND times its size, and WIDEST of the largest tensors come and go beside it; of an
        evaluation only these do.
        """
        return int(AROUND * batch * self.kept_bytes) + WIDEST * (batch + evaluated) * self.widest_bytes

    @property
    def unfit_to_fuse(self) -> str:
        """Why engine = fused cannot train it; empty if it can."""
        if self.draws:
            return "it draws random numbers in training other than by nn.Dropout"
        if self.norms:
            return f"its layer {self.norms[0].rpartition('.')[0]} is a BatchNorm, which that engine does not train"
        return f"as many clients' at a time it fails ({self.unstackable})" if self.unstackable else ""

    @property
    def frozen_bytes(self) -> int:
        """The size of what every process holds of the model besides its vectors."""
        return sum(tensor.nbytes for tensor in self.others.values())

    def state_dict(self, params: np.ndarray, buffers: np.ndarray) -> dict[str, np.ndarray]:
        """The module's whole state dict, by torch's names, with `params` [P] and `buffers` [B] in place.

        Buffers that are not persistent are in the vectors, but not in here.
        """
        vectors, at, tensors = {"params": params, "buffers": buffers}, {"params": 0, "buffers": 0}, dict(self.others)
        for name, (kind, shape) in self.places.items():
            first, at[kind] = at[kind], at[kind] + prod(shape)
            if name in self.names:
                tensors[name] = vectors[kind][first : at[kind]].reshape(shape)
        return tensors


@dataclass(frozen=True)
class Torch:
    """The torch that the clients run on: its version and build, and the processor's abilities."""

    version: str
    cpu_capability: str
    bfloat16: bool
    """Whether the processor computes in bfloat16, rather than emulate it."""


def blueprint(model: Model, shape: Shape, classes: int, seed: int, fingerprint: str = "") -> Blueprint:
    """The blueprint of a model and the torch that it was built with, which this call imports where it runs.

    `shape` is (channels, height, width) of one image; `fingerprint` is what Model.fingerprint should be, if given.
    """
    from fedray import networks

    try:
        return networks.blueprint(model, shape, classes, seed, fingerprint)
    except SystemExit as error:
        why = f"failed for images {shape} ({own_models.describe(error)})"
        raise BadInputError(f"model.name = {model.name} {why}") from error
