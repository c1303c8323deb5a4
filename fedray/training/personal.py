"""The part of a model that stays at each client. An algorithm's `personal` names it."""

from collections.abc import Collection

import torch

from fedray.models.flat import FlatModel, Tensors


class OwnPart:
    """The positions in params and buffers of the part that stays at each client."""

    def __init__(self, flat: FlatModel, names: Collection[str]):
        device = flat.params.device
        self.places = {
            "params": torch.from_numpy(flat.layout.places(names)).to(device),
            "buffers": torch.from_numpy(flat.buffer_layout.places(names)).to(device),
        }
        self.num_bytes = 4 * sum(len(places) for places in self.places.values())

    def of(self, model: Tensors) -> Tensors:
        """The part of a model, as a client remembers it."""
        return {f"own_{name}": model[name][places] for name, places in self.places.items()}

    def join(self, message: Tensors, memory: Tensors) -> Tensors:
        """The message, with the client's own part in its place."""
        joined = {name: message[name].index_copy(0, at, memory[f"own_{name}"]) for name, at in self.places.items()}
        return {**message, **joined}

    def split(self, start: Tensors, update: Tensors) -> tuple[Tensors, Tensors]:
        """The update with 0 in the client's own part, and the new own part, which the client keeps."""
        sent = {name: update[name].index_fill(0, places, 0.0) for name, places in self.places.items()}
        return {**update, **sent}, self.of({name: start[name] + update[name] for name in self.places})
