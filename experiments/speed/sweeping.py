"""A sweep of eight small runs: how long against eight separate commands, and against one run after another?

    python experiments/speed/sweeping.py [--SETTING VALUE ...]

The runs: 10 clients of 500 generated images, 5 a round, 5 rounds of lenet5, another seed each. A sweep's seconds are
those of the whole command; its seconds a run leave out what it takes until the first run begins, which the other has
just as well. The two kinds of sweep take turns; medians of three.

2026-11-23, 2 cores: eight commands 75.3 s, a sweep one after another 22.0 s (0.29 of it, 2.00 s a run), three in flight
20.2 s (0.27, 1.74 s a run). With 10 rounds a run: 88.6, 36.1 and 32.7 s. Two in flight take 19.8 s, four 19.2, eight
19.2 (means of two).
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = 3
RUNS = 8
EXPERIMENT = f"""
rounds = 5
clients = 10
cohort = 5
[data]
dataset = "synthetic"
train_examples = 5000
test_examples = 1000
[model]
name = "lenet5"
[output]
save_model = false
[grid]
seed = {list(range(RUNS))}
"""


def seconds(module: str, *words: str) -> tuple[float, float]:
    """Of a whole command, and of it from the line that says that the actors are up."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.toml"
        file.write_text(EXPERIMENT)
        command = [sys.executable, "-u", "-m", module, str(file), "--output.root", folder, *words]
        began = ready = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            for line in program.stdout or ():
                if re.match(r"actors +\d+ Ray actors", line):
                    ready = time.perf_counter()
        if program.returncode:
            raise SystemExit(f"{command} failed")
        ended = time.perf_counter()
        return ended - began, ended - ready


def main(words: list[str]) -> None:
    separate = sum(seconds("fedray", "--seed", str(seed), *words)[0] for seed in range(RUNS))
    print(f"{RUNS} commands: {separate:.1f} s")
    kinds = {"one after another": ["--max-concurrent", "1"], "several in flight": []}
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(TIMES):
        for kind, options in kinds.items():
            times[kind].append(seconds("fedray.sweep", *options, *words))
    for kind, measured in times.items():
        whole, runs = (statistics.median(column) for column in zip(*measured, strict=True))
        each = ", ".join(f"{total:.1f}" for total, _ in measured)
        share = f"{whole / separate:.2f} of the commands"
        print(f"a sweep, {kind}: {whole:.1f} s ({each}), {share}; {runs / RUNS:.2f} s a run")


if __name__ == "__main__":
    main(sys.argv[1:])
