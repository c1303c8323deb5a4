"""A network prepared for transfer: adapters, the tensors of model.init, and which parameters are trained."""

from collections.abc import Collection

from torch import nn

from fedray.core.errors import BadInputError
from fedray.models import lora, start
from fedray.models.imagenet import AUXILIARY
from fedray.models.model import Model
from fedray.models.patterns import all_fitting, listed


def prepare(module: nn.Module, model: Model, head: str, wanted: str = "") -> None:
    """Change a network as model.init, model.trainable and the adapters' settings say.

    `head` is the name of what was the last Linear layer, which pretrained weights leave fresh. `wanted` is the SHA-256
    of the file of model.init, if that is known. BadInputError where a layer would be left random for good.
    """
    whole = trained_whole(module, model)
    adapters = lora.adapt(module, model, whole) if model.lora_rank else set[str]()
    fresh = {name for name, _ in module.named_parameters() if name.startswith((f"{head}.", *AUXILIARY))}
    if model.init:
        fresh = set(start.take(module, model.init, wanted).fresh)
    if model.trains_a_part:
        train_only(module, whole | adapters)
    if model.is_known and model.freezes:
        left = [name for name, p in module.named_parameters() if name in fresh and not p.requires_grad]
        if left:
            raise BadInputError(
                f"{listed(left)} would stay random for good: {model.freezes} does not train what "
                f"{'model.init lacks' if model.init else 'pretrained weights lack'}; name it in model.trainable, too"
            )


def trained_whole(module: nn.Module, model: Model) -> set[str]:
    """The names of the parameters that are trained themselves, and not by an adapter."""
    names = [name for name, _ in module.named_parameters()]
    if model.trainable:
        return all_fitting(model.trainable, names, "model.trainable", "parameter")
    return set()


def train_only(module: nn.Module, trained: Collection[str]) -> None:
    """Train these parameters and no others.

    A layer whose own parameters are all frozen is put into evaluation mode, and so is one without parameters that comes
    before all that is trained, in the order of the module. Of the last layer alone this makes what freeze_backbone
    does.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)
    begun = False
    for layer in module.modules():
        own = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
        begun = begun or any(own)
        within = any(parameter.requires_grad for parameter in layer.parameters())
        layer.training = any(own) if own else begun or within
