"""What 0.3.0 wrote stays valid in a fedray with more settings, sections, columns and tables, and this one reads its files.

The later fedray is this one with the edits of helpers/later.py; it runs in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from later import make_later

from fedray import __version__
from fedray.core.errors import BadInputError
from fedray.experiment import read_experiment
from fedray.report.measured import read_settings
from fedray.results import NewerResultsWarning, load
from fedray.run import run

GOLDEN = Path(__file__).parent / "golden"
WRITTEN = GOLDEN / "results-0.3.0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which 0.3.0 ran, and then the later fedray."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(WRITTEN, folder / "results")
    for path in GOLDEN.glob("*.toml"):
        shutil.copy(path, folder)
    path = os.pathsep.join(map(str, [make_later(folder / "package"), GOLDEN]))
    program = Path(__file__).parent / "helpers" / "later_facts.py"
    done = subprocess.run(
        [sys.executable, program, GOLDEN], cwd=folder, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def facts(place):
    return json.loads((place / "facts.json").read_text())


def test_all_ids_of_0_3_0_hold(facts):
    assert facts["version"] == f"9.{__version__}"
    assert len(facts["ids"]) > 60
    assert {golden: found for golden, found in facts["ids"].items() if golden != found} == {}


def test_a_newer_setting_enters_the_id_and_the_settings_column_only_where_it_is_not_neutral(facts):
    found = facts["other_ids"]
    neutral, stored = found["seed"]
    assert stored == {}
    assert {name: stored for name, (_, stored) in found.items() if name != "seed"} == {
        "evaluation.bins": {"bins": 11},
        "protocol.name": {"protocol": {"name": "gossip"}},
        "protocol.period": {"protocol": {"period": 0.1}},
        "algorithm.warm_up": {"warm_up": 2},
        "cluster.zone": {"zone": "b"},
    }
    ids = {name: run_id for name, (run_id, _) in found.items()}
    assert ids.pop("cluster.zone") == neutral  # where it runs is in no id
    assert len(set(ids.values())) == len(ids)


def test_an_answer_stays_that_of_its_settings(facts):
    """Newer settings that are neutral are not in the digest that headers name."""
    assert facts["digests"] == {name: read_settings(GOLDEN / f"{name}.toml").digest for name in ("single", "study")}


@pytest.mark.parametrize("algorithm", ["scaffold", "fedavgm"])
def test_a_run_that_0_3_0_left_goes_on_with_its_lines_made_whole(facts, algorithm):
    found = facts["continued"][algorithm]
    assert [notice[:20] for notice in found["notices"]] == ["continuing run " + algorithm[:5]]
    assert found["status"] == ["finished"] and found["rounds"] == list(range(1, 10))
    assert found["clipped"] == [-1] * 4 + [3] * 5  # null where 0.3.0 played the round
    assert found["protocol"] == ["rounds"] * 9 and found["virtual_seconds"] == [1.5]


def test_a_checkpoint_of_0_3_0_is_not_taken_for_that_of_another_value(facts):
    assert "of another experiment (protocol.name 'rounds' there, 'gossip' here)" in facts["refused"]


def test_results_of_0_3_0_have_nulls_and_neutral_values(facts):
    mixed = facts["mixed"]
    assert facts["loaded"]["runs"]
    assert len(mixed["runs"]) == 5 and mixed["attacks"] == 0
    for row in mixed["runs"]:
        is_other = row["run"] == mixed["other"]
        assert row["protocol"] == row["protocol.name"] == ("gossip" if is_other else "rounds")
        assert (row["protocol.period"], row["evaluation.bins"]) == (0.0, 10)
        assert row["algorithm.warm_up"] == (0 if row["algorithm"] == "fedprox" else None)
        assert mixed["rounds"][row["run"]] == [row["protocol"]]
        assert set(mixed["clipped"][row["run"]]) == {3 if row["run"] in (mixed["neutral"], mixed["other"]) else -1}


def test_a_neutral_value_that_is_filled_in_tells_no_runs_apart(facts):
    assert "protocol" not in facts["loaded"]["varied"] and "evaluation.bins" not in facts["loaded"]["varied"]
    assert facts["mixed"]["varied_beside"] == ["protocol"]
    assert "protocol" in facts["mixed"]["axes"]
    assert facts["mixed"]["pairs"] == 1


@pytest.mark.parametrize("table", ["runs", "rounds", "clients", "population", "metrics", "evaluations", "confusion"])
def test_a_mixed_folder_is_read_by_pandas_duckdb_and_polars(place, table):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    folder = place / "results" / "study" / table
    files = sorted(folder.glob("*.parquet"))
    schemas = [pq.read_schema(path) for path in files]
    assert len({len(schema) for schema in schemas}) == 2
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    schema = pa.unify_schemas(schemas)
    new = {"runs": "virtual_seconds", "rounds": "clipped"}.get(table, "protocol")
    known = sum(pq.read_metadata(path).num_rows for path in files if new in pq.read_schema(path).names)
    with_pandas = pd.read_parquet(folder, schema=schema)
    with_duckdb = duckdb.sql(f"from read_parquet('{folder}/*.parquet', union_by_name = true)")
    with_polars = polars.concat(map(polars.read_parquet, files), how="diagonal")
    assert set(with_pandas) == set(with_duckdb.columns) == set(with_polars.columns) == set(schema.names)
    assert len(with_pandas) == len(with_duckdb.fetchall()) == len(with_polars) == rows
    assert with_pandas[new].notna().sum() == len(with_polars) - with_polars[new].null_count() == known
    assert duckdb.sql(f"select count({new}) from with_duckdb").fetchall() == [(known,)]


def test_this_version_reads_the_results_of_a_later_one_without_what_it_does_not_know(place):
    with pytest.warns(NewerResultsWarning, match=rf"/study has columns that this fedray, {__version__}, does not know"):
        found = load("study", place / "results")
    assert len(found.runs) == 5 and found.runs["rounds_done"].tolist() == [6, 6, 6, 6, 4]
    assert "clipped" not in found.rounds and "protocol" not in found.rounds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load("single", place / "results").runs) == 1


def test_this_version_writes_nothing_beside_the_results_of_a_later_one(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(GOLDEN)
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    experiment = read_experiment("study.toml", {"seed": 5, "cluster.backend": "in-process"})
    with pytest.raises(BadInputError, match="written by version 9.*, its columns with .*virtual_seconds"):
        run(experiment)
    assert {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()} == before
