"""The workloads cnn and resnet, as settings of fedray's."""

import json
from typing import Any

from on_gpu.bench import AT_LEAST, Bench
from settings import experiment

from fedray.experiment import Experiment

CNN: dict[str, Any] = {
    "clients": 1000,
    "cohort": 50,
    "model": {"name": "cnn"},
    "algorithm": {"lr": 0.1, "batch_size": 10, "weighting": "uniform"},
    "data": {"dataset": "synthetic", "test_examples": 100},
}
RESNET: dict[str, Any] = {
    "clients": 500,
    "cohort": 10,
    "partition": {"name": "dirichlet", "alpha": 0.1},
    "model": {"name": "resnet18", "norm": "group", "stem": "cifar"},
    "algorithm": {"lr": 0.01, "batch_size": 20},
    "data": {"dataset": "synthetic", "test_examples": 100, "augment": "crop-flip"},
}
SMALL: dict[str, Any] = {"clients": 4, "cohort": 2, "algorithm.batch_size": 2, "data.train_examples": 16}

TO_REACH = {"cnn": {"eager": "to reach: 20", "graph": "aim: 5"}, "resnet": {"eager": "to reach: 3"}}
"""How many times their rounds the fused engine's are to be."""


def settings_of(workload: str, small: bool, **others: Any) -> Experiment:
    """The experiment of a workload that is played in this process, with other settings by dotted name."""
    base = {"cnn": CNN, "resnet": RESNET}[workload]
    chosen = {
        "rounds": 10**4,  # it is asked to end before
        "evaluation.every": 10**6,
        "cluster.backend": "in-process",
        **(SMALL if small else {}),
        **others,
    }
    return experiment(json.loads(json.dumps(base)), [word for pair in chosen.items() for word in pair])


def most_rounds(bench: Bench) -> int:
    if bench.small:
        return AT_LEAST
    return 40 if bench.part.startswith("cnn") else 10
