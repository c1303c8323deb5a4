"""How long from starting `python -m fedray` to the end of round 1, evaluation included: the CNN, 1,000 packed clients.

    python experiments/speed/start.py [--SETTING VALUE ...]

Five programs, one after another, the first of which may decode the data for the others; the median.

2026-11-22, 2 cores: actors up after 3.5 s, round 1 over after 7.7 s.
"""

import statistics
import subprocess
import sys
import tempfile
import time

TIMES = 5
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


if __name__ == "__main__":
    main(sys.argv[1:])
