"""What fedray 0.3.0 wrote stays valid: its run ids, its results and its checkpoints.

The files in tests/golden/ are kept for good; golden/make.py made them and says how. Columns and settings that are newer
than 0.3.0 are not looked at here, so that they may be added.
"""

import dataclasses
import importlib
import json
import math
import os
import runpy
import shutil
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from golden.golden_summary import summary
from pandas.testing import assert_frame_equal
from safetensors.numpy import load_file
from warm import Warm

from fedray.core.newer import with_neutral
from fedray.core.settings import flatten
from fedray.experiment import Experiment, read_experiment
from fedray.experiment.composition import all_settings
from fedray.results import FINAL_STATUSES, Results, load
from fedray.run import run
from fedray.run.prepared import Job

GOLDEN = Path(__file__).parent / "golden"
WRITTEN = GOLDEN / "results-0.3.0"
IDS = json.loads((GOLDEN / "run_ids.json").read_text())["ids"]
TABLES = json.loads((GOLDEN / "tables.json").read_text())
EACH_TABLE = [(name, table) for name, tables in TABLES.items() for table in tables]
FEDPROX = ["--algorithm.name=fedprox", "--algorithm.steps=600", "--partition.name=contiguous"]


@pytest.fixture(scope="module", autouse=True)
def programs():
    """`python -m fedray` and its sweep; a user's own model, data and algorithm can be imported, there and here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(GOLDEN)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [GOLDEN, Path(__file__).parents[1]])))
        with Warm() as warm:
            yield warm


@pytest.fixture
def place(tmp_path):
    """A folder as the one in which 0.3.0 ran: settings files, and their results in results/."""
    shutil.copytree(WRITTEN, tmp_path / "results")
    for path in GOLDEN.glob("*.toml"):
        shutil.copy(path, tmp_path)
    return tmp_path


@cache
def loaded(name: str) -> Results:
    """What load reads of the results that 0.3.0 wrote."""
    return load(name, WRITTEN)


def id_of(experiment: Experiment) -> str:
    """The id under which this experiment's results are found."""
    return Job(experiment, writes=False).run


def read(folder: Path, settings: dict) -> Experiment:
    """The experiment of dotted settings alone."""
    (folder / "golden.toml").write_text("")
    of_parquet = {"data.root": str(GOLDEN / "parquet")} if settings["data.dataset"] == "parquet" else {}
    return read_experiment(folder / "golden.toml", {**settings, **of_parquet})


@pytest.mark.parametrize("golden", [each for each in IDS if "own_class" not in each], ids=lambda each: each["name"])
def test_the_id_of_a_run_is_that_of_0_3_0_as_toml_has_settings_and_as_words_have_them(tmp_path, golden):
    words = {
        name: str(value).lower() if value in (True, False) else str(value) for name, value in golden["settings"].items()
    }
    assert id_of(read(tmp_path, golden["settings"])) == golden["id"]
    assert id_of(read(tmp_path, words)) == golden["id"]


@pytest.mark.parametrize("name", TABLES)
def test_each_setting_that_0_3_0_lacks_is_declared_as_newer(name):
    """With its neutral value, in core/newer.py; else the ids would be others, and old results would have no value."""
    for path in WRITTEN.glob(f"{name}/runs/*.parquet"):
        written = json.loads(pd.read_parquet(path)["settings"][0])
        chosen = {section: {"name": written[section]["name"]} for section in ("algorithm", "partition")}
        now = {setting for setting, _ in all_settings(chosen)}
        then = dict(flatten(written))
        assert now == set(with_neutral(then))


