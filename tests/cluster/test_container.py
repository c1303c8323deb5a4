"""A Ray in a container: as many actors as its memory and its CPUs hold."""

import sys

from containers import limited, run_limited

from fedray import results

COMMAND = [
    "--rounds", "2", "--clients", "60", "--cohort", "4", "--data.dataset", "synthetic", "--data.train_examples", "600",
    "--data.test_examples", "60", "--cluster.forked",
]  # fmt: skip


def test_a_small_container_gets_what_it_holds_and_plays(tmp_path):
    """The machine's memory may hold an actor for each; these 1,600 MiB do not."""
    command = [sys.executable, "-m", "fedray", *COMMAND, "true"]
    with limited(memory=1600 * 2**20, cpu=100_000) as folders:
        done = run_limited(command, folders, timeout=220, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 Ray actor, 60 clients packed into them, 1 CPU and" in done.stdout
    assert "this container is limited to 1 CPU and 1600 MiB of memory" in done.stdout
    assert len(results.load("unnamed", tmp_path / "results").rounds) == 2
