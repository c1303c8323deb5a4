"""docs/notebook.ipynb, executed by a kernel: a session, two runs, one display each, an interrupt."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

from fedray import load, read_experiment, simulate

FILE = ROOT / "docs" / "notebook.ipynb"

INTERRUPTED = """
import os, signal
from fedray.run.watch import Watch, Watches

class Stop(Watch):
    def begin(self, job, where):
        self.pids = sorted(slot.where["pid"] for slot in session.connection.pool.slots)
    def round(self, job, row):
        if row["round"] == 2:
            os.killpg(os.getpgrp(), signal.SIGINT)  # what the kernel's manager does

settings["seed"] = 7
experiment, stop = read_experiment("../experiments/quickstart.toml", settings), Stop()
simulate(experiment, Watches([stop, ConsoleWatch()]))
"""
AGAIN = """
went_on = Stop()
simulate(experiment, Watches([went_on, ConsoleWatch()]))
assert went_on.pids == stop.pids
"""
MINE = """
import dataclasses

class Mine(fedray.FedAvg):
    def correct(self, grad, params, message, memory, lr):
        return FACTOR * grad

output = dataclasses.replace(experiment.output, name="mine")
mine = dataclasses.replace(experiment, algorithm=Mine(lr=0.05), rounds=1, output=output)
simulate(mine).runs[["run", "model_fingerprint"]].values.tolist()
"""
IN_A_LOOP = """
import asyncio
assert asyncio.get_running_loop().is_running()
assert settings.pop("seed") == 7
"""
"""Cells that come after the second run. The interrupt is of the kernel's whole group of processes, with Ray's."""


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(FILE.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


LESS = {'"rounds": 5': '"rounds": 3', "5000": "600", "1000": "200"}
"""What is changed in its settings here, so that it has less to do."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Any], Path]]:
    """The executed cells, with some of the test's own, and the folder in which docs/ is."""
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "docs").mkdir()
    (folder / "experiments").mkdir()
    text = (ROOT / "experiments" / "quickstart.toml").read_text().replace('dataset = "auto"', 'dataset = "synthetic"')
    (folder / "experiments" / "quickstart.toml").write_text(text)
    notebook = nbformat.read(FILE, 4)
    (settings,) = [cell for cell in notebook.cells if "settings = {" in cell.source]
    for before, after in LESS.items():
        assert before in settings.source
        settings.source = settings.source.replace(before, after)
    second = next(i for i, cell in enumerate(notebook.cells) if "second = " in cell.source)
    mine = [MINE.replace("FACTOR", factor) for factor in ("1.0", "0.5")]
    own = [nbformat.v4.new_code_cell(code) for code in (INTERRUPTED, AGAIN, *mine, IN_A_LOOP)]
    own[0].metadata["tags"] = ["raises-exception"]
    notebook.cells[second + 1 : second + 1] = own
    kernel = nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder / "docs")}})
    kernel.create_kernel_manager().kernel_spec.argv[0] = sys.executable
    yield kernel.execute().cells, folder


def outputs(cells: list[Any], part: str) -> list[Any]:
    (found,) = [cell.outputs for cell in cells if cell.cell_type == "code" and part in cell.source]
    return list(found)


@pytest.mark.parametrize("part", ["first = ", "second = "])
def test_a_run_is_one_display(played: tuple[list[Any], Path], part: str) -> None:
    cells, _ = played
    (display,) = outputs(cells, part)
    lines = display["data"]["text/plain"].splitlines()
    labels = [line[:10].strip() for line in lines if line]
    assert labels[:6] == ["data", "clients", "run", "actors", "model", "actors"]
    assert "10 Ray actors, one for each client" in lines[5]
    assert "\x1b" not in display["data"]["text/plain"]
    assert any(line.startswith("status    finished after 3 rounds") for line in lines)
    assert "round 3/3" not in display["data"]["text/plain"]  # as on a terminal the live line goes


def test_an_interrupt_ends_the_run_after_its_round_and_it_goes_on(played: tuple[list[Any], Path]) -> None:
    cells, folder = played
    display, error = outputs(cells, "killpg")
    said = display["data"]["text/plain"]
    assert "note      finishing round 2; once more to stop at once" in said
    assert "status    interrupted after 2 rounds" in said
    assert error["ename"] == "KeyboardInterrupt"
    (display,) = outputs(cells, "went_on = Stop()")
    assert "status    finished after 3 rounds" in display["data"]["text/plain"]
    tables = load("notebook", folder / "results")
    assert tables.runs["status"].tolist() == ["finished"] * 3


def test_its_runs_have_the_bits_of_one_process(played: tuple[list[Any], Path], tmp_path: Path) -> None:
    """The second one, on warm actors, and the one that was interrupted."""
    _, folder = played
    there = load("notebook", folder / "results").runs.set_index("run")["model_fingerprint"]
    settings = {"rounds": 3, "data.train_examples": 600, "data.test_examples": 200, "output.name": "notebook"}
    settings |= {"output.root": str(tmp_path), "cluster.backend": "in-process"}
    for changes in ({"algorithm.lr": 0.05}, {"algorithm.lr": 0.05, "seed": 7}):
        run = simulate(read_experiment(folder / "experiments" / "quickstart.toml", settings | changes)).runs.iloc[0]
        assert there[run["run"]] == run["model_fingerprint"]


def test_a_class_that_a_cell_defines_anew_is_what_warm_actors_train(played: tuple[list[Any], Path]) -> None:
    cells, _ = played
    (one,), (told, other) = (outputs(cells, f"return {factor} * grad") for factor in ("1.0", "0.5"))
    texts = [each["data"]["text/plain"].strip("[]").split(", ") for each in (one, other)]
    assert texts[0][0] != texts[1][0] and texts[0][1] != texts[1][1]
    before, now = (text[0].strip("'") for text in texts)
    assert told["name"] == "stderr"
    assert told["text"] == f"__main__:Mine was edited since run {before}, so that run {now} is another one\n"


def test_pandas_and_a_plot_are_shown(played: tuple[list[Any], Path]) -> None:
    cells, _ = played
    (table,) = outputs(cells, "pivot_table")
    assert "0.05" in table["data"]["text/html"]
    (plot,) = outputs(cells, "alt.Chart")
    assert plot["data"]["image/svg+xml"].startswith("<svg")
