"""`python -m fedray` from start to exit, Ray and all."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from on_gpu.bench import WARM_UP, Bench, Figures, per_round
from on_gpu.workloads import SMALL

from fedray import results
from fedray.core.errors import BadInputError


def play_command(words: Sequence[object], limit: float) -> tuple[float, str, Any]:
    """`python -m fedray` with these settings: its seconds, what became of it, and its tables, if it came that far.

    After `limit` seconds it is asked to end with the round in play.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        output = ("--output.root", folder, "--output.name", "speed")
        command = [sys.executable, "-m", "fedray", *map(str, words), *output]
        began, became = time.perf_counter(), "finished"
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as program:
            try:
                program.wait(limit)
            except subprocess.TimeoutExpired:
                became = f"NOT finished in {limit:g} s"
                program.terminate()
                try:
                    program.wait(15)
                except subprocess.TimeoutExpired:
                    program.kill()
        seconds = time.perf_counter() - began
        said.seek(0)
        errors = said.read().strip().splitlines()
        if program.returncode and became == "finished":
            became = f"exit status {program.returncode}: {errors[-1] if errors else 'nothing was said'}"
        try:
            return seconds, became, results.load("speed", folder)
        except (BadInputError, FileNotFoundError):
            return seconds, became, None


def words_of(bench: Bench, others: Figures) -> list[object]:
    """The settings of the cnn for a command line; on a CPU without reservations of a GPU."""
    chosen: Figures = {
        "data.dataset": "synthetic",
        "model.name": "cnn",
        "algorithm.lr": 0.1,
        "algorithm.batch_size": 10,
        "algorithm.weighting": "uniform",
        **others,
    }
    if not bench.is_cuda:
        chosen.pop("cluster.gpus_per_client", None)
    return [word for name, value in chosen.items() for word in (f"--{name}", value)]


def measure_whole(bench: Bench) -> None:
    others: Figures = {
        "clients": 1000,
        "cohort": 50,
        "rounds": 1500,
        "evaluation.every": 10,
        "engine": "fused",
        "blocks": 1,
        "cluster.clients_per_actor": 1000,
        "cluster.gpus_per_client": 0.001,  # for all of them one GPU
    }
    if bench.small:
        others |= {**SMALL, "rounds": 3, "data.test_examples": 100, "cluster.clients_per_actor": 4}
    seconds, became, tables = play_command(words_of(bench, others), 75)
    figures: Figures = {"seconds": seconds, "became": became}
    text = f"{seconds:.1f} s from start to exit (to reach: 30), {became}"
    if tables is not None:
        figures |= {"rounds": len(tables.rounds), "device": tables.runs["device"][0]}
        text += f", {figures['rounds']} rounds on {figures['device']}"
        figures |= {f"sum_{name}": float(tables.rounds[name].sum()) for name in ("seconds", "seconds_evaluate")}
        text += ", {sum_seconds:.1f} s in them, evaluations {sum_seconds_evaluate:.1f} s of it".format(**figures)
    bench.tell("run", text, **figures)


def measure_actors(bench: Bench) -> None:
    others: Figures = {
        "clients": 10,
        "cohort": 10,
        "rounds": 20,
        "data.train_examples": 5000,
        "data.test_examples": 1000,
        "evaluation.every": 20,
        "cluster.gpus_per_client": 0.1,
    }
    if bench.small:
        others |= {**SMALL, "cohort": 4, "rounds": 3, "data.test_examples": 100}
    count = others["clients"]
    kinds: dict[str, Figures] = {
        f"{count} actors": {"cluster.clients_per_actor": 1, "engine": "plain"},
        "packed plain": {"cluster.clients_per_actor": count, "engine": "plain"},
        "packed fused": {"cluster.clients_per_actor": count, "engine": "fused", "blocks": 1},
    }
    for what, kind in kinds.items():
        with bench.attempt(what):
            whole, became, tables = play_command(words_of(bench, others | kind), 40)
            if tables is None:
                bench.tell(what, became, became=became)
                continue
            each = (tables.rounds["seconds"] - tables.rounds["seconds_evaluate"].fillna(0)).tolist()[WARM_UP:]
            place = tables.population[["actor", "num_gpus"]].drop_duplicates()
            figures: Figures = {
                "became": became,
                "whole": whole,
                "seconds": each,
                "actors": len(place),
                "gpus_each": float(place["num_gpus"].max()),
                "device": tables.runs["device"][0],
                "status": tables.runs["status"][0],
                "retries": int(tables.rounds["retries"].sum()),
            }
            text = "{became}, {actors} x {gpus_each:g} GPU on {device}, {retries} calls made again, ".format(**figures)
            bench.tell(what, text + (per_round(each) if each else "no round that counts"), **figures)
