"""How long from starting `python -m fedray` to the end of round 1, evaluation included: the CNN, 1,000 packed clients.

    python experiments/speed/start.py [--SETTING VALUE ...]

Five programs, one after another, the first of which may decode the data for the others; the median.

2026-11-22, 2 cores: actors up after 3.5 s, round 1 over after 7.7 s. 2026-11-27, the same cores at half that speed:
6.9 and 16.3 s, where version 0.3 took 9.1 and 18.7 s.

Then how long runs take in one process, each with a Ray of its own and in a session: a round of ten clients with an
actor each, logistic regression on 2,000 small images. 2026-11-27: alone 7.1, 5.4, 5.2 s, in a session 4.6, 0.5, 0.5 s.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext

TIMES = 5
RUNS = 3
SETTINGS = (
    "--clients 1000 --cohort 50 --model.name cnn --algorithm.lr 0.1 --algorithm.batch_size 10 "
    "--algorithm.weighting uniform --rounds 1 --output.name start --output.root"
)


def main(words: list[str]) -> None:
    ready, done = [], []
    for _ in range(TIMES):
        command = [sys.executable, "-u", "-m", "fedray", *SETTINGS.split(), tempfile.mkdtemp(), *words]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            for line in program.stdout or ():
                if line.startswith("actors    2"):
                    ready.append(time.perf_counter() - began)
                if line.startswith("round 1/1"):
                    done.append(time.perf_counter() - began)
    each = ", ".join(f"{seconds:.1f}" for seconds in done)
    print(
        f"actors up after {statistics.median(ready):.1f} s, round 1 over after {statistics.median(done):.1f} s ({each})"
    )
    for name in ("with a Ray of its own", "in a session"):
        seconds = ", ".join(f"{each:.2f}" for each in in_one_process(name == "in a session"))
        print(f"runs one after another in one process, each {name}: {seconds} s")


def in_one_process(shared: bool) -> list[float]:
    """The seconds that each of RUNS calls of `simulate` takes."""
    import fedray
    from fedray.experiment.composition import compose

    root, found = tempfile.mkdtemp(), []
    with fedray.session() if shared else nullcontext():
        for seed in range(RUNS):
            data = {"dataset": "synthetic", "train_examples": 2000, "test_examples": 500}
            settings = {"data": data, "model": {"name": "logistic"}, "rounds": 1, "clients": 10, "cohort": 10}
            experiment = compose({**settings, "seed": seed, "output": {"root": root, "name": f"start-{os.getpid()}"}})
            began = time.perf_counter()
            fedray.simulate(experiment)
            found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