def test_the_id_of_an_own_class_is_not_that_of_0_3_0(tmp_path):
    """The one exception: the content of the class is in the id now, as `golden` says it was not. A result of 0.3.0 may
    be another class's, so it is not taken for this one's."""
    (golden,) = [each for each in IDS if "own_class" in each]
    assert golden["content_of_the_class_is_in_the_id"] is False
    module, _, kind = golden["own_class"].partition(":")
    own = {name.partition(".")[2]: value for name, value in golden["settings"].items() if name.startswith("algorithm.")}
    others = {name: value for name, value in golden["settings"].items() if not name.startswith("algorithm.")}
    algorithm = getattr(importlib.import_module(module), kind)(**own)
    assert id_of(dataclasses.replace(read(tmp_path, others), algorithm=algorithm)) != golden["id"]


@pytest.mark.parametrize(("name", "table"), EACH_TABLE, ids=map("-".join, EACH_TABLE))
def test_load_reads_what_0_3_0_read(name, table):
    """Of each column the nulls, the different values and, of numbers, the sum; the killed runs' rounds are in journals."""
    golden, found = TABLES[name][table], getattr(loaded(name), table)
    assert len(found) == golden["rows"]
    assert {column: summary(found[column]) for column in golden["columns"]} == golden["columns"]
    assert list(found)[:5] == list(golden["columns"])[:5]


@pytest.mark.parametrize(("name", "table"), EACH_TABLE, ids=map("-".join, EACH_TABLE))
def test_plain_pandas_duckdb_and_polars_read_the_tables_of_0_3_0(name, table):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    whole = loaded(name)
    ended = whole.runs.loc[whole.runs["status"].isin(FINAL_STATUSES), "run"]
    plain = pd.read_parquet(WRITTEN / name / table)
    mine, theirs = (
        each if table == "partitions" else each[each["run"].isin(ended)] for each in (getattr(whole, table), plain)
    )
    assert_frame_equal(mine[list(plain)].reset_index(drop=True), theirs.reset_index(drop=True), check_dtype=False)
    with_duckdb = duckdb.sql(f"select * from '{WRITTEN / name / table}/*.parquet'")
    with_polars = polars.read_parquet(WRITTEN / name / table / "*.parquet")
    assert with_duckdb.columns == with_polars.columns == list(plain)
    assert len(with_duckdb.fetchall()) == len(with_polars) == len(plain)
    assert math.fsum(with_polars["seed" if "seed" in plain else "count"]) == math.fsum(
        plain["seed" if "seed" in plain else "count"]
    )


def test_a_run_of_this_version_stands_beside_those_of_0_3_0(place, monkeypatch):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    monkeypatch.chdir(place)
    before = load("study")
    mine = run(read_experiment("study.toml", {"seed": 4, "cluster.backend": "in-process"})).runs["run"][0]
    after = load("study")
    assert set(after.runs["run"]) == {*before.runs["run"], mine}
    for table, golden in TABLES["study"].items():
        was, now = getattr(before, table), getattr(after, table)
        if table != "partitions":
            columns = list(golden["columns"])
            assert_frame_equal(
                now.loc[now["run"] != mine, columns].reset_index(drop=True), was[columns], check_dtype=False
            )
        files = sorted(Path("results/study", table).glob("*.parquet"))
        rows = sum(len(pd.read_parquet(path)) for path in files)
        assert len(pd.read_parquet(f"results/study/{table}")) == rows
        assert (
            len(duckdb.sql(f"from read_parquet('results/study/{table}/*.parquet', union_by_name = true)").fetchall())
            == rows
        )
        assert len(polars.concat(map(polars.read_parquet, files), how="diagonal")) == rows


def test_the_models_of_0_3_0_are_plain_safetensors():
    for path in WRITTEN.glob("*/models/*.safetensors"):
        shapes = {name: tensor.shape for name, tensor in load_file(path).items()}
        if path.name.startswith("fedavg-"):
            assert shapes == {"1.weight": (4, 64), "1.bias": (4,)}
        elif not path.name.startswith("fedprox-"):
            assert shapes["0.weight"] == (4, 1, 3, 3) and shapes["1.running_mean"] == (4,) and shapes["5.bias"] == (4,)


