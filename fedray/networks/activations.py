"""What a forward pass in training keeps of its images, measured on two of them."""

import torch
from torch import nn

from fedray.models import Shape


def measure_activations(module: nn.Module, shape: Shape) -> tuple[int, int]:
    """The bytes that are kept for the backward pass, and those of the largest tensor that a layer gives, of one image.

    Parameters and buffers are not counted. Buffers, and torch's own generator, are left as they were. Two images,
    because BatchNorm fails on one; one thread, because more would be in the way of all else that starts just now.
    """
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
        module.train()
        with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(torch.zeros(2, *shape))
    finally:
        torch.set_num_threads(threads)
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    sizes = [tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own]
    return sum(sizes) // 2, max([*given, *sizes], default=0) // 2


def place_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
