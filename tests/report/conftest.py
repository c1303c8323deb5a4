"""The results that reports are written on."""

import shutil
from pathlib import Path

import pytest

from fedray.sweep import __main__ as sweep

EXPERIMENT = """\
# Which client rate is best, and is <FedProx> any better?
#
# The larger one, and no: the lines
# of both lie on one another.
#     fedavg   12 %
#     fedprox  12 %
# Commit 123abc: python -m fedray.sweep rates.toml
# Measured for settings 45e91d09.

rounds = 3
clients = 4
cohort = 2
# A comment that is not of the header.
[data]
dataset = "synthetic"
train_examples = 200
test_examples = 100
[partition]
name = "dirichlet"
[model]
name = "logistic"
[algorithm]
batch_size = 10
[evaluation]
clients_every = 3
[cluster]
backend = "in-process"
[grid]
"algorithm.name" = ["fedavg", "fedprox"]
"algorithm.lr" = [0.01, 0.02]
seed = [0, 1]
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of eight runs of a real sweep: four configurations, two seeds each."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "rates.toml").write_text(EXPERIMENT)
    assert sweep.main([str(folder / "rates.toml"), "--output.root", str(folder / "results")]) == 0
    return folder / "results" / "rates"


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy to write in and to damage."""
    return Path(shutil.copytree(made, tmp_path / "results" / "rates"))