def start(programs: Warm, place: Path, file: str, *words: str, **options: bool) -> str:
    """What the program said, which came to a good end and wrote nothing to stderr."""
    status, output, errors = programs.run(place / file, f"--output.root={place / 'results'}", *words, **options)
    assert (status, errors) == (0, "")
    return " ".join(output.split())


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "single" else ()) for name in TABLES]
)
def test_the_report_shows_the_results_of_0_3_0(place, monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["fedray.report", str(place / "results" / name)])
    monkeypatch.delitem(sys.modules, "fedray.report.__main__", raising=False)  # runpy warns where it is imported
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("fedray.report", run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (0, "")
    page = (place / "results" / name / "report.html").read_text()
    assert all(algorithm in page for algorithm in load(name, WRITTEN).runs["algorithm"])


def test_a_finished_run_of_0_3_0_is_not_repeated_and_no_file_is_changed(programs, place):
    before = contents(place)
    said = start(programs, place, "single.toml")
    assert f"{load('single', WRITTEN).runs['run'][0]} was finished before and is not repeated" in said
    assert contents(place) == before


def test_a_finished_sweep_of_0_3_0_is_not_repeated_and_no_file_is_changed(programs, place):
    before = contents(place)
    said = start(programs, place, "study.toml", sweep=True)
    assert f"2 runs in {place}/results/study/, 2 of them finished before" in said
    assert contents(place) == before


@pytest.mark.parametrize(
    ("algorithm", "newest", "kept"), [("scaffold", True, 4), ("fedavgm", True, 4), ("scaffold", False, 2)]
)
def test_a_run_that_0_3_0_left_goes_on_from_its_checkpoint(programs, place, algorithm, newest, kept):
    """Scaffold was killed after round 5, fedavgm interrupted; without the newest checkpoint it is the one before it."""
    before = load("stopped", place / "results")
    run_id = before.runs.set_index("algorithm")["run"][algorithm]
    if not newest:
        (place / "results" / "stopped" / "checkpoints" / f"{run_id}.safetensors").unlink()
    said = start(programs, place, "stopped.toml", f"--algorithm.name={algorithm}")
    assert f"continuing run {run_id} after round {kept}" in said
    after = load("stopped", place / "results", run_id)
    assert after.runs["run"].tolist() == [run_id] and len(load("stopped", place / "results").runs) == 2
    assert after.runs["status"].tolist() == ["finished"] and after.rounds["round"].tolist() == list(range(1, 10))
    for table in ("rounds", "clients", "evaluations"):
        was, now = (getattr(each, table) for each in (before, after))
        was = was[(was["run"] == run_id) & (was["round"] <= kept)].reset_index(drop=True)
        now = now[now["round"] <= kept].reset_index(drop=True)
        assert_frame_equal(now[list(was)], was, check_dtype=False)
    assert "resumed" in after.events["kind"].tolist()
    golden = [row for row in json.loads((GOLDEN / "rounds.json").read_text()) if row["run"] == run_id]
    for row, found in zip(golden, after.rounds.to_dict("records"), strict=False):
        inexact = {name: row.pop(name) for name in ("train_loss", "update_norm")}
        assert {name: found[name] for name in row} == row
        # A round that is played again may have other bits than on the machine of 0.3.0.
        exact = row["round"] <= kept
        assert {name: found[name] for name in inexact} == (inexact if exact else pytest.approx(inexact, rel=1e-2))


def test_a_run_that_0_3_0_left_without_a_checkpoint_starts_over(programs, place):
    before = load("study", place / "results")
    run_id = before.runs.set_index("algorithm")["run"]["fedprox"]
    said = start(programs, place, "study.toml", *FEDPROX, "--cluster.backend=in-process")
    assert f"run {run_id} was killed before its first checkpoint, and starts over" in said
    after = load("study", place / "results")
    assert after.runs.set_index("run")["status"][run_id] == "finished"
    was, now = (each.runs[each.runs["run"] != run_id].reset_index(drop=True) for each in (before, after))
    assert_frame_equal(now[list(was)], was)
