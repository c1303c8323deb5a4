"""The cache of decoded splits: the same bits without decoding, never a damaged one, and never a reason to fail."""

import json
import os
import resource
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from fedray.core.errors import BadInputError
from fedray.data import Data, cache, fingerprint, load, parquet

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A cache of its own for each test; it does not exist yet."""
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "cache" / "deep"))
    return tmp_path / "cache" / "deep"


@pytest.fixture
def cifar10(tmp_path, write_shards) -> Data:
    return Data(dataset="cifar10", root=str(write_shards(tmp_path / "data")))


@pytest.fixture
def no_decoding(monkeypatch):
    """From the call on, decoding is an error."""

    def refuse(*_):
        raise AssertionError("it was decoded")

    return lambda: monkeypatch.setattr(parquet, "read_images", refuse)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def assert_same(one, two) -> None:
    assert (one.format, one.fingerprint) == (two.format, two.fingerprint)
    for name in ARRAYS:
        left, right = getattr(one, name), getattr(two, name)
        assert left.dtype == right.dtype
        assert type(right) is np.ndarray
        assert right.flags.c_contiguous
        assert np.array_equal(left, right)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_split_is_decoded_once_and_comes_back_to_the_bit(tmp_path, folder, write_shards, no_decoding, format):  # noqa: A002
    data = Data(dataset="cifar10", root=str(write_shards(tmp_path / "data", format)))
    decoded = load(data)
    no_decoding()
    assert_same(decoded, load(data))
    assert_same(decoded, load(data, fingerprint(data)))
    assert [name.partition("-")[0] for name in files(folder)] == ["test", "train"]


def test_the_same_content_elsewhere_is_not_decoded_again(tmp_path, cifar10, write_shards, no_decoding):
    decoded = load(cifar10)
    no_decoding()
    assert_same(decoded, load(Data(dataset="cifar10", root=str(write_shards(tmp_path / "elsewhere")))))


def test_a_prefix_is_a_slice_of_the_kept_split_and_is_not_kept_itself(folder, cifar10, no_decoding):
    def part(count: int) -> Data:
        return Data(dataset="cifar10", root=cifar10.root, train_examples=count, test_examples=3)

    before = load(part(13))
    assert not folder.exists()
    load(cifar10)
    no_decoding()
    assert_same(before, load(part(13)))
    with pytest.raises(BadInputError, match="train_examples is 51, but there are only 50"):
        load(part(51))


def test_other_content_is_decoded(cifar10, encode, write_parquet, examples):
    load(cifar10)
    labels = (examples[1][50:] + 1) % 10
    write_parquet(Path(cifar10.root) / "test-00000-of-00001.parquet", [encode(i) for i in examples[0][50:]], labels)
    assert load(cifar10).test_labels.tolist() == labels.tolist()


def test_a_place_is_of_content_split_layout_and_decoder(monkeypatch):
    places = [cache.place("a", "train"), cache.place("b", "train"), cache.place("a", "test")]
    monkeypatch.setattr(cache, "LAYOUT", cache.LAYOUT + 1)
    places.append(cache.place("a", "train"))
    monkeypatch.setattr(cache, "version", lambda _: "another")
    places.append(cache.place("a", "train"))
    assert len({place.name.partition("-")[2] for place in places}) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole, other: b"",
        lambda whole, other: whole[:-1],
        lambda whole, other: whole + b"\0",
        lambda whole, other: whole[:100],
        lambda whole, other: b"\xff" * len(whole),
        lambda whole, other: other,
        lambda whole, other: whole.replace(b'"examples": 50', b'"examples": 49'),
        lambda whole, other: whole.replace(b'"examples": 50', b'"examples": -1'),
        lambda whole, other: whole.replace(b'"examples": 50', b'"examples": []'),
        lambda whole, other: whole[:4096].replace(b'"examples": 50', b'"examples":  0'),
        lambda whole, other: whole.replace(b'"examples"', b'"Examples"'),
        lambda whole, other: whole.replace(b"[3, 32, 32]", b"[3, 64, 16]"),
        lambda whole, other: whole.replace(b'"png"', b'"gif"'),
        lambda whole, other: whole.replace(b"[3, 32, 32]", b"[3072]     "),
        lambda whole, other: b"[1]".ljust(4096) + whole[4096:],
    ],
)
def test_damage_is_noticed_and_repaired(folder, cifar10, damage):
    decoded = load(cifar10)
    other, path = sorted(folder.iterdir())
    whole = path.read_bytes()
    path.write_bytes(damage(whole, other.read_bytes()))
    assert path.read_bytes() != whole
    assert_same(decoded, load(cifar10))
    assert path.read_bytes() == whole


def test_what_is_written_to_the_arrays_stays_out_of_the_file(cifar10):
    decoded = load(cifar10)
    kept = load(cifar10)
    for name in ARRAYS:
        getattr(kept, name)[:] = 1
    assert_same(decoded, load(cifar10))


def test_files_that_change_while_they_are_decoded_are_not_kept(folder, cifar10, monkeypatch):
    def read_and_change(*arguments, really=parquet.read_images):
        found = really(*arguments)
        with (Path(cifar10.root) / "test-00000-of-00001.parquet").open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(parquet, "read_images", read_and_change)
    with pytest.raises(BadInputError, match="cannot be read as Parquet"):
        load(cifar10)
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_no_cache(tmp_path, cifar10, monkeypatch):
    (tmp_path / "file").touch()
    decoded = load(cifar10)
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/fedray", "~nobody-at-all/cache"):
        monkeypatch.setenv("FEDRAY_CACHE", str(place))
        assert_same(decoded, load(cifar10))
        assert_same(decoded, load(cifar10))


def test_a_full_disk_is_no_cache_and_leaves_nothing(folder, cifar10):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond fails, as on a full disk
    try:
        decoded = load(cifar10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(folder) == []
    assert_same(decoded, load(cifar10))
    assert len(files(folder)) == 2


def test_the_folder_is_named_by_the_environment(tmp_path, cifar10, monkeypatch, no_decoding):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("FEDRAY_CACHE", "off")
    load(cifar10)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "xdg").exists()
    monkeypatch.setenv("FEDRAY_CACHE", "")
    load(cifar10)
    assert len(files(tmp_path / "xdg" / "fedray")) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    load(cifar10)
    assert len(files(tmp_path / "home" / ".cache" / "fedray")) == 2
    monkeypatch.delenv("FEDRAY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    no_decoding()
    load(cifar10)


def test_a_large_split_is_not_kept(folder, cifar10, monkeypatch):
    for most, kept in ((50 * 3072 - 1, ["test"]), (50 * 3072, ["test", "train"])):
        monkeypatch.setattr(cache, "LARGEST", most)
        load(cifar10)
        assert [name.partition("-")[0] for name in files(folder)] == kept


def test_pickles_are_not_kept(tmp_path, folder, write_batches):
    load(Data(dataset="cifar10", root=str(write_batches(tmp_path / "data"))))
    assert not folder.exists()


def keep(fingerprint: str, used: float) -> Path:
    """A split of one image, last used at a time."""
    path = cache.place(fingerprint, "train")
    cache.write(path, np.zeros((1, 3, 32, 32), np.uint8), np.zeros(1, np.int64), "png")
    os.utime(path, (used, used))
    return path


def test_the_last_used_splits_stay_and_other_files_are_never_removed(folder):
    now = time.time()
    first = [keep(f"{i}", now - 1000 + i) for i in range(cache.KEPT)]
    strange = [folder / name for name in ("notes.txt", "train-1.split", f"{first[0].name}.bak", ".hidden")]
    for path in strange:
        path.write_text("mine")
        os.utime(path, (0, 0))
    dead, alive = (folder / f".{first[0].name}.tmp-{pid}-0" for pid in (1, 2))
    dead.write_bytes(b"half")
    os.utime(dead, (now - 5000, now - 5000))
    alive.write_bytes(b"half")
    assert cache.read(first[0]) is not None  # used again, so the second is now the oldest
    newest = [keep(f"new {i}", now) for i in range(2)]
    assert {path for path in folder.iterdir() if path.suffix == ".split"} == {
        first[0],
        *first[3:],
        *newest,
        folder / "train-1.split",
    }
    assert all(path.read_text() == "mine" for path in strange)
    assert not dead.exists()
    assert alive.exists()


def test_processes_that_start_together_agree(folder, cifar10):
    program = f"from fedray.data import Data, load; print(int(load(Data(dataset='cifar10', root={cifar10.root!r})).train_images.sum()))"
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(3)]
    sums = {int(child.communicate(timeout=60)[0]) for child in children}
    assert all(child.returncode == 0 for child in children)
    assert sums == {int(load(cifar10).train_images.sum())}
    assert len(files(folder)) == 2


def test_the_header_says_what_the_file_is(folder, cifar10):
    load(cifar10)
    for path in folder.iterdir():
        header, content = json.loads(path.read_bytes()[:4096]), path.read_bytes()[4096:]
        n = {"train": 50, "test": 10}[path.name.partition("-")[0]]
        head = {"name": path.name, "format": "png", "examples": n, "shape": [3, 32, 32]}
        assert header == head | {"crc32": zlib.crc32(content, zlib.crc32(json.dumps(head).encode()))}
        assert path.stat().st_size == 4096 + n * (3072 + 8)
