"""Data files of all kinds: the examples that are in them, or one sentence that names the file; no code of theirs runs."""

import gzip
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import FEW_AND_MANY, ODD_FILES, changed, damaged, fuzz, no_longer_than, on_disk, put_odd
from hypothesis import given
from hypothesis import strategies as st
from making import FOLDERS, SHAPES, encoded, write_original, write_table

from fedray.core.errors import BadInputError
from fedray.data import Data, load, parquet

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def load_all(root, seconds=10, **settings):
    """The data set in a folder, or None where it is refused with a file's name. Nothing in the folder changes."""
    before = on_disk(root)
    settings = {"dataset": "cifar10", **settings}
    try:
        with no_longer_than(seconds):
            found = load(Data(root=str(root), **settings))
    except BadInputError as refusal:
        assert str(root) in str(refusal), refusal
        found = None
    else:
        for split in ("train", "test"):
            images, labels = getattr(found, f"{split}_images"), getattr(found, f"{split}_labels")
            shape = SHAPES.get(settings["dataset"], found.train_images.shape[1:])
            assert (images.dtype, images.shape[1:], labels.dtype) == (np.uint8, shape, np.int64)
            assert len(images) == len(labels) > 0
            assert labels.min() >= 0
            assert labels.max() < len(found.classes)
        assert found.train_users is None or found.train_users.shape == found.train_labels.shape
    assert on_disk(root) == before
    return found


def same(one, two):
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ARRAYS)


def put(path, content):
    if isinstance(content, str):
        put_odd(path, content)
    else:
        path.write_bytes(content)


@pytest.fixture
def sandbox(tmp_path_factory, monkeypatch):
    """The folder to work in; a pickle that is run leaves a file there."""
    monkeypatch.chdir(tmp_path_factory.mktemp("sandbox"))
    return Path.cwd()


class Calls:
    def __init__(self, function, *arguments):
        self.said = function, arguments

    def __reduce__(self):
        return self.said


def array(kind=b"U\x02u1", shape=b"K\x02M\x00\x0c\x86", content=b"T\x00\x18\x00\x00" + bytes(6144)):
    """The opcodes of an array, with these for its type, its shape and its bytes."""
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
    return (
        start
        + b"cnumpy\ndtype\n"
        + kind
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + content
        + b"tb"
    )


def batch(data=None, labels=b"](K\x07K\x03e"):
    return b"\x80\x02}(U\x04data" + (data or array()) + b"U\x06labels" + labels + b"u."


BOMBS = {
    "64 GB that it names": b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b"x.",
    "a key of two million tuples in each other": b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s.",
    "a key of 2**64 tuples, all shared": b"\x80\x02})"
    + b"".join(b"q%ch%c\x86" % (i, i) for i in range(64))
    + b"K\x01s.",
    "a set of them": b"\x80\x04(" + b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(64)) + b"\x91.",
    "a type that is named by them": batch(array(b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(64)))),
    "a type of tuples in each other": batch(array(b")" + b"\x85" * 100_000)),
    "a number of 80 MB": b"\x80\x02\x8b" + (80_000_000).to_bytes(4, "little") + b"\x7f" * 80_000_000 + b".",
    "a memo of four billion": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "a huge frame": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b".",
    "more images than bytes": batch(array(shape=b"\x8a\x09" + (2**62).to_bytes(9, "little") + b"M\x00\x0c\x86")),
    "no images": batch(array(shape=b"K\x00M\x00\x0c\x86", content=b"U\x00"), b"]"),
    "too few labels": batch(labels=b"](K\x07e"),
    "a label of 10": batch(labels=b"](K\x07K\x0ae"),
    "a label that is true": batch(labels=b"](K\x07\x88e"),
    "labels that are one number": batch(labels=b"K\x07"),
    "a call": b"cos\nsystem\n(S'touch ran'\ntR.",
    "a call by its path": pickle.dumps(Calls(exec, "open('ran', 'w')"), protocol=4),
    "an instance": b"(ios\nsystem\n.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_that_mean_harm(bomb, tmp_path, write_batches, sandbox):
    """Without the list of instructions the machine is killed by memory, dies of its stack or never ends on some."""
    folder = write_batches(tmp_path)
    (folder / "data_batch_2").write_bytes(BOMBS[bomb])
    assert load_all(tmp_path) is None
    assert not any(sandbox.iterdir())


