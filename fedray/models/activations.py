"""The memory of a forward pass in training, and whether the pass draws random numbers, measured on two inputs."""

import torch
from torch import nn

from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.models.dropout import dropout_layers, keyed
from fedray.models.flat import FlatModel
from fedray.models.model import Shape


def measure_activations(flat: FlatModel, shape: Shape, kind: Kind = CLASSIFIED_IMAGES) -> tuple[int, int, bool]:
    """For one input, the bytes kept for the backward pass and the bytes of the largest output of a layer; and whether
    the pass draws from torch's own generator, which keyed dropout does not.

    Parameters and buffers are not counted. Buffers and torch's generator are left as they were. The pass has two
    inputs, because BatchNorm fails on one. It runs on one thread, because other processes start at the same time.
    """
    inputs = torch.zeros((2, *shape), dtype=torch.int64 if kind.inputs == "tokens" else torch.float32)
    module, layers = flat.module, dropout_layers(flat.module).values()
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    own = {place_of(tensor) for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.Tensor] = {}  # held until the end, so that no address is used twice
    given: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        kept.setdefault(place_of(tensor), tensor)
        return tensor

    def weigh(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            given.append(output.nbytes)

    handles = [layer.register_forward_hook(weigh) for layer in module.modules()]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        flat.train()
        with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            before = torch.get_rng_state()
            for batch in keyed([inputs], layers, torch.ones(1, len(layers), 2, dtype=torch.int32)):
                module(batch)
            draws = not torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    sizes = [tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own]
    return sum(sizes) // 2, max([*given, *sizes], default=0) // 2, draws


def place_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
