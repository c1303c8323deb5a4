"""Adapters (lora.py) merged into the weights that they adapt. No torch is needed."""

from collections.abc import Mapping

import numpy as np

A, B = "lora_A", "lora_B"
"""The last parts of the names of an adapter's tensors."""


def merge(tensors: Mapping[str, np.ndarray], alpha: float | None) -> dict[str, np.ndarray]:
    """A model's tensors by name, with W + (alpha / r) B A in the place of each adapted W, and without the adapters.

    Without an `alpha` it is r, the rank. The product is made in float64 and the sum is rounded once.
    """
    merged = {name: tensor for name, tensor in tensors.items() if not is_adapter(name)}
    for name, low in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != A:
            continue
        prefix = f"{layer}." if layer else ""
        high, weight = tensors[f"{prefix}{B}"], merged[f"{prefix}weight"]
        rank = len(low)
        product = high.reshape(len(high), rank).astype(np.float64) @ low.reshape(rank, -1).astype(np.float64)
        scale = 1.0 if alpha is None else alpha / rank
        merged[f"{prefix}weight"] = (weight + scale * product.reshape(weight.shape)).astype(weight.dtype)
    return merged


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name is an adapter's."""
    return name.rpartition(".")[2] in (A, B)
