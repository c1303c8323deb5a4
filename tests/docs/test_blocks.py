"""Every block of Python on a page runs, and every one of TOML is read."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import PAGES, README, ROOT, Page, page

from fedray import load, read_experiment, simulate
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
    for code in page("bring-your-own").blocks("python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            (folder / named[1]).write_text(code)
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


def plain(page: Page) -> list[str]:
    """A page's blocks of Python but for its recipes."""
    return [code for code in page.blocks("python") if code not in page.recipes.values()]


@pytest.mark.parametrize("page", [page for page in PAGES if plain(page)], ids=lambda page: page.name)
def test_every_block_of_python_runs(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in order, in one namespace, as they stand there."""
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    known = before(page)
    for number, code in enumerate(plain(page), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), known)
    if page.name == "docs/settings.md":
        assert known["rounds"]["round"].tolist() == [1, 2, 3, 4, 5]


def follow(needs: str, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str = "recipes") -> dict[str, Any]:
    """What a recipe leaves defined; skipped where a library that it needs is missing."""
    for library in needs.split():
        pytest.importorskip(library, reason=f"{library} is not installed, which docs/{where}.md needs")
    monkeypatch.chdir(folder)
    known: dict[str, Any] = {}
    exec(compile(page(where).recipes[needs], f"docs/{where}.md, {needs}", "exec"), known)
    return known


foreign = pytest.mark.filterwarnings("default")  # what the libraries say of each other


def test_every_recipe_is_followed() -> None:
    assert list(page("recipes").recipes) == ["optuna", "ray.tune", "mlflow", "onnx onnxscript"]
    assert not plain(page("recipes"))


@foreign
def test_optuna_studies_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = follow("optuna", folder, monkeypatch)["study"]
    runs = load("optuna").runs.set_index("algorithm.lr")["final_validation_accuracy"]
    tried = {trial.params["lr"]: trial.value for trial in study.trials}
    assert runs.to_dict() == tried and len(tried) == 4
    assert study.best_value == max(tried.values())


@foreign
def test_a_folder_of_hugging_faces_is_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = follow("datasets", folder, monkeypatch, "bring-your-own")["found"]
    assert found.runs["status"].tolist() == ["finished"]
    assert found.partitions["count"].sum() == 200  # as many as SMALL has of any data set
    assert set(found.partitions["label_name"]) == {"left", "right"}


@pytest.mark.slow
@foreign
def test_ray_tune_plays_runs_in_its_own_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = follow("ray.tune", folder, monkeypatch)["best"]
    runs = load("tune").runs
    assert sorted(runs["algorithm.lr"]) == [0.01, 0.05]
    found = runs.set_index("algorithm.lr")["final_test_accuracy"]
    assert best.metrics["accuracy"] == found.max() == found[best.config["algorithm.lr"]]


@foreign
def test_mlflow_has_the_rounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed, which docs/recipes.md needs")
    known = follow("mlflow", folder, monkeypatch)
    run = known["run"].info.run_id
    history = known["mlflow"].MlflowClient().get_metric_history(run, "accuracy/test_accuracy")
    assert [each.value for each in history] == load("mlflow").rounds["test_accuracy"].tolist()
    assert [each.step for each in history] == [1, 2, 3]


@foreign
def test_the_onnx_file_computes_what_the_model_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = follow("onnx onnxscript", folder, monkeypatch)
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed, which reads the file")
    images = np.random.default_rng(0).integers(0, 256, (7, *known["recipe"].shape), np.uint8)
    (logits,) = runtime.InferenceSession("model.onnx").run(None, {"images": images})
    expected = known["model"](torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


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
