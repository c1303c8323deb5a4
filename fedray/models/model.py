"""The section `model` of the settings, and facts about the networks by name. No torch is imported here, because it
takes seconds and a driver with its clients in other processes does without it. build.py has the networks themselves."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.core.settings import Auto, nearest, section, setting
from fedray.models import weights
from fedray.models.transferring import Transferring

Shape = tuple[int, ...]
"""The shape of one input; (channels, height, width) of an image."""


ANY = ("images", "vectors", "series", "arrays")
"""The forms of inputs that are numbers. Arrays are those of four axes or more."""
AXES = {1: "vectors", 2: "series", 3: "images"}


def form_of(kind: Kind, shape: Shape) -> str:
    """The form of inputs, as Facts.takes names it: values with three axes are images to a network."""
    return "tokens" if kind.inputs == "tokens" else AXES.get(len(shape), "arrays")


@dataclass(frozen=True)
class Facts:
    """Facts about a network that are known before it is built."""

    about: str
    """The network's size and source, for the help."""
    least: int
    """The shortest side of images that the network takes, in pixels, found by trying. Smaller images are resized."""
    channels_last: bool = False
    """Whether the network is measurably faster on a CPU in the memory format channels_last."""
    norms: bool = False
    """Whether the network has BatchNorm layers."""
    weights: str = ""
    """The file of torchvision's IMAGENET1K_V1 weights. Exactly torchvision's networks have one."""
    least_aux: int = 0
    """`least` of the network with its auxiliary classifiers; 0: it has none."""
    takes: tuple[str, ...] = ("images",)
    """The forms of inputs that the network takes."""
    stem: bool = False
    """Whether model.stem applies: the network begins with a 7 x 7 convolution of stride 2 and max-pooling."""