def test_the_batch_that_the_bombs_are_made_of_is_good(tmp_path, write_batches):
    (write_batches(tmp_path) / "data_batch_2").write_bytes(batch())
    assert load_all(tmp_path).train_labels[10:12].tolist() == [7, 3]


@FEW_AND_MANY
def test_damaged_batches(times, tmp_path, write_batches, sandbox):
    folder = write_batches(tmp_path)
    names = sorted(path.name for path in folder.iterdir())

    @st.composite
    def damages(draw):
        name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        content = (folder / name).read_bytes()
        opcodes = st.lists(
            st.sampled_from([bytes([code]) for code in pickle._Unpickler.dispatch] + [b"\n", b"1", b"\xff"]),
            max_size=40,
        )
        return name, draw(
            damaged(content)
            | st.sampled_from(ODD_FILES)
            | st.just(changed((folder / other).read_bytes(), f"all of {other}"))
            | opcodes.map(lambda codes: changed(b"\x80\x02" + b"".join(codes) + b".", "opcodes"))
            | opcodes.map(lambda codes: changed(content[:-2] + b"".join(codes) + content[-2:], "opcodes at the end"))
        )

    @fuzz(60 * times)
    @given(damages())
    def holds(change):
        with tempfile.TemporaryDirectory() as place:
            shutil.copytree(folder, Path(place) / folder.name)
            put(Path(place) / folder.name / change[0], change[1])
            load_all(Path(place))
            assert not any(sandbox.iterdir())

    holds()


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("zipped", [True, False], ids=["gzipped", "plain"])
@FEW_AND_MANY
def test_damaged_originals_of_the_others(times, tmp_path, sandbox, name, zipped):
    folder = write_original(tmp_path / "made", name, zipped)
    names = sorted(path.name for path in folder.iterdir())

    @st.composite
    def damages(draw):
        file, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        content = (folder / file).read_bytes()
        unzipped = gzip.decompress(content) if file.endswith(".gz") else b""
        inside = damaged(unzipped).map(lambda found: changed(gzip.compress(found), f"gzipped {found.how}"))
        swapped = st.just(changed((folder / other).read_bytes(), f"all of {other}"))
        return file, draw(damaged(content) | (inside if unzipped else swapped) | st.sampled_from(ODD_FILES) | swapped)

    @fuzz(20 * times)
    @given(damages())
    def holds(change):
        with tempfile.TemporaryDirectory() as place:
            root = Path(place) / "data"
            shutil.copytree(tmp_path / "made", root)
            put(root / FOLDERS[name] / change[0], change[1])
            load_all(root, dataset=name)
            assert not any(sandbox.iterdir())

    holds()


@pytest.mark.parametrize("bomb", [name for name in BOMBS if "images" not in name and "label" not in name])
def test_pickles_that_mean_harm_to_cifar100(bomb, tmp_path, sandbox):
    folder = write_original(tmp_path, "cifar100")
    (folder / "train").write_bytes(BOMBS[bomb].replace(b"U\x06labels", b"U\x0bfine_labels"))
    assert load_all(tmp_path, dataset="cifar100") is None
    assert not any(sandbox.iterdir())


def odd_columns(size, pixels):
    """Columns of so many rows that a folder of Parquet may have, and some that it may not."""

    def of(values, kind):
        return st.lists(st.sampled_from(values), min_size=size, max_size=size).map(lambda found: pa.array(found, kind))

    struct = pa.struct([("bytes", pa.binary())])
    words = of(["", "a", "é" * 2000, "b\0"], pa.string())
    good = of([{"bytes": content} for content in pixels[:3]], struct)
    return (
        st.one_of(good, good, of([{"bytes": content} for content in pixels], struct), of(pixels, pa.large_binary())),
        st.one_of(words, words.map(lambda found: found.dictionary_encode()), of([3.0, -4.5], pa.float64()), of([0, 1, 2**62, -(2**62)], pa.int64()), of([2**64 - 1, 0], pa.uint64()), of(["a", None], pa.string()), of([True], pa.bool_())),
        st.one_of(words, of([5, 7, -1], pa.int16()), of([None, 1], pa.int64()), of([1.5], pa.float32())),
    )  # fmt: skip


