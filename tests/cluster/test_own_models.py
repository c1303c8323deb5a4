"""A network of the user's own, found by every process that builds it."""

import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file

from fedray.results import load

MINE = """
from torch import nn

def net(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes)
    )
"""
SMALL = ("--data.dataset", "synthetic", "--data.train_examples", "60", "--data.test_examples", "40", "--rounds", "2")


def test_actors_and_the_process_with_torch_find_a_users_function_and_give_its_bits(tmp_path):
    """In a Ray run, whose driver imports neither torch nor the user's module, and in one process. The weights that it
    starts from are found, too, in a folder that is the driver's own."""
    save_file({"0.weight": np.full((4, 3, 3, 3), 0.1, np.float32)}, tmp_path / "base.safetensors")
    (tmp_path / "mine.py").write_text(MINE)
    code = (
        "import sys\n"
        "from fedray.__main__ import main\n"
        "main(sys.argv[1:])\n"
        "sys.exit(bool({'torch', 'mine'} & set(sys.modules)) and 'in-process' not in sys.argv)\n"
    )
    (tmp_path / "go.py").write_text(code)
    found = []
    for backend in ("ray", "in-process"):
        words = [*SMALL, "--clients", "3", "--cohort", "2", "--model.name", "mine:net", "--algorithm.norms", "local"]
        words += ["--model.init", "base.safetensors", "--model.lora_rank", "2", "--model.trainable", "[14].*"]
        words += ["--cluster.backend", backend, "--output.root", str(tmp_path / backend), "--output.name", "mine"]
        done = subprocess.run(
            [sys.executable, "go.py", *words], cwd=tmp_path, capture_output=True, text=True, timeout=150
        )
        assert (done.returncode, done.stderr) == (0, "")
        runs = load("mine", tmp_path / backend).runs
        found.append((runs["run"].item(), runs["model_fingerprint"].item(), runs["model"].item()))
    assert found[0] == found[1]
    assert found[0][2] == "mine:net"
