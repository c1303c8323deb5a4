"""Every block of Python on a page runs, and every one of TOML is read."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import PAGES, README, ROOT, Page

from fedray import read_experiment, simulate
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import read_command_line
from fedray.experiment.composition import compose, read_toml
from fedray.models.build import build
from fedray.server.aggregators import Mean
from fedray.server.rounds import play_rounds, sample_cohort
from fedray.server.task import Task
from fedray.sweep.__main__ import experiments

SMALL = 'dataset = "synthetic"\ntrain_examples = 200\ntest_examples = 100'
"""What the quick start's data are here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pages think of it: a smaller quick start in experiments/, results of it and of a sweep, fedcm.py."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "experiments").mkdir()
    quickstart = (ROOT / "experiments" / "quickstart.toml").read_text()
    assert 'dataset = "auto"' in quickstart
    small = quickstart.replace('dataset = "auto"', SMALL) + '\n[cluster]\nbackend = "in-process"\n'
    path = folder / "experiments" / "quickstart.toml"
    path.write_text(small)
    here = {"output.root": str(folder / "results"), "rounds": 2}
    for lr in (0.03, 0.1):
        for seed in (0, 1):
            simulate(read_experiment(path, {**here, "output.name": "lr", "algorithm.lr": lr, "seed": seed}))
    (run,) = simulate(read_experiment(path, {**here, "output.name": "quickstart"})).runs["run"]
    models = folder / "results" / "quickstart" / "models"
    shutil.copy(models / f"{run}.safetensors", models / "RUN.safetensors")
    (own,) = [code for code in README.blocks("python") if "class FedCM" in code]
    (folder / "fedcm.py").write_text(own)
    return folder


def before(page: Page) -> dict[str, Any]:
    """What the blocks of a page find defined."""
    if page.name == "docs/results.md":
        return {"module": build(read_experiment(ROOT / "experiments/quickstart.toml").model, (3, 32, 32), 10, 0)}
    if page is README:
        return {"sample_cohort": sample_cohort, **a_round()}
    return {}


def a_round() -> dict[str, Any]:
    """A population and the beginning of a round, for the lines that are one."""
    from small_data import make_dataset, make_recipe

    from fedray.training.in_process import InProcessPopulation

    dataset, algorithm = make_dataset(train=40, test=10, validation=0), FedAvg(lr=0.1)
    shards = [np.arange(10 * k, 10 * k + 10) for k in range(4)]
    population = InProcessPopulation(dataset, shards, make_recipe(dataset, "logistic"), 2)
    flat = population.trainer.network.flat
    state = algorithm.init(flat.params.numpy().copy(), flat.buffers.numpy().copy())
    names = {"algorithm": algorithm, "population": population, "state": state, "cohort": 2, "seed": 5}
    names |= {"Task": Task, "aggregator": Mean()}
    return {**names, "t": 1, "lr": 0.1, "participation": 0.5}


@pytest.mark.parametrize("page", [page for page in PAGES if page.blocks("python")], ids=lambda page: page.name)
def test_every_block_of_python_runs(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in order, in one namespace, as they stand there."""
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    known = before(page)
    for number, code in enumerate(page.blocks("python"), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), known)
    if page.name == "docs/settings.md":
        assert known["rounds"]["round"].tolist() == [1, 2, 3, 4, 5]


def test_the_lines_are_a_round() -> None:
    (lines,) = [code for code in README.blocks("python") if "sample_cohort" in code]
    known = {"sample_cohort": sample_cohort, **a_round()}
    again = dict(known)
    exec(lines, known)
    kept = {name: again[name] for name in ("algorithm", "population", "state")}
    (done,) = play_rounds(*kept.values(), ts=[1], rounds=1, cohort=again["cohort"], seed=again["seed"])
    assert known["members"] == done.cohort
    assert known["state"]["params"].tobytes() == done.state["params"].tobytes()
    assert math.isfinite(known["state"]["params"].sum())


@pytest.mark.parametrize(
    ("page", "code"), [pytest.param(page, code, id=page.name) for page in PAGES for code in page.blocks("toml")]
)
def test_every_block_of_toml_is_settings(page: Page, code: str, tmp_path: Path) -> None:
    path = tmp_path / "block.toml"
    path.write_text(code)
    tree, sweep = read_toml(path)
    compose(tree)
    if sweep:
        assert experiments(read_command_line([str(path)], "", ""))