METADATA = [None, b"{}", b"[" * 5000, b'{"info": {"features": {"label": {"names": [1]}}}}', b"\xff",
            b'{"info": {"features": {"label": {"names": ["x", "y", "z"]}}}}']  # fmt: skip


@FEW_AND_MANY
def test_folders_of_parquet_with_anything_in_their_columns(times, tmp_path):
    grey, wide = np.zeros((1, 6, 6), np.uint8), np.full((3, 6, 7), 9, np.uint8)
    pixels = [
        encoded(grey),
        encoded(grey + 200),
        encoded(grey, "JPEG"),
        encoded(wide),
        encoded(grey)[:-9],
        b"",
        b"GIF89a",
        None,
    ]
    for name in ("train-0", "train-1", "test-0"):
        write_table(tmp_path / "data" / f"{name}.parquet", pixels[:2], label=["a", "b"], user=[1, 2])

    @st.composite
    def tables(draw):
        size = draw(st.integers(0, 4))
        arrays = [draw(each) for each in odd_columns(size, pixels)]
        table = pa.table(arrays, names=["image", "label", "user"])
        metadata = draw(st.sampled_from(METADATA))
        return table.replace_schema_metadata(metadata and {b"huggingface": metadata})

    settings = st.fixed_dictionaries(
        {},
        optional={"user_column": st.just("user"), "image_size": st.sampled_from([1, 9]), "train_examples": st.just(2)},
    )

    @fuzz(60 * times)
    @given(st.lists(tables(), min_size=1, max_size=3), settings, st.integers(1, 3))
    def holds(found, chosen, rows):
        with tempfile.TemporaryDirectory() as place:
            root = Path(place) / "data"
            shutil.copytree(tmp_path / "data", root)
            for table, name in zip(found, ("test-0", "train-1", "train-0"), strict=False):
                pq.write_table(table, root / f"{name}.parquet", row_group_size=rows)
            load_all(root, dataset="parquet", **chosen)

    holds()


@FEW_AND_MANY
def test_damaged_parquet(times, tmp_path, write_shards):
    folder = write_shards(tmp_path / "png")
    write_shards(tmp_path / "jpeg", "JPEG")
    names = sorted(path.name for path in folder.iterdir())

    @st.composite
    def damages(draw):
        name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        kind = draw(st.sampled_from(["png", "jpeg"]))
        content = (tmp_path / kind / name).read_bytes()
        swapped = st.just(changed((folder / other).read_bytes(), f"all of {other}"))
        return kind, name, draw(damaged(content) | st.sampled_from(ODD_FILES) | swapped)

    @fuzz(60 * times)
    @given(damages())
    def holds(change):
        kind, name, content = change
        with tempfile.TemporaryDirectory() as place:
            root = Path(place) / "data"
            shutil.copytree(tmp_path / kind, root)
            put(root / name, content)
            load_all(root)

    holds()


def types(size):
    """Columns of so many rows that are not, or not quite, those of CIFAR-10."""
    images = st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", None, bytes(100)])
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = st.lists(images, min_size=size, max_size=size)
    return {
        "img": st.one_of(
            rows.map(lambda values: pa.array([{"bytes": value} for value in values], struct)),
            rows.map(lambda values: pa.array([None if value is None else {"bytes": value} for value in values], struct)),
            rows.map(lambda values: pa.array(values, pa.binary())),
            rows.map(lambda values: pa.array([{"bytes": str(value)} for value in values])),
            st.just(pa.array([{"path": "x"}] * size)),
            st.just(pa.nulls(size)),
            st.just(pa.array([[b"x"]] * size)),
        ),
        "label": st.one_of(
            *(st.just(pa.array([value] * size, kind)) for value, kind in [
                (3, pa.int64()), (3, pa.uint8()), (10, pa.int64()), (-1, pa.int8()), (2**63, pa.uint64()), (3.0, pa.float64()),
                ("3", pa.string()), (True, pa.bool_()), (None, pa.int64()), (None, pa.null()), ([3], pa.list_(pa.int64())),
            ]),
        ),
    }  # fmt: skip


