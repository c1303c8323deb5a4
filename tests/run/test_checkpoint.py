"""Checkpoints: what was saved comes back bit for bit, what was damaged never does, and a kill leaves a whole file."""

import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedray.core.errors import BadInputError
from fedray.core.updates import Vectors
from fedray.run import checkpoint

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
GRID = np.arange(12.0).reshape(3, 4)
MEMORIES = [  # some not in C order, and of a size after which the next one's wide types are not aligned
    (3, {"c_i": GRID.T, "times": np.array([2]), "seen": np.array([True, False, True]), "none": np.empty(0)}),
    (70, {"c_i": -GRID.T, "times": np.array([1]), "seen": np.array([False, False, True]), "none": np.empty(0)}),
    (2**63 - 1, {"c_i": ODD_FLOATS[GRID.T.astype(int) % 8], "times": np.array([-1]), "seen": np.ones(3, bool), "none": np.empty(0)}),
]  # fmt: skip
MEGABYTE = 2**20


def write_forever(path: str) -> None:
    """Save round after round; every array of a file holds its round's number. Print a round once it is saved."""
    for t in range(1, 100_000):
        memories = [(client, {"m": np.full(20_000, t)}) for client in range(4)]
        arrays = {"a": np.full(50_000, t), "b": np.full(50_000, t, np.float32)}
        checkpoint.save(path, arrays, {"round": t}, memories, at_most=4)
        print(t, flush=True)


def save_and_die(path: str) -> None:
    """Save a round, and die in the middle of the next one."""

    def memories() -> Iterator[tuple[int, Vectors]]:
        for client in range(3):
            yield client, {"m": np.full(MEGABYTE, client)}
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save(path, ARRAYS, META, MEMORIES, at_most=3)
    checkpoint.save(path, {"a": np.ones(50_000)}, {"round": 2}, memories(), at_most=4)


def megabytes(count: int) -> Iterator[tuple[int, Vectors]]:
    """Memories of a megabyte each, every one made only once those before it are gone."""
    made: list[weakref.ref[np.ndarray]] = []

    def memory(client: int) -> Vectors:
        vector = np.full(MEGABYTE // 8, client)
        made.append(weakref.ref(vector))
        return {"m": vector}

    for client in range(count):
        assert all(vector() is None for vector in made)
        yield client, memory(client)


def assert_same(ours: Vectors, theirs: Vectors) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
        assert array.tobytes() == theirs[name].tobytes()


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new" / "run.safetensors", ARRAYS, META, iter(MEMORIES), at_most=3)
    arrays, meta, memories = checkpoint.load(tmp_path / "new" / "run.safetensors")
    assert meta == META
    assert_same(arrays, ARRAYS)
    for (client, memory), (their_client, theirs) in zip(memories, MEMORIES, strict=True):
        assert client == their_client
        assert_same(memory, theirs)
        assert all(array.flags.writeable for array in memory.values())  # torch.from_numpy warns otherwise
    assert all(array.flags.writeable for array in arrays.values())


def test_no_arrays_is_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {}, {}, at_most=10)
    arrays, meta, memories = checkpoint.load(tmp_path / "c")
    assert (arrays, meta, list(memories)) == ({}, {}, [])


@pytest.mark.parametrize("at_most", [3, 1000])
def test_any_reader_of_safetensors_reads_a_checkpoint(tmp_path: Path, at_most: int) -> None:
    checkpoint.save(tmp_path / "c", ARRAYS, META, MEMORIES, at_most)
    expected = ARRAYS | {f"memory/{client}/{name}": m for client, memory in MEMORIES for name, m in memory.items()}
    with safe_open(tmp_path / "c", framework="np") as file:
        assert_same({name: file.get_tensor(name) for name in file.keys()}, expected)  # noqa: SIM118  (not a dict)
        assert json.loads(file.metadata()["meta"]) == META


def test_memories_are_written_one_at_a_time(tmp_path: Path) -> None:
    tracemalloc.start()
    checkpoint.save(tmp_path / "c", {}, {}, megabytes(20), at_most=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "c").stat().st_size > 20 * MEGABYTE
    assert peak < 1.5 * MEGABYTE


def test_memories_are_read_one_at_a_time(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {}, {}, megabytes(20), at_most=20)
    tracemalloc.start()
    _, _, memories = checkpoint.load(tmp_path / "c")
    assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    clients = []
    for client, memory in memories:
        assert (memory["m"] == client).all()
        clients.append(client)
        del memory
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clients == [*range(20)]
    assert peak < 1.5 * MEGABYTE


