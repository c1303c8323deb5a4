"""fedray's own networks for series [channels, length] and for token ids [length]."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch._C._functorch import is_batchedtensor

from fedray.models.model import Shape

UNITS, WIDTH, LAYERS, HEADS, DROPOUT = 64, 64, 2, 4, 0.1
"""Sizes of the LSTM and the transformer, small enough for a processor. The paper's dropout is 0.1, too."""


def cnn1d(shape: Shape, classes: int) -> nn.Module:
    """Wang, Yan, Oates 2016 (arXiv 1611.06455): three convolutions, and an average over the length.

    It has a quarter of the paper's channels, no BatchNorm, which suits small and unequal shards ill, and odd kernels.
    """
    channels, _ = shape
    layers: list[nn.Module] = []
    for out, kernel in ((32, 7), (64, 5), (32, 3)):
        layers += [nn.Conv1d(channels, out, kernel, padding=kernel // 2), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))


def lstm(shape: Shape, classes: int, vocabulary: int = 0, padding: int | None = None) -> nn.Module:
    """Hochreiter, Schmidhuber 1997, "Long Short-Term Memory", with the forget gate of Gers et al. 2000: one layer."""
    return Lstm(WIDTH if vocabulary else shape[0], classes, vocabulary, padding)


def transformer(shape: Shape, classes: int, vocabulary: int, padding: int | None) -> nn.Module:
    """Vaswani et al. 2017 (arXiv 1706.03762), the encoder, with norms first as in Xiong et al. 2020 (2002.04745)."""
    return Transformer(shape[0], classes, vocabulary, padding)


class Lstm(nn.Module):
    """An LSTM whose state after the last token that is no padding, or the last point of a series, gives the output."""

    def __init__(self, features: int, classes: int, vocabulary: int, padding: int | None):
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, features) if vocabulary else None
        self.lstm = nn.LSTM(features, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = recurrent(self.lstm, x.transpose(1, 2) if self.embedding is None else self.embedding(x))
        if self.embedding is None or self.padding is None:
            return self.head(states[:, -1])
        last = ((x != self.padding) * torch.arange(x.shape[1], device=x.device)).amax(1)
        ends = states.gather(1, last[:, None, None].expand(-1, 1, UNITS))
        return self.head(ends[:, 0])


def recurrent(layer: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
    """The states [B, length, units] of an LSTM of one layer, for inputs [B, length, features].

    Under torch.func.vmap there is no rule for torch's own LSTM, on a GPU that needs its weights in a place of its own,
    and in bfloat16 not every processor has it. There the steps are written out. On a processor torch's own is faster.
    """
    if not (is_batchedtensor(x) or x.is_cuda or torch.is_autocast_enabled(x.device.type)):
        states: torch.Tensor = layer(x)[0]
        return states
    weight_ih, weight_hh, bias_ih, bias_hh = (getattr(layer, name) for name in layer._flat_weights_names)
    into = F.linear(x, weight_ih, bias_ih)
    state = cell = torch.zeros_like(into[:, 0, : layer.hidden_size])
    made = []
    for here in into.unbind(1):
        gates = here + F.linear(state, weight_hh, bias_hh)
        let_in, forget, new, let_out = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
        state = let_out.sigmoid() * cell.tanh()
        made.append(state)
    return torch.stack(made, 1)


class Transformer(nn.Module):
    """An encoder of tokens with learned positions. The output is made of the mean over the tokens but padding."""

    def __init__(self, length: int, classes: int, vocabulary: int, padding: int | None):
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(length, WIDTH)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        real = torch.ones_like(tokens, dtype=torch.bool) if self.padding is None else tokens != self.padding
        x = self.dropout(self.embedding(tokens) + self.positions.weight)
        for layer in self.layers:
            x = layer(x, real)
        counts = real.sum(1, keepdim=True).clamp(min=1)
        return self.head((self.norm(x) * real[..., None]).sum(1) / counts)


class Layer(nn.Module):
    """A layer of the encoder: attention, and two Linear layers with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.feed = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.ReLU(),
            nn.Linear(2 * WIDTH, WIDTH),
            nn.Dropout(DROPOUT),
        )

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """`x` is [B, length, WIDTH]. Nothing looks at tokens that are not `real`, bool [B, length]."""
        heads = self.into(self.norm(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(~real[:, None, None], torch.finfo(scores.dtype).min)
        seen = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(seen))
        return x + self.feed(x)
