"""What a forward pass in training keeps of its images, measured on two of them, and whether it draws."""

import torch
from torch import nn

from fedray.models.dropout import dropout_layers, keyed
from fedray.models.flat import FlatModel
from fedray.models.model import Shape


def measure_activations(flat: FlatModel, shape: Shape) -> tuple[int, int, bool]:
    """The bytes that are kept for the backward pass, and those of the largest tensor that a layer gives, of one image;
    and whether anything is drawn from torch's own generator, as nn.Dropout does not that has keys.

    Parameters and buffers are not counted. Buffers, and torch's own generator, are left as they were. Two images,
    because BatchNorm fails on one; one thread, because more would be in the way of all else that starts just now.
    """
    module, layers = flat.module, dropout_layers(flat.module).values()
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    own = {place_of(tensor) for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.Tensor] = {}  # held until the end, so that nothing takes another's place
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
            for images in keyed([torch.zeros(2, *shape)], layers, torch.ones(1, len(layers), 2, dtype=torch.int32)):
                module(images)
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