def test_memories_are_of_the_file_that_was_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {}, {"round": 1}, megabytes(3), at_most=3)
    _, _, memories = checkpoint.load(tmp_path / "c")
    next(memories)
    checkpoint.save(tmp_path / "c", {}, {"round": 2})
    assert [client for client, _ in memories] == [1, 2]


@pytest.mark.parametrize(
    "odd",
    [
        {"a": np.ones(4, np.float32), "b": np.ones(2)},
        {"a": np.ones(3, np.float32)},
        {"a": np.ones(3, np.float32), "c": np.ones(2)},
        {"a": np.ones(3, np.float32), "b": np.ones(2, np.int64)},
        {"a": np.ones(3, np.float32), "b": np.ones((2, 1))},
        {},
    ],
)
def test_a_memory_unlike_the_others_is_refused_with_its_client(tmp_path: Path, odd: Vectors) -> None:
    usual = {"a": np.ones(3, np.float32), "b": np.ones(2)}
    checkpoint.save(tmp_path / "c", {}, {"round": 1})
    with pytest.raises(ValueError, match="client 41 remembers"):
        checkpoint.save(tmp_path / "c", {}, {"round": 2}, [(7, usual), (8, usual), (41, odd), (50, usual)], at_most=4)
    assert checkpoint.load(tmp_path / "c")[1] == {"round": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_more_memories_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    for at_most, message in ((2, "more clients remember something than 2"), (10**6, "too many for one")):
        with pytest.raises(ValueError, match=message):
            checkpoint.save(tmp_path / "c", {}, {}, megabytes(20), at_most)
    assert not list(tmp_path.iterdir())


def test_names_of_memories_are_kept_for_memories(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="memory/"):
        checkpoint.save(tmp_path / "c", {"memory/3/c_i": np.ones(2)}, {})


def test_strided_arrays_keep_their_values(tmp_path: Path) -> None:
    grid = np.arange(12.0).reshape(3, 4)
    strided = {"transposed": grid.T, "reversed": grid[::-1], "fortran": np.asfortranarray(grid), "column": grid[:, 1]}
    checkpoint.save(tmp_path / "c", strided, {})
    arrays, _, _ = checkpoint.load(tmp_path / "c")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, strided[name])


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, ARRAYS, META, MEMORIES, at_most=3)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(BadInputError, match=r"run\.safetensors"):
            checkpoint.load(path)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, ARRAYS, META, MEMORIES, at_most=3)
    with path.open("r+b") as file:
        for position, byte in enumerate(path.read_bytes()):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << position % 8]), position)
            with pytest.raises(BadInputError, match=r"run\.safetensors"):
                checkpoint.load(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert checkpoint.load(path)[1] == META


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no checkpoint .*absent"):
        checkpoint.load(tmp_path / "absent")
    checkpoint.save_model(tmp_path / "model", {"w": np.ones(3)}, {})
    (tmp_path / "junk").write_text("something else altogether")
    save_file({"w": np.ones(3)}, tmp_path / "foreign", {"meta": "{}"})
    for name in ("model", "junk", "foreign"):
        with pytest.raises(BadInputError, match=f"{name} is no checkpoint"):
            checkpoint.load(tmp_path / name)


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
        arrays, meta, memories = checkpoint.load(path)
        assert meta["round"] in (saved[-1], saved[-1] + 1)
        remembered = [memory["m"] for _, memory in memories]
        assert len(remembered) == 4
        assert all((array == meta["round"]).all() for array in [*arrays.values(), *remembered])
    checkpoint.save(path, {}, {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_between_two_memories_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    killed = subprocess.run([sys.executable, __file__, str(path), "die"])
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = set(tmp_path.iterdir()) - {path}
    assert leftover.stat().st_size > 2 * 8 * MEGABYTE  # it had written most of the next one
    arrays, meta, memories = checkpoint.load(path)
    assert meta == META
    assert_same(arrays, ARRAYS)
    assert [client for client, _ in memories] == [client for client, _ in MEMORIES]
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
    assert torch.equal(model["a"], torch.tensor([True]))
    assert torch.equal(model["bn.num_batches_tracked"], torch.tensor(5))


def test_arrays_are_aligned_to_their_types(tmp_path: Path) -> None:
    """So that a reader can map them: one byte comes before wider types by name, after them in the file."""
    checkpoint.save_model(tmp_path / "c", {"a": np.array([True]), "b": np.ones(3), "c": np.ones(1, np.float32)}, {})
    content = (tmp_path / "c").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    assert [(begin + header[name]["data_offsets"][0]) % width for name, width in (("b", 8), ("c", 4))] == [0, 0]


if __name__ == "__main__":
    (save_and_die if sys.argv[2:] == ["die"] else write_forever)(sys.argv[1])