@FEW_AND_MANY
def test_parquet_of_other_columns_and_values(times, tmp_path, write_shards, encode, examples):
    folder = write_shards(tmp_path / "data")
    good = [encode(image) for image in examples[0][:3]]
    wide = [
        encode(examples[0][0], size=(33, 32)),
        encode(examples[0][0], mode="L"),
        good[0][:-20],
        encode(np.zeros((3, 4000, 4000), np.uint8)),
    ]

    @st.composite
    def tables(draw):
        size = draw(st.integers(0, 3))
        columns = {name: draw(strategy) for name, strategy in types(size).items()}
        if draw(st.booleans()):
            contents = draw(st.lists(st.sampled_from([*good, *wide]), min_size=size, max_size=size))
            columns["img"] = pa.array([{"bytes": each} for each in contents], pa.struct([("bytes", pa.binary())]))
        names = draw(st.permutations(sorted(columns)))[: draw(st.integers(0, 2))]
        arrays = [columns[name] for name in names]
        if draw(st.booleans()):
            names, arrays = [*names, *names[:1]], [*arrays, *arrays[:1]]  # a column that is there twice
        return pa.table(arrays, names=names)

    @fuzz(60 * times)
    @given(tables(), st.sampled_from(["train-00000-of-00002", "test-00000-of-00001"]), st.integers(1, 3))
    def holds(table, name, rows):
        path = folder / f"{name}.parquet"
        before = path.read_bytes()
        pq.write_table(table, path, row_group_size=rows)
        try:
            load_all(tmp_path)
        finally:
            path.write_bytes(before)

    holds()


@FEW_AND_MANY
def test_a_damaged_cache_only_costs_the_decoding(times, tmp_path, write_shards, monkeypatch):
    """Any other content at a cache file's path, or one changed digit, counts as no cache: the files are read again."""
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "cache"))
    root = write_shards(tmp_path / "data")
    true = load_all(root)
    kept = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    headers = [
        b"[" * 4096,
        b'{"examples": 1e400, "format": "png"}',
        b'{"examples": %s}' % (b"9" * 4000),
        b"[]",
        b'{"examples": []}',
    ]

    def of(path):
        content = kept[path]
        odd = st.sampled_from(headers).map(lambda head: changed(head.ljust(4096) + content[4096:], str(head[:40])))
        others = st.sampled_from(list(kept.values())).map(lambda other: changed(other, "another split"))
        return st.tuples(st.just(path), damaged(content) | odd | others | st.sampled_from(ODD_FILES))

    @fuzz(60 * times)
    @given(st.sampled_from(sorted(kept)).flatmap(of))
    def holds(change):
        put(*change)
        try:
            assert same(load_all(root), true)
            if change[1] != "folder":
                assert change[0].read_bytes() == kept[change[0]]  # it is there again
        finally:
            put_odd(change[0], "gone")
            change[0].write_bytes(kept[change[0]])

    holds()


def test_files_that_vanish_while_they_are_read(tmp_path, write_shards, monkeypatch):
    """Between the look at the folder and the reading."""
    folder = write_shards(tmp_path / "data")
    listed = parquet.paths
    for kind in ("gone", "folder", "empty", "dangling"):
        monkeypatch.setattr(parquet, "paths", listed)
        before = (folder / "test-00000-of-00001.parquet").read_bytes()

        def then_gone(where, split, title, kind=kind):
            found = listed(where, split, title)
            if split == "test":
                put_odd(found[0], kind)
            return found

        monkeypatch.setattr(parquet, "paths", then_gone)
        with pytest.raises(BadInputError, match="test-00000"):
            load(Data(dataset="cifar10", root=str(folder)))
        put_odd(folder / "test-00000-of-00001.parquet", "gone")
        (folder / "test-00000-of-00001.parquet").write_bytes(before)
