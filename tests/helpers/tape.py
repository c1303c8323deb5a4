"""In the place of CUDA graphs on a CPU: the operations of a program, recorded with their tensors, and computed again."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from fedray.training import captured
from fedray.training.graphs import Graphs
from fedray.training.trainer import Trainer

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


class Recorder(TorchDispatchMode):
    """Records operations, and computes them. What was there before is put back by `put_back`, as if it had not."""

    def __init__(self):
        super().__init__()
        self.operations, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.name() in WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in tensors_in((args, kwargs)):
            place = tensor.untyped_storage().data_ptr()
            if place and place not in self.made and place not in self.before:
                memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[place] = memory, memory.clone()
        results = func(*args, **kwargs)
        self.made |= {tensor.untyped_storage().data_ptr() for tensor in tensors_in(results)} - self.before.keys()
        self.operations.append((func, args, kwargs, results))
        return results

    def put_back(self):
        for memory, copy in self.before.values():
            memory.copy_(copy)


class Tape:
    """As a CUDA graph: it computes the same operations on the same memory with the same numbers. It asks no Python."""

    replays = 0

    def __init__(self, recorder):
        self.operations = recorder.operations

    @torch.no_grad()
    def replay(self):
        Tape.replays += 1
        with _disable_current_modes():
            for func, args, kwargs, results in self.operations:
                for old, new in zip(tensors_in(results), tensors_in(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@contextmanager
def nothing():
    yield []


def use_tapes(monkeypatch, fail=None):
    """Have trainers on the device "cpu:0" take their steps as on a GPU. `fail` is called before each capture.

    Returns a list that grows with each tape that is made.
    """
    tapes = []

    def capture(self, program):
        if fail:
            fail()
        recorder = Recorder()
        try:
            with recorder:
                made = program()
        finally:
            recorder.put_back()
        tapes.append(Tape(recorder))
        return tapes[-1], made

    def init(self, recipe, device="cpu"):
        real(self, recipe, device)
        if device == "cpu:0":
            self.network.captured = captured.CapturedSteps(self.network)

    real = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", init)
    monkeypatch.setattr(Graphs, "capture", capture)
    monkeypatch.setattr(Graphs, "beside", lambda self: nothing())
    monkeypatch.setattr(captured, "watch_for_waits", nothing)
    monkeypatch.setattr(Tape, "replays", 0)
    return tapes
