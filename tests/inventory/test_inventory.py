"""python -m fedray.results: runs on disk are listed, shown, removed and archived, and no others are touched."""

import io
import json
import os
import shutil
import sys
import tarfile

import pandas as pd
import pytest
from small_runs import assert_same_tables, small, stopped_after

from fedray.cli.command_line import report_errors
from fedray.core.errors import BadInputError
from fedray.core.lock import hold
from fedray.inventory.__main__ import main, program
from fedray.results import load
from fedray.results.recorder import lock_of
from fedray.run import archive as archives
from fedray.run import run
from fedray.run.prepared import Job

TABLES = ("rounds", "clients", "population", "evaluations", "confusion", "metrics", "events")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two folders of results. Of the four runs in the first, two share a partition, and one was interrupted."""
    root = tmp_path_factory.mktemp("made")
    run(small(root, rounds=2))
    run(small(root, rounds=2, algorithm__lr=0.05))
    run(small(root, rounds=2, seed=1))
    prox = {"seed": 2, "algorithm__name": "fedprox", "algorithm__mu": 0.5, "output__save_best": True}
    stopped_after(root, 3, **prox)
    run(small(root, rounds=2, output__name="other"))
    (root / "small/experiment.toml").write_text("# Why?\n")
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of them, `results` in the working directory."""
    shutil.copytree(made, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def ids(**changes):
    return Job(small("results", **changes)).run


FIRST, FAST, SECOND = (ids(rounds=2, **changes) for changes in ({}, {"algorithm__lr": 0.05}, {"seed": 1}))
PROX = ids(seed=2, algorithm__name="fedprox", algorithm__mu=0.5, output__save_best=True)


def call(capsys, *words):
    capsys.readouterr()
    status = report_errors(lambda: main([*map(str, words)]))
    said = capsys.readouterr()
    return status, said.out, said.err


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def partition_of(root, which):
    runs = load("small", root).runs.set_index("run")
    return f"partitions/{runs['partition_id'][which]}.parquet"


def only(tables, runs):
    """What `load` gives, of these runs alone."""
    kept = dict(vars(tables))
    for name in ("runs", *TABLES):
        kept[name] = kept[name][kept[name]["run"].isin(runs)].reset_index(drop=True)
    used = set(kept["runs"]["partition_id"])
    kept["partitions"] = kept["partitions"][kept["partitions"]["partition_id"].isin(used)].reset_index(drop=True)
    return kept


def assert_loads(root, expected, name="small"):
    found = vars(load(name, root))
    for table, frame in expected.items():
        known = [column for column in frame if frame[column].notna().any()]  # settings that only a removed run has
        pd.testing.assert_frame_equal(found[table][known], frame[known], check_dtype=False, obj=table)


def test_load_reads_the_tables_that_are_asked_for(root):
    whole, found = load("small", root), load("small", root, tables=["events"])
    pd.testing.assert_frame_equal(found.runs, whole.runs)
    pd.testing.assert_frame_equal(found.events, whole.events)
    for table in ("rounds", "clients", "population", "confusion", "metrics", "partitions"):
        assert len(vars(found)[table]) == 0 < len(vars(whole)[table]) or table == "metrics"
        assert list(vars(found)[table]) == list(vars(whole)[table])
    with pytest.raises(BadInputError, match="there is no table 'round'"):
        load("small", root, tables=["round"])


# list and show


def test_a_line_for_each_run_has_the_words_that_choose_it(root, capsys):
    status, out, err = call(capsys, "list", "small")
    head, *lines, total = out.splitlines()
    assert (status, err) == (0, "")
    assert head.split()[:4] == ["run", "results", "status", "rounds"]
    assert total.startswith("4 runs, ")
    assert sorted(line.split()[0] for line in lines) == sorted([FIRST, FAST, SECOND, PROX])
    for line in lines:
        which, name, state, rounds = line.split()[:4]
        assert name == "small"
        assert (state, rounds) == (("interrupted", "3/6") if which == PROX else ("finished", "2/2"))
        settings = [word for word in line.split() if "=" in word]
        assert any(word.startswith("seed=") for word in settings)
        again = call(capsys, "list", "small", *settings)[1].splitlines()
        assert [each.split()[0] for each in again[1:-1]] == [which]
    assert "mu=0.5" in next(line for line in lines if line.startswith(PROX))
    assert call(capsys, "list")[1].splitlines()[-1].startswith("5 runs, ")


def test_a_line_of_json_has_what_load_has_and_the_bytes_on_disk(root, capsys):
    lines = [json.loads(line) for line in call(capsys, "list", "small", "--json")[1].splitlines()]
    runs = load("small", root).runs.set_index("run")
    assert len(lines) == 4
    for line in lines:
        row = runs.loc[line["run"]]
        assert (line["status"], line["rounds_done"]) == (row["status"], row["rounds_done"])
        assert line["settings"]["algorithm.lr"] == row["algorithm.lr"]
        assert line["started_at"] == row["started_at"].isoformat(timespec="milliseconds")
        own = [path for path in (root / "small").rglob(f"*{line['run']}*") if path.is_file()]
        assert line["bytes"] == sum(path.stat().st_size for path in own) > 0
    of_prox = next(line for line in lines if line["run"] == PROX)
    assert of_prox["settings"]["algorithm.mu"] == 0.5
    assert type(of_prox["settings"]["rounds"]) is int


def test_show_has_settings_events_and_files(root, capsys):
    run(small(root, seed=2, algorithm__name="fedprox", algorithm__mu=0.5, output__save_best=True))  # it goes on
    status, out, _ = call(capsys, "show", PROX)
    assert status == 0
    assert out.startswith(f"run {PROX} in results/small/: finished\n")
    lines = [line.split() for line in out.splitlines()]
    assert ["algorithm.mu", "0.5"] in lines
    assert ["rounds_done", "6"] in lines
    assert "resumed: continuing run" in out
    for name in (f"rounds/{PROX}.parquet", f"models/{PROX}.best.safetensors"):
        size = (root / "small" / name).stat().st_size
        assert any(line[0] == f"results/small/{name}" and float(line[1]) * 1000 == pytest.approx(size, rel=0.01) for line in lines if line[2:3] == ["kB"])  # fmt: skip
    assert any(line[-1:] == ["shared"] and "partitions/" in line[0] for line in lines)
    found = json.loads(call(capsys, "show", PROX, "--json")[1])
    assert [event["kind"] for event in found["events"]] == ["resumed"]
    assert sum(found["files"].values()) == found["bytes"]
    assert f"runs/{PROX}.parquet" in found["files"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "which?; the commands are list"),
        (["lst"], "there is no command 'lst'; did you mean list?"),
        (["rm"], "rm needs to know which runs"),
        (["list", "--yes"], "--yes is for rm and archive, not for list"),
        (["rm", "small", "--to", "x.tar.gz"], "--to is for archive"),
        (["list", "smal"], "'smal' is no run and no results in results; did you mean small?"),
        (["rm", "small", "lrr=0.1", "--yes"], "no run has a setting 'lrr'"),
        (["rm", "fedavg", "--yes"], "fedavg may be 4 runs"),
        (["rm", FIRST, "--yes"], f"{FIRST} may be 2 runs"),
        (["rm", f"{SECOND[:-1]}", "--yes"], "is no run and no results"),
        (["show", "small"], "show is for one run, and 4 fit small"),
        (["show", "small", "lr=7"], "no run fits small lr=7"),
        (["archive", "small", "--to", "x.zip", "--yes"], "must end in .tar.gz or .tar.zst"),
        (["archive", "small", "--to", "results/small/experiment.tar.gz", "--yes"], "exists; take another name"),
        (["archive", "small", "--to", "nowhere/x.tar.gz", "--yes"], "there is no folder nowhere"),
        (["archive", "small", "lr=7", "--yes"], "no run fits small lr=7"),
        (["list", "--root", "nowhere"], "there is no folder nowhere of results"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_changes_nothing(root, capsys, words, why):
    (root / "small/experiment.tar.gz").write_text("here")
    before = content(root)
    status, _, err = call(capsys, *words)
    assert status == 2
    assert why in err
    assert err.count("\n") == 1
    assert content(root) == before


# rm


@pytest.mark.parametrize(
    ("words", "gone", "partitions"),
    [
        (["small", "results/small", "lr=0.05"], [FAST], []),  # the first run has its partition, too
        (["status=interrupted"], [PROX], [PROX]),
        (["small", "rounds_done=2", "seed<1"], [FIRST, FAST], [FIRST]),
        (["results/small", FIRST.split("-")[-1]], [FIRST], []),
        (["small"], [FIRST, FAST, SECOND, PROX], [FIRST, SECOND, PROX]),
    ],
)
def test_exactly_the_files_of_these_runs_go(root, capsys, words, gone, partitions):
    (root / "small/tensorboard" / PROX).mkdir(parents=True)
    (root / "small/tensorboard" / PROX / "events").write_text("x")
    (root / "small/rounds" / f".{gone[0]}.parquet.tmp-1-0").write_text("what a killed writer left")
    (root / "small/rounds" / ".another.parquet.tmp-1-0").write_text("another's")
    before, tables = content(root), load("small", root)
    theirs = {name for name in before if any(one in name for one in gone) and name.startswith("small/")}
    theirs |= {f"small/{partition_of(root, which)}" for which in partitions}
    status, out, _ = call(capsys, "rm", *words, "--yes")
    assert status == 0
    assert all(one in out for one in gone)
    assert content(root) == {name: text for name, text in before.items() if name not in theirs}
    assert_loads(root, only(tables, {FIRST, FAST, SECOND, PROX} - set(gone)))
    assert not (root / "small/.removing").exists()
    assert (PROX in gone) == (not (root / "small/tensorboard" / PROX).exists())


def test_a_removed_run_can_be_played_again(root, capsys):
    before = load("small", root, FIRST)
    assert call(capsys, "rm", "small", FIRST, "--yes")[0] == 0
    assert_same_tables(run(small(root, rounds=2)), before)


def test_nothing_is_done_unless_somebody_says_so(root, capsys, monkeypatch):
    before = content(root)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for words in (["rm", "small", "lr=0.05"], ["archive", "small", "lr=0.05", "--remove"]):
        status, out, err = call(capsys, *words)
        assert status == 2
        assert FAST in out and FIRST not in out
        assert "--yes does it" in err
    assert content(root) == before
    assert not list(root.parent.glob("*.tar.gz"))
    for answer, left in (("n", 4), ("", 4), ("yes", 3)):
        terminal = io.StringIO(f"{answer}\n")
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", terminal)
        status, out, _ = call(capsys, "rm", "small", "lr=0.05")
        assert (status == 0) == (left == 3)
        assert f"remove 1 run ({len([n for n in before if FAST in n])} files, " in out
        assert len(load("small", root).runs) == left


def test_a_run_that_is_played_is_refused_and_so_is_a_sweep_at_work(root, capsys):
    with lock_of(root / "small", SECOND):
        before = content(root)
        for command in ("rm", "archive"):
            status, _, err = call(capsys, command, "small", "--yes")
            assert status == 2
            assert f"run {SECOND} in results/small is being recorded by another process; nothing was" in err
        assert content(root) == before
        assert call(capsys, "rm", "small", "lr=0.05", "--yes")[0] == 0  # another run of the same results
    with hold(root / "small/.sweep.lock", "busy"):
        status, _, err = call(capsys, "rm", "small", "--yes")
        assert status == 2
        assert "is at work in results/small/" in err
    assert len(load("small", root).runs) == 3


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_step_leaves_results_that_load_and_rm_finishes(made, tmp_path, warm, step):
    """Killed before every so manieth file operation, until none is left."""
    root, gone = tmp_path / "results", {SECOND, PROX}
    tables = load("small", made)
    whole = only(tables, {FIRST, FAST, SECOND, PROX})
    left, before = only(tables, {FIRST, FAST}), content(made)
    dropped = {partition_of(made, which) for which in gone}
    stays = {n: text for n, text in before.items() if not any(one in n for one in (*gone, *dropped))}
    words = ["rm", "small", "seed>0", "--yes", "--root", root]
    points, seen = 0, set()
    while True:
        shutil.copytree(made, root)
        status, *said = warm.run(*words, inventory=True, at=points, under=root / "small")
        if status == 0:
            break
        assert status == -9, said
        found = load("small", root)
        for run_ in (FIRST, FAST):  # nothing of the others is missing
            for table in ("runs", *TABLES):
                mine, theirs = (
                    frame[frame["run"] == run_].reset_index(drop=True) for frame in (vars(found)[table], whole[table])
                )
                known = [column for column in theirs if theirs[column].notna().any()]
                pd.testing.assert_frame_equal(mine[known], theirs[known], check_dtype=False)
        assert stays.items() <= content(root).items()
        seen.add(len(found.runs))
        status, *said = warm.run(*words, inventory=True)
        assert status == 0, said
        assert {n: text for n, text in content(root).items() if not n.endswith(".lock")} == stays
        assert_loads(root, left)
        shutil.rmtree(root)
        points += step
    assert {n: text for n, text in content(root).items() if not n.endswith(".lock")} == stays
    assert seen == {4, 3, 2}
    assert points > 50


def test_a_half_removed_run_is_listed_and_its_settings_still_choose_it(root, capsys):
    for name in ("runs", "journal"):
        (root / "small/.removing" / name).mkdir(parents=True)
    (root / f"small/runs/{PROX}.parquet").rename(root / f"small/.removing/runs/{PROX}.parquet")
    (root / f"small/journal/{PROX}.jsonl").rename(root / f"small/.removing/journal/{PROX}.jsonl")
    assert len(load("small", root).runs) == 3
    (line,) = [line for line in call(capsys, "list", "mu=0.5")[1].splitlines() if line.startswith(PROX)]
    assert "half removed" in line
    assert "is half removed, and cannot be archived" in call(capsys, "archive", "small", "--yes")[2]
    assert call(capsys, "show", PROX)[0] == 0
    assert call(capsys, "rm", "small", "mu=0.5", "--yes")[0] == 0
    assert not [name for name in content(root) if PROX in name]
    assert not (root / "small/.removing").exists()


def test_a_damaged_run_is_listed_and_goes_by_its_id_alone(root, capsys):
    partition = partition_of(root, SECOND)
    (root / f"small/runs/{SECOND}.parquet").write_bytes(b"junk")
    status, out, err = call(capsys, "list", "small")
    assert status == 0
    assert "damaged" in next(line for line in out.splitlines() if line.startswith(SECOND))
    assert f"{SECOND}.parquet cannot be read" in err
    assert call(capsys, "show", SECOND)[0] == 0
    assert "no run fits" in call(capsys, "rm", "seed=1", "--yes")[1]
    assert call(capsys, "rm", PROX, "--yes")[0] == 0
    assert len(list((root / "small/partitions").iterdir())) == 3  # it may be the damaged run's
    assert call(capsys, "rm", SECOND, "--yes")[0] == 0
    assert not [name for name in content(root) if SECOND in name]
    assert (root / "small" / partition).exists()


def test_a_link_goes_and_what_it_leads_to_stays(root, capsys):
    model, elsewhere = root / f"small/models/{FIRST}.safetensors", root.parent / "kept.safetensors"
    model.rename(elsewhere)
    model.symlink_to(elsewhere)
    assert call(capsys, "rm", "small", FIRST, "--yes")[0] == 0
    assert not os.path.lexists(model)
    assert elsewhere.stat().st_size > 0


# archive


@pytest.mark.parametrize("removed", [False, True])
def test_an_archive_unpacks_to_results_that_load_and_go_on(root, capsys, removed):
    before, tables = content(root), load("small", root)
    gone = {FIRST, PROX}
    words = ["archive", "small", FIRST.split("-")[-1], PROX, "--yes", "--to", "kept.tar.gz"]
    status, out, _ = call(capsys, *words, *["--remove"] * removed)
    assert status == 0
    assert ("nothing was removed" in out) == (not removed)
    left = {
        n: t for n, t in before.items() if not removed or not (n.startswith("small/") and any(one in n for one in gone))
    }
    if removed:
        del left[f"small/partitions/{tables.runs.set_index('run')['partition_id'][PROX]}.parquet"]
    assert content(root) == left
    with tarfile.open("kept.tar.gz") as tar:
        tar.extractall("elsewhere", filter="data")
    assert_loads("elsewhere", only(tables, gone))
    assert (root.parent / "elsewhere/small/experiment.toml").read_text() == "# Why?\n"
    prox = {"seed": 2, "algorithm__name": "fedprox", "algorithm__mu": 0.5, "output__save_best": True}
    went_on = run(small("elsewhere", **prox))
    assert went_on.runs["status"].tolist() == ["finished"]
    assert "resumed" in set(went_on.events["kind"])


def test_where_a_file_is_not_the_one_in_the_archive_nothing_is_removed(root, capsys, monkeypatch):
    """A writer that holds no lock changes a file after it was packed."""
    real = archives.contents

    def changing(path):
        found = list(real(path))
        with (root / f"small/rounds/{FAST}.parquet").open("ab") as file:
            file.write(b"x")
        return found

    monkeypatch.setattr(archives, "contents", changing)
    names = set(content(root))
    status, _, err = call(capsys, "archive", "small", "--remove", "--yes")
    assert status == 1
    assert f"{FAST}.parquet is not as in the archive, so that there is none" in err
    assert set(content(root)) == names
    assert not list(root.parent.glob("*small.tar*"))


def test_an_archive_of_damaged_bytes_is_noticed(root, capsys, monkeypatch):
    """The disk gives back other bytes than were written."""
    real = archives.sync

    def damaging(path):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\0" * 64)
        real(path)

    monkeypatch.setattr(archives, "sync", damaging)
    before = content(root)
    status, _, err = call(capsys, "archive", "small", "--remove", "--yes")
    assert status == 1
    assert "is not as in the archive, so" in err or "the archive cannot be read back" in err
    assert content(root) == before
    assert not list(root.parent.glob("*small.tar*"))


def test_zstandard_where_python_has_it(root, capsys):
    status, _, err = call(capsys, "archive", "small", FAST, "--yes", "--to", "small.tar.zst")
    if "zst" in tarfile.TarFile.OPEN_METH:
        assert status == 0
    else:
        assert (status, "take .tar.gz" in err) == (2, True)
        assert not (root.parent / "small.tar.zst").exists()


def test_a_pipe_that_nobody_reads_is_no_error(root, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        monkeypatch.setattr(sys, "argv", ["fedray-results", "list"])
        assert program() == 0
