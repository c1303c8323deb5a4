"""What a run left on disk, damaged in all ways: the same results in the end, or one sentence and an untouched disk."""

import hashlib
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from fuzzing import FEW_AND_MANY, ODD_FILES, changed, damaged, end_of, fuzz, on_disk, put_odd
from hypothesis import assume, example, given
from hypothesis import strategies as st
from small_runs import assert_same_tables

from fedray import __main__ as one
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose, override
from fedray.results import DamagedResultsWarning, NewerResultsWarning, load
from fedray.results.journal import decode_line, encode_line
from fedray.run import run
from fedray.run.watch import Watch
from fedray.sweep import __main__ as sweep

SETTINGS = {
    "rounds": 6, "clients": 3, "cohort": 2, "data.dataset": "synthetic", "data.train_examples": 60,
    "data.test_examples": 40, "model.name": "logistic", "algorithm.name": "scaffold", "algorithm.lr": 0.02,
    "evaluation.clients_every": 2, "cluster.backend": "in-process", "output.name": "fuzz", "output.checkpoint_every": 2,
    "output.flush_seconds": 0.001,
}  # fmt: skip
LEFT_OUT = (DamagedResultsWarning, NewerResultsWarning)
ARGUMENTS = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]


def experiment(root, **changes):
    tree = {}
    override(tree, {**SETTINGS, "output.root": str(root), **changes})
    return compose(tree)


class Copying(Watch):
    """Copies the results as a kill right after round 5 would leave them, one round after the checkpoint."""

    def __init__(self, root, copy):
        self.root, self.copy = root, copy

    def round(self, job, row):
        if row["round"] == 5:
            shutil.copytree(self.root, self.copy, ignore=shutil.ignore_patterns(".*"))  # a lock goes with its process


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A folder with a killed run, one that was interrupted and one that ended, and the first one's name and results."""
    folder = tmp_path_factory.mktemp("left")
    run(experiment(folder / "whole", seed=2))
    run(experiment(folder / "whole", seed=1), until=5)
    undisturbed = run(experiment(folder / "whole"), Copying(folder / "whole", folder / "killed"))
    return folder / "killed", str(undisturbed.runs["run"][0]), undisturbed


@pytest.fixture(scope="module")
def ended(left):
    return left[0].with_name("whole"), left[1], left[2]


def files_of(folder, name):
    """The files that a run has for itself, and the partition, which all share."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name.startswith(f"{name}.")]
    return sorted(str(path.relative_to(folder)) for path in (*found, *folder.rglob("partitions/*.parquet")))


@st.composite
def damages(draw, folder, name):
    """What becomes of one file or two: their bytes, or what else is in their place."""
    paths = draw(st.lists(st.sampled_from(files_of(folder, name)), min_size=1, max_size=2, unique=True))
    everything = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    swapped = st.sampled_from(everything).map(lambda other: changed((folder / other).read_bytes(), f"all of {other}"))
    return {path: draw(damaged((folder / path).read_bytes()) | swapped | st.sampled_from(ODD_FILES)) for path in paths}


def put(root, changes):
    for path, content in changes.items():
        if isinstance(content, str):
            put_odd(root / path, content)
        else:
            (root / path).write_bytes(content)


def quietly(main):
    """A program that may leave out what is damaged, without Python's own warning of that."""

    def program(argv):
        with warnings.catch_warnings():
            for category in LEFT_OUT:
                warnings.simplefilter("ignore", category)
            return main(argv)

    return program


def go_on(folder, name, changes):
    """Continue the killed run with these files changed: how it ended, what was on disk before, and where."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "results"
        shutil.copytree(folder, root)
        put(root, changes)
        before = on_disk(root)
        end = end_of(quietly(one.main), *ARGUMENTS, "--output.root", root)
        after = on_disk(root)
        if end.status == 2:
            assert after == before, end
        found = None
        if end.status == 0:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = load("fuzz", root, name)
            assert not caught, [str(warning.message) for warning in caught]
        return end, before, after, found


@FEW_AND_MANY
def test_a_killed_run_whose_files_are_damaged(times, left):
    """It goes on to the very results of an undisturbed run, or is refused; other runs' files stay as they are."""
    folder, name, undisturbed = left
    others = set(on_disk(folder)) - set(files_of(folder, name))
    partition = undisturbed.runs["partition_id"][0]
    ended = next(path.stem for path in folder.rglob("models/*"))

    @fuzz(15 * times)
    @example({f"fuzz/checkpoints/{name}.safetensors": "pipe"})
    @example({f"fuzz/checkpoints/{name}.previous.safetensors": "folder"})
    @example({f"fuzz/journal/{name}.jsonl": "folder"})
    @example({f"fuzz/partitions/{partition}.parquet": "empty"})  # which all runs share, and only the first one wrote
    @example({f"fuzz/partitions/{partition}.parquet": (folder / f"fuzz/clients/{name}.parquet").read_bytes()})
    @example({f"fuzz/runs/{name}.parquet": (folder / f"fuzz/runs/{ended}.parquet").read_bytes()})  # another's status
    @given(damages(folder, name))
    def holds(changes):
        end, before, after, found = go_on(folder, name, changes)
        assert end.status in (0, 2) or (end.status == 1 and "folder" in changes.values()), end
        assert {path: after[path] for path in others} == {path: before[path] for path in others}
        if end.status == 0:
            assert_same_tables(found, undisturbed)
            assert found.runs["model_fingerprint"][0] == undisturbed.runs["model_fingerprint"][0]

    holds()


