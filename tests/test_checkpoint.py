"""Checkpoints: what was saved comes back bit for bit, what was damaged never does, and a kill leaves a whole file."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedray import checkpoint
from fedray.errors import BadInputError

ODD_FLOATS = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 5e-324, 1e300])
ODD_FLOATS.view(np.uint64)[2] |= 12345  # a NaN with a payload
ARRAYS = {
    "params": ODD_FLOATS,
    "halved": np.array([np.nan, 1e-45, -0.0, 3.4e38], np.float32),
    "counts": np.array([[-(2**63), 2**63 - 1, 0]]),
    "bytes": np.arange(256, dtype=np.uint8).reshape(2, 8, 16),
    "none": np.empty(0, np.float32),
    "no_rows": np.empty((3, 0), np.int64),
    "scalar": np.array(2.5),
}
META = {"round": 7, "best": [0.1, 3], "nested": {"é": None, "loss": float("inf")}, "name": "fedavg"}


def write_forever(path: str) -> None:
    """Save round after round; every array of a file holds its round's number. Print a round once it is saved."""
    for t in range(1, 100_000):
        checkpoint.save(path, {"a": np.full(50_000, t), "b": np.full(50_000, t, np.float32)}, {"round": t})
        print(t, flush=True)


def test_arrays_and_meta_come_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new" / "run.safetensors", ARRAYS, META)
    arrays, meta = checkpoint.load(tmp_path / "new" / "run.safetensors")
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
        assert array.tobytes() == ARRAYS[name].tobytes()
        assert array.flags.writeable  # torch.from_numpy warns otherwise


def test_no_arrays_is_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {}, {})
    assert checkpoint.load(tmp_path / "c") == ({}, {})


def test_strided_arrays_keep_their_values(tmp_path: Path) -> None:
    grid = np.arange(12.0).reshape(3, 4)
    strided = {"transposed": grid.T, "reversed": grid[::-1], "fortran": np.asfortranarray(grid), "column": grid[:, 1]}
    checkpoint.save(tmp_path / "c", strided, {})
    arrays, _ = checkpoint.load(tmp_path / "c")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, strided[name])


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, ARRAYS, META)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInputError, match=r"run\.safetensors"):
            checkpoint.load(path)


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """A bit of the header's JSON may be without meaning (its padding); a byte of an array or of the meta never is."""
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, ARRAYS, META)
    whole = path.read_bytes()
    data_begins = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        try:
            arrays, meta = checkpoint.load(path)
        except BadInputError as error:
            assert "run.safetensors" in str(error)
            refused += 1
        else:
            assert position < data_begins
            assert meta == META
            assert {name: array.tobytes() for name, array in arrays.items()} == {
                name: array.tobytes() for name, array in ARRAYS.items()
            }
    assert refused > len(whole) - 8


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no checkpoint .*absent"):
        checkpoint.load(tmp_path / "absent")
    checkpoint.save_model(tmp_path / "model", {"w": np.ones(3)}, {})
    with pytest.raises(BadInputError, match="model is no checkpoint"):
        checkpoint.load(tmp_path / "model")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {"a": np.ones(2)}, {"round": 1})
    with pytest.raises(ValueError, match="cannot be saved"):
        checkpoint.save(tmp_path / "c", {"a": np.ones(2, ">f8")}, {"round": 2})
    assert checkpoint.load(tmp_path / "c")[1] == {"round": 1}
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):  # at the last step, the new file being written already
        checkpoint.save(tmp_path / "folder", {"a": np.ones(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "folder"]


def test_a_kill_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path, chance = tmp_path / "run.safetensors", random.Random(0)
    for _ in range(4):
        with subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            saved = [int(child.stdout.readline()) for _ in range(chance.randrange(1, 20))]
            try:
                child.wait(timeout=chance.random() * 0.02)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
            saved += [int(line) for line in child.stdout]
        arrays, meta = checkpoint.load(path)
        assert meta["round"] in (saved[-1], saved[-1] + 1)
        assert all((array == meta["round"]).all() for array in arrays.values())
    checkpoint.save(path, {}, {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_is_plain_safetensors(tmp_path: Path) -> None:
    import torch  # here, because the killed child imports this file and must start fast
    from safetensors.torch import load_file

    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    tensors = {
        "fc.weight": weight.numpy(),
        "fc.T": weight.numpy().T,
        "bn.num_batches_tracked": np.array(5),
        "a": np.array([True]),
    }
    checkpoint.save_model(tmp_path / "models" / "run.safetensors", tensors, {"run": "abc"})
    model = load_file(tmp_path / "models" / "run.safetensors")
    assert torch.equal(model["fc.weight"], weight)
    assert torch.equal(model["fc.T"], weight.T)
    assert torch.equal(model["a"], torch.tensor([True]))  # one byte before wider types by name, after them in the file
    assert torch.equal(model["bn.num_batches_tracked"], torch.tensor(5))


if __name__ == "__main__":
    write_forever(sys.argv[1])