# channels_last is set where it made a training step of 10 and of 32 images faster, on one thread: cnn, densenet121
# (0.79 and 0.78 of the time at 32 x 32 pixels) and inception_v3 (0.93 and 0.86 at 75 x 75).
KNOWN: dict[str, Facts] = {
    "lenet5": Facts("62 k parameters", 16),
    "cnn": Facts("1.6 M, the CIFAR-10 benchmark of pfl-research", 6, channels_last=True),
    "logistic": Facts("multinomial logistic regression; also linear regression", 1, takes=ANY),
    "mlp": Facts("two hidden layers of 200, McMahan's 2NN", 1, takes=ANY),
    "cnn1d": Facts("three convolutions over a series, Wang et al.'s", 1, takes=("series",)),
    "lstm": Facts("one layer of 64 units, for series and token ids", 1, takes=("series", "tokens")),
    "transformer": Facts("two layers of width 64, for token ids", 1, takes=("tokens",)),
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
"""All networks with a name of their own. Those with `weights` are torchvision's, for images of three channels."""

OTHER_NAMES = {
    "2nn": "mlp",
    "dnn": "mlp",
    "lr": "logistic",
    "mlr": "logistic",
    "linear": "logistic",
    "resnet": "resnet18",
    "vgg": "vgg11",
    "densenet": "densenet121",
    "fedavgcnn": "mcmahan_cnn",
    "conv1d": "cnn1d",
    "tcn": "cnn1d",
    "fcn": "cnn1d",
    **dict.fromkeys(("rnn", "gru", "charlstm"), "lstm"),
    **dict.fromkeys(("bert", "attention", "encoder"), "transformer"),
}
"""Other names of networks, where the most similar one is another or there is none."""

WRITTEN_OUT = ("logistic", "mlp")
"""The stacks of Linear and ReLU, whose gradients fused/dense.py writes out. Many clients at once are then faster."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalisation of images for weights that were trained on ImageNet, from torchvision's documentation of them."""
AND = "+"
"""Between the fingerprints of the two files that a model may come from."""
GROUPS = 2  # the default of model.groups


def names_help() -> str:
    """The networks' names with `about` of each, fedray's own first and then torchvision's."""
    own, torchvision = (
        ", ".join(f"{name} ({facts.about})" for name, facts in KNOWN.items() if bool(facts.weights) == whether)
        for whether in (False, True)
    )
    return f"{own}; torchvision's {torchvision}"


@section
class Model(Transferring):
    """The network that the clients train, and changes to it."""

    name: str = setting(
        "lenet5",
        f"The network: {names_help()}; or your own, package.module:function, called as function(shape, classes) with "
        "the shape of an input, (channels, height, width) of an image, and the number of outputs; for token ids also "
        "with vocabulary and padding, where it has parameters of these names; it returns a torch.nn.Module.",
    )
    pretrained: bool = setting(
        False,
        "Whether to start from torchvision's weights for ImageNet (IMAGENET1K_V1); the last layer and auxiliary "
        "classifiers start from random weights; images are normalised as those weights need it. FEDRAY_WEIGHTS_URL "
        "names a mirror.",
    )
    freeze: Literal["none", "backbone"] = setting(
        "none",
        "Layers that are not trained, not changed and not sent: backbone is all layers before the last Linear layer, "
        "or before its projection head; it is for pretrained weights, those of init, or some that your own function "
        "loads.",
    )
    norm: Literal["own", "group"] = setting(
        "own", "Normalisation layers: the network's own, or group, which is GroupNorm in place of every BatchNorm."
    )
    groups: int = setting(GROUPS, "Groups of channels of those GroupNorm layers; 2 as in Reddi et al. 2021.", ge=1)
    stem: Literal["own", "cifar"] = setting(
        "own",
        "First layers of torchvision's resnets: own as for ImageNet, or cifar for small images, which is a 3 x 3 "
        "convolution of stride 1 without max-pooling.",
    )
    resize: int = setting(
        0,
        "Side to which images are resized inside the network, bilinearly, with antialiasing where they shrink; 0: only "
        "images smaller than the network's least size are resized "
        f"({', '.join(f'{name} {f.least}' for name, f in KNOWN.items() if f.least > 16)}).",
        unit="pixels",
        ge=0,
        le=4096,
    )
    aux_weight: float = setting(
        0.0,
        "Weight in training of each auxiliary classifier's loss in googlenet and inception_v3; 0: no auxiliary "
        "classifiers; GoogLeNet's paper has 0.3, PyTorch's tutorial on fine-tuning 0.4 for inception_v3.",
        ge=0,
        le=1e6,
    )
    precision: Literal["float32", "tf32", "bfloat16", "float32_3xtf32"] = setting(
        "float32",
        "Arithmetic of the forward and backward pass. float32 never uses TensorFloat-32, which torch by default uses "
        "for convolutions. tf32 is TensorFloat-32 for matrix products and convolutions on GPUs that have it, and "
        "float32 elsewhere. bfloat16 is autocast: parameters and updates stay float32; it is faster for large "
        "convolutions where the processor has it (AVX512-BF16, AMX). float32_3xtf32 is as accurate as float32: on a "
        "GPU engine = fused computes convolutions that read at least 32 channels as three TF32 products; all else is "
        "float32, as is everything on a CPU.",
    )
    channels_last: Auto[bool] = setting(
        None,
        "Memory format of images inside the network; auto: true for "
        f"{', '.join(name for name, facts in KNOWN.items() if facts.channels_last)}, where it is faster.",
    )
    projection: int = setting(
        0, "Width of a projection head before the last layer, as in MOON's models (256); 0: no head.", ge=0
    )
    init: str = setting(
        "",
        "File with the tensors that the model starts from, where their names and shapes fit; the others start fresh: "
        "a model that a run saved, or any state dict, as .safetensors or of torch.save (.pt, .pth, .bin), which is "
        "read without running code. A run is known by the file's content.",
    )
    trainable: str = setting(
        "",
        "Parameters that are trained, by name, all others being frozen: patterns separated by commas, for example "
        "'layer4.*,fc.*'; empty: all, or, with lora_rank, the adapters alone.",
    )
    lr_scale: str = setting(
        "",
        "Factors on algorithm.lr for parameters by name, the last pattern that fits one counting: "
        "'conv1.*=0.1,fc.*=2'; what has the factor 0 does not move, but is still sent.",
    )
    lora_rank: int = setting(
        0,
        "Rank r of low-rank adapters (LoRA) of Linear and Conv2d layers, which are trained and sent instead of the "
        "layers; 0: no adapters.",
        ge=0,
        le=4096,
    )
    lora_alpha: Auto[float] = setting(
        None, "Alpha of the adapters, which are scaled by alpha / r; auto: r, which is no scaling.", gt=0, le=1e6
    )
    lora_layers: str = setting(
        "*",
        "Layers that have adapters, by name: patterns separated by commas; those whose weight model.trainable trains "
        "have none.",
    )

    def __post_init__(self) -> None:
        self.check_transfer()
        if self.name not in KNOWN and not own_code.is_address(self.name):
            raise BadInputError(
                f"model.name = {self.name!r} is neither one of {', '.join(KNOWN)} nor "
                f"package.module:function{nearest(self.name, KNOWN, OTHER_NAMES)}"
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
        """BadInputError where the setting `what` is wanted, but is for the networks `names` only."""
        if wanted and self.name not in names:
            raise BadInputError(f"model.{what} is for {', '.join(names)}, not for model.name = {self.name}")

    @property
    def is_known(self) -> bool:
        """Whether the network is fedray's or torchvision's, not the user's own."""
        return self.name in KNOWN

    def check_inputs(self, kind: Kind, shape: Shape) -> None:
        """BadInputError where the network does not take such inputs."""
        form = form_of(kind, shape)
        if not self.is_known or form in KNOWN[self.name].takes:
            return
        fit = ", ".join(name for name, facts in KNOWN.items() if form in facts.takes)
        raise BadInputError(
            f"model.name = {self.name} takes {' and '.join(KNOWN[self.name].takes)}, and the inputs are {form} of "
            f"shape {shape}; for those there {f'is {fit}, or' if fit else 'is'} a function of your own"
        )

    @property
    def is_torchvisions(self) -> bool:
        return self.is_known and bool(KNOWN[self.name].weights)

    @property
    def is_written_out(self) -> bool:
        """Whether the network is a stack of Linear and ReLU that computes in float32."""
        changed = self.projection or self.resize or self.trains_a_part or self.freeze == "backbone"
        return self.name in WRITTEN_OUT and not changed and self.precision != "bfloat16"

    @property
    def features_are_fixed(self) -> str:
        """The setting that leaves no layer to train before the last Linear layer; empty if layers there train."""
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
        if len(shape) != 3:
            return None
        _, height, width = shape
        return self.resize or (self.least if min(height, width) < self.least else None)

    def resolved(self) -> "Model":
        """The same settings with "auto" replaced. The value depends on the model alone, because it changes the bits."""
        if self.channels_last is not None:
            return self
        return replace(self, channels_last=self.is_known and KNOWN[self.name].channels_last)

    def located(self) -> "Model":
        """The same settings with the path of model.init from the root, since processes have folders of their own."""
        return replace(self, init=str(Path(self.init).expanduser().absolute())) if self.init else self

    @property
    def preloaded(self) -> tuple[str, ...]:
        """The modules that building the network imports besides torch."""
        return ("torchvision.models",) if self.is_torchvisions else ()

    @property
    def is_here(self) -> bool:
        """Whether no pretrained weights have to be fetched."""
        return not self.pretrained or weights.find(KNOWN[self.name].weights) is not None

    @property
    def is_read_whole(self) -> bool:
        """Whether building the network takes the memory of all its pretrained weights. Mapped files take none."""
        if self.init:
            return True
        return self.pretrained and not weights.is_mappable(weights.locate(self.name, KNOWN[self.name].weights))

    def fingerprint(self) -> str:
        """A digest of the files that the model comes from: the user's module or the pretrained weights, and after a
        plus the file of model.init; empty if none.

        BadInputError where there is no such file. Weights that are not on this machine are fetched.
        """
        start = f"{AND}{self.init_fingerprint}" if self.init else ""
        if not self.is_known:
            return own_code.fingerprint(self.name, "model.name") + start
        source = weights.fingerprint(weights.locate(self.name, KNOWN[self.name].weights)) if self.pretrained else ""
        return source + start


def imagenet_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and std of each channel with which pretrained weights need images normalised.

    A grey image's channel has the mean over the three channels.
    """
    if channels == 1:
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    return IMAGENET_MEAN, IMAGENET_STD