@FEW_AND_MANY
@pytest.mark.parametrize("program", ["load", "run", "sweep"])
def test_results_of_an_ended_run_that_are_damaged(times, program, ended):
    """They are left out by name or refused, and what is shown is what was there; nothing on disk changes."""
    folder, name, undisturbed = ended

    @fuzz((30 if program == "load" else 10) * times)
    @example({f"fuzz/rounds/{name}.parquet": "empty"})  # what is said of the clients is said from there
    @example({f"fuzz/runs/{name}.parquet": "pipe"})
    @given(damages(folder, name))
    def holds(changes):
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            shutil.copytree(folder, root, dirs_exist_ok=True)
            put(root, changes)
            before = on_disk(root)
            if program == "load":
                with warnings.catch_warnings(record=True) as caught:
                    for category in LEFT_OUT:
                        warnings.simplefilter("always", category)
                    try:
                        found = load("fuzz", root, name)
                    except BadInputError:
                        pass
                    else:
                        if not caught and not any(content in ("gone", "dangling") for content in changes.values()):
                            assert_same_tables(found, undisturbed)
            elif program == "run":
                assert end_of(quietly(one.main), *ARGUMENTS, "--output.root", root).status in (0, 2)
            else:
                (root / "s.toml").write_text("grid.seed = [0, 2]")
                before = on_disk(root)
                assert end_of(sweep.main, root / "s.toml", *ARGUMENTS, "--output.root", root).status in (0, 1, 2)
            if program != "sweep" and not any(content in ("gone", "dangling") for content in changes.values()):
                assert on_disk(root) == before

    holds()


def taken_apart(content):
    """A checkpoint's header and its data."""
    begin = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:begin]), content[begin:]


def put_together(header, data):
    """The checkpoint again, with a digest that is right whatever the header says."""
    header["__metadata__"] = {
        "blake2b": "0" * 32,
        **{k: v for k, v in header["__metadata__"].items() if k != "blake2b"},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.blake2b(data, digest_size=16)
    digest.update(head)
    return head.replace(b"0" * 32, digest.hexdigest().encode(), 1) + data


ODD_VALUES = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 2**31, 2**62, 2**63, 10**400, -(2**63), 0.5, 1e308, float("nan"), float("inf")]
    ),
    st.sampled_from(
        ["", "F32", "F64", "I64", "F4", "x" * 500, "\ud800", "1", "memory/", [], [[]], [1, 2], [-1, 5], [0, 2**60]]
    ),
    st.sampled_from([{}, {"a": 1}, [2**40, 2**40], [0], [None], ["a"]]),
)


@st.composite
def altered(draw, tree):
    """JSON with one value of it replaced, removed, or put under another name, however deep."""
    at = tree
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return tree
        key = draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key] or draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    match draw(st.sampled_from(["replace", "remove", "rename"])):
        case "remove":
            del at[key]
        case "rename" if isinstance(at, dict):
            at[
                draw(st.sampled_from(["", "params", "memory/1/c_i", "memory/x/c_i", "memory/99/c_i", "memory/1", "é"]))
            ] = at.pop(key)
        case _:
            at[key] = draw(ODD_VALUES)
    return tree


@FEW_AND_MANY
def test_a_checkpoint_that_lies_with_a_right_digest(times, left):
    """Whatever its header says of its arrays, its run and its round: no traceback, and no memory for what is not there."""
    folder, name, _ = left
    path = f"fuzz/checkpoints/{name}.safetensors"
    content = (folder / path).read_bytes()

    @st.composite
    def lies(draw):
        header, data = taken_apart(content)
        meta = json.loads(header["__metadata__"]["meta"])
        if draw(st.booleans()):
            header["__metadata__"]["meta"] = json.dumps(draw(altered(meta)))
        else:
            header = draw(altered(header))
        assume(isinstance(header.get("__metadata__"), dict))
        end, more = draw(st.sampled_from([(None, 0), (-4, 0), (None, 64), (0, 0)]))
        return changed(put_together(header, data[:end] + bytes(more)), f"{header}, data[:{end}] + {more} bytes")

    @fuzz(12 * times)
    @given(lies())
    def holds(lie):
        end, *_ = go_on(folder, name, {path: lie, path.replace(".safetensors", ".previous.safetensors"): "gone"})
        assert end.status in (0, 2), end

    assert go_on(folder, name, {path: put_together(*taken_apart(content))})[0].status == 0
    holds()


@FEW_AND_MANY
def test_a_journal_that_lies_with_right_checksums(times, left):
    """Whatever stands in its lines: no traceback, from the run that goes on and from `load`."""
    folder, name, _ = left
    path = f"fuzz/journal/{name}.jsonl"
    lines = (folder / path).read_bytes().splitlines()

    @st.composite
    def lies(draw):
        trees = [decode_line(line) for line in lines]
        i = draw(st.integers(0, len(trees) - 1))
        trees[i] = draw(altered(trees[i]))
        return changed(b"".join(map(encode_line, trees)), f"line {i} is {trees[i]}")

    @fuzz(12 * times)
    @example(b"[" * 3000)
    @example(b"\n".join([*lines[:2], b"[" * 3000, *lines[2:]]))
    @given(lies())
    def holds(lie):
        end, *_ = go_on(folder, name, {path: lie})
        assert end.status in (0, 2), end
        with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
            shutil.copytree(folder, root, dirs_exist_ok=True)
            put(Path(root), {path: lie})
            for category in LEFT_OUT:
                warnings.simplefilter("ignore", category)
            load("fuzz", root)

    holds()
