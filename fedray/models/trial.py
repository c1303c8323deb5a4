"""A trial of a user's network before the run: two inputs pass through it, in training and in evaluation mode."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.models.batch_norm import ManyNorms, Rows, RunningStatistics
from fedray.models.dropout import dropout_layers
from fedray.models.flat import FlatModel, Tensors
from fedray.models.model import Model, Shape


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    featureless: str
    """The reason why there are no trained features before the last Linear layer; empty if there are."""
    idle: tuple[str, ...]
    """The trainable parameters that the output does not depend on."""
    unstackable: str = ""
    """The reason why many clients' networks cannot be one program; empty if they can."""


def check_fresh(module: nn.Module, again: nn.Module, model: Model) -> None:
    """Refuse a function that returns the same tensors twice: a second model would begin with trained parameters."""
    if {id(tensor) for tensor in module.parameters()} & {id(tensor) for tensor in again.parameters()}:
        raise BadInputError(
            f"model.name = {model.name} gives the same parameters whenever it is called; it must make new ones"
        )


def try_out(module: nn.Module, model: Model, shape: Shape, classes: int, kind: Kind) -> Trial:
    """Try a network, which must not be used afterwards; BadInputError where it fails or has nothing to train."""
    check_tensors(module, model)
    flat, seen = FlatModel(module), []
    buffers = dict(module.named_buffers())
    linear = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    for _, layer in linear[-1:]:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs, others = two_inputs(model, shape, kind)
        flat.train()
        output = answer(module, model, inputs, classes, kind, "in training")
        headless, features = "the model has none", None
        if linear:
            features = seen[0][0] if len(seen) == 1 and torch.equal(seen[0][1], output) else None
            headless = f"that of {model.name}, {linear[-1][0]}, does not give its output" if features is None else ""
        if headless and (model.freeze == "backbone" or model.projection):
            raise BadInputError(f"model.freeze and model.projection need a last Linear layer, and {headless}")
        idle = unused(flat, model, output)
        unstackable = try_stacked(flat, inputs, others)
        module.eval()
        answer(module, model, inputs, classes, kind, "in evaluation")
    if moved := [name for name, buffer in module.named_buffers() if buffer is not buffers[name]]:
        raise BadInputError(
            f"model.name = {model.name} puts another tensor in the place of its buffer {moved[0]}; it must write to it"
        )
    if features is not None and not features.requires_grad:
        headless = f"nothing before that layer, {linear[-1][0]}, is trained"
    return Trial(headless, idle, unstackable)


def two_inputs(model: Model, shape: Shape, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random inputs as the network gets them, and two that differ from them everywhere."""
    if kind.inputs == "tokens":
        tokens = torch.randint(kind.vocabulary, (2, *shape))
        return tokens, (tokens + 1) % kind.vocabulary
    order = torch.channels_last if model.channels_last else torch.contiguous_format
    numbers = torch.rand(2, *shape).contiguous(memory_format=order)
    return numbers, 1 - numbers


def try_stacked(flat: FlatModel, inputs: torch.Tensor, others: torch.Tensor) -> str:
    """The reason why torch.func.vmap cannot train the network for two clients' parameters; empty if it can.

    It is tried on two inputs, and on two that are different.
    """
    statistics = RunningStatistics(flat)
    statistics.start(2, flat.buffers)
    tensors = {name: torch.stack([value, value]) for name, value in flat.layout.views(flat.params).items()}
    tensors |= {f"{name}.key": torch.ones(2, 2, dtype=torch.int32) for name in dropout_layers(flat.module)}
    tensors |= statistics.of(2)
    buffers = [(buffer, buffer.clone()) for buffer in flat.module.buffers()]
    first, second = inputs
    rows = Rows(torch.tensor([[True, True, False]] * 2), 2)

    def output(tensors: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(functional_call(flat.module, tensors | statistics.unread, (inputs,)))

    def outputs(padding: torch.Tensor) -> torch.Tensor:
        with ManyNorms(statistics.layers, rows):
            batches = torch.stack([first, second, padding] * 2).unflatten(0, (2, 3))
            found: torch.Tensor = vmap(output, randomness="different")(tensors, batches)
        return found[:, :2]

    try:
        found, again = outputs(second), outputs(others[1])
    except (Exception, SystemExit) as error:
        return own_code.describe(error)
    if not all(torch.equal(buffer, before) for buffer, before in buffers):
        return "it changes its buffers in training"
    # Batches are padded, and the padding must not change the output for the examples.
    return "" if torch.equal(found, again) else "its output for an example depends on the rest of the batch"


def check_tensors(module: nn.Module, model: Model) -> None:
    """Refuse parameters and buffers that a flat vector cannot hold, and a network without parameters to train."""
    tensors = [*module.named_parameters(remove_duplicate=False)]
    if len({id(tensor) for _, tensor in tensors}) < len(tensors):
        raise BadInputError(f"model.name = {model.name} gives a network with parameters that have two names")
    if not any(tensor.requires_grad for _, tensor in tensors):
        raise BadInputError(f"model.name = {model.name} gives a network without parameters to train")
    for name, tensor in (*tensors, *module.named_buffers()):
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BadInputError(
                f"model.name = {model.name} gives a network whose {name} is {kind} on {tensor.device}, not float32 on "
                "the cpu; fedray moves it to GPUs itself"
            )


def answer(module: nn.Module, model: Model, inputs: torch.Tensor, classes: int, kind: Kind, mode: str) -> torch.Tensor:
    """The network's output for two inputs, [2, classes]; BadInputError where it fails or has another shape."""
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=model.precision == "bfloat16"):
            output = module(inputs)
    except (Exception, SystemExit) as error:
        failed = f"fails for {kind.inputs} {tuple(inputs.shape[1:])} {mode} ({own_code.describe(error)})"
        raise BadInputError(f"model.name = {model.name} {failed}") from error
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != (2, classes):
        said = "images" if kind.inputs == "images" else f"inputs of {kind.inputs}"
        raise BadInputError(
            f"model.name = {model.name} gives {found} for 2 {said} {mode}, not an output {(2, classes)}"
        )
    return torch.as_tensor(output)


def unused(flat: FlatModel, model: Model, output: torch.Tensor) -> tuple[str, ...]:
    """The trainable parameters that the output does not depend on."""
    try:
        loss = F.cross_entropy(output.float(), torch.zeros(2, dtype=torch.int64))
        gradients = torch.autograd.grad(loss, flat.trainable, allow_unused=True)
    except (Exception, SystemExit) as error:
        raise BadInputError(f"model.name = {model.name} has no gradient ({own_code.describe(error)})") from error
    return tuple(name for name, grad in zip(flat.layout.names, gradients, strict=True) if grad is None)
