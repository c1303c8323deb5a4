"""docs/results.md documents every column of every table, and no other."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pages import ROOT, page

from fedray.results.schema import OWN, PER_RUN, SCHEMAS


def test_every_column_is_documented_with_its_type_and_no_other() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page("results").text, re.DOTALL | re.MULTILINE))
    documented = {
        title: re.findall(r"^\| `(\w+)` \| (\S.*?) \|", body, re.MULTILINE) for title, body in sections.items()
    }
    columns = {
        table: [(field.name, str(field.type).replace("double", "float64")) for field in schema]
        for table, schema in SCHEMAS.items()
    }
    common = documented.pop("Grouping columns")
    assert {title for title, found in documented.items() if found} == OWN.keys()
    for table in OWN:
        assert (common if table in PER_RUN else []) + documented[table] == columns[table]


def test_every_folder_of_results_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+)/", page("results").text, re.MULTILINE)
    assert {*OWN, "journal", "checkpoints", "models", "tensorboard", "wandb"} == set(listed)


@pytest.mark.parametrize("newer_first", [False, True])
def test_other_readers_read_what_several_versions_wrote(
    newer_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block for such a folder, on a table of 0.3.0 and one that has a column more."""
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    (older, *_) = sorted((ROOT / "tests" / "golden" / "results-0.3.0").glob("*/rounds/*.parquet"))
    (tmp_path / "results" / "lr" / "rounds").mkdir(parents=True)
    names = ("b", "a") if newer_first else ("a", "b")
    table = pq.ParquetFile(older).read()
    more = table.append_column("more", [[1.5] * len(table)])
    for name, content in zip(names, (table, more), strict=True):
        pq.write_table(content, tmp_path / "results" / "lr" / "rounds" / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    (code,) = [code for code in page("results").blocks("python") if "union_by_name" in code]
    known: dict[str, Any] = {}
    exec(code, known)
    for frame in (known["in_pandas"], known["in_duckdb"].df(), known["in_polars"].to_pandas()):
        assert list(frame.columns) == more.column_names
        assert sorted(frame["more"].dropna()) == [1.5] * len(table)
        assert len(frame) == 2 * len(table)
        assert frame["round"].dtype == "int32"
