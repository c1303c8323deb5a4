"""The algorithm that the README shows is right, and runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pages import README, ROOT
from playing import play

from fedray.algorithms.fedavg import FedAvg


def block(word: str) -> str:
    (found,) = [text for text in README.blocks("python") if word in text]
    return found


def test_the_algorithm_in_twenty_lines_runs_on_ray(tmp_path: Path) -> None:
    """And what it would print at a client, on a Ray of its own, is shown where that is asked for."""
    code, ends = block("class FedCM"), '        return {"params": end - start'
    assert code.count(ends) == 1
    (tmp_path / "fedcm.py").write_text(code.replace(ends, f'        print(f"a client took {{steps}} steps")\n{ends}'))
    small = f'"output.root": "{tmp_path}/results", "data.dataset": "synthetic", "data.train_examples": 2000, '
    small += '"data.test_examples": 500, "cluster.clients_per_actor": 5, "rounds": 3, "output.client_output": True'
    (tmp_path / "mine.py").write_text(block("from fedcm import FedCM").replace('"rounds": 3', small))
    done = subprocess.run(
        [sys.executable, tmp_path / "mine.py"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stderr
    assert "trained by fedcm" in done.stdout
    assert "finished after 3 rounds" in done.stdout
    assert len(re.findall(r"\(ClientActor pid=\d+\)\S* a client took \d+ steps", done.stdout)) == 3 * 5


def test_the_algorithm_in_twenty_lines_is_right(dataset: Any) -> None:
    """With alpha = 1 it is FedAvg to the bit. With less, in round 2, one step of full batches by one client moves by
    -lr * (alpha * g2 + (1 - alpha) * g1 * alpha), since round 1 made delta = alpha * g1."""
    scope: dict[str, Any] = {}
    exec(block("class FedCM"), scope)
    fedcm, shards = scope["FedCM"], [np.arange(0, 30), np.arange(30, 40), np.arange(40, 96)]
    same = {"lr": 0.05, "batch_size": 8}
    one, other = (play(kind, dataset, shards, 3, cohort=2)[0][-1] for kind in (fedcm(alpha=1, **same), FedAvg(**same)))
    assert one.state["params"].tobytes() == other.state["params"].tobytes()
    first, second = play(fedcm(alpha=0.25, lr=0.1, batch_size=0), dataset, [np.arange(96)], 2)[0]
    np.testing.assert_allclose(first.state["delta"] * -0.1, first.mean["params"], atol=1e-7)
    gradient = play(FedAvg(lr=1.0, batch_size=0), dataset, [np.arange(96)], 1)[0][0].mean["params"]
    np.testing.assert_allclose(first.mean["params"], 0.1 * 0.25 * gradient, atol=1e-7)
    here = second.mean["params"] + 0.1 * 0.75 * first.state["delta"]  # what is left is -lr * alpha * g2
    after = FedAvg(lr=0.1 * 0.25, batch_size=0)
    expected = play(after, dataset, [np.arange(96)], 2)[0][1].mean["params"]  # from the same place: round 1 is the same
    np.testing.assert_allclose(here, expected, atol=1e-6)
