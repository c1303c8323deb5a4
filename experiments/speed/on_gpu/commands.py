"""`python -m fedray` from start to exit, Ray and all."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from on_gpu.bench import PRECISIONS, WARM_UP, Bench, Figures, per_round
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
    """Many rounds with Ray. The rounds are those without an evaluation."""
    for precision, limit in (("float32", 75), ("tf32", 60)):
        others: Figures = {
            "clients": 1000,
            "cohort": 50,
            "rounds": 1500,
            "evaluation.every": 10,
            "engine": "fused",
            "blocks": 1,
            "model.precision": precision,
            "cluster.clients_per_actor": 1000,
            "cluster.gpus_per_client": 0.001,  # for all of them one GPU
        }
        if bench.small:
            others |= {**SMALL, "rounds": 5, "data.test_examples": 100, "cluster.clients_per_actor": 4}
        with bench.attempt(precision):
            tell_command(bench, precision, words_of(bench, others), limit)


def tell_command(bench: Bench, what: str, words: Sequence[object], limit: float) -> None:
    """Play a command, and say how long it took, until its first round was over, and a round."""
    began = time.time()
    seconds, became, tables = play_command(words, limit)
    figures: Figures = {"seconds_whole": seconds, "became": became}
    if tables is None or tables.rounds.empty:
        bench.tell(what, became, **figures)
        return
    rounds = tables.rounds
    trained = (rounds["seconds"] - rounds["seconds_evaluate"].fillna(0)).tolist()
    parts = [name for name in rounds if name.startswith("seconds_")]
    figures |= {
        "rounds": len(rounds),
        "device": tables.runs["device"][0],
        "actors": tables.population["actor"].nunique(),
        "retries": int(rounds["retries"].sum()),
        "first": float(rounds["finished_at"].iloc[0].timestamp()) - began,
        "seconds": trained[WARM_UP:],
        **{f"median_{name}": float(rounds[name].iloc[WARM_UP:].median()) for name in parts},
    }
    text = "{seconds_whole:.1f} s from start to exit, {became}, {rounds} rounds on {device}, {actors} actors, "
    text += "{retries} calls made again, {first:.1f} s to the end of round 1, "
    bench.tell(what, text.format(**figures) + (per_round(trained[WARM_UP:]) if trained[WARM_UP:] else ""), **figures)


ROOT = Path(__file__).parents[3]


def measure_book(bench: Bench) -> None:
    """The textbook's resnet18 with BatchNorm, on synthetic images of the same number and size."""
    words: list[object] = [ROOT / "experiments/book/resnet18.toml", "--data.dataset", "synthetic"]
    words += ["--rounds", 5, "--evaluation.every", 5, "--data.train_examples", 50000, "--data.test_examples", 1000]
    if bench.small:
        words += ["--clients", 4, "--cohort", 2, "--data.train_examples", 64, "--data.test_examples", 100]
    for what, others in {"fused": ["--engine", "fused"], "by default": []}.items():
        with bench.attempt(what):
            tell_command(bench, what, [*words, *others], 60)


def measure_quickstart(bench: Bench) -> None:
    words: list[object] = [ROOT / "experiments/quickstart.toml", "--data.dataset", "synthetic"]
    with bench.attempt("by default"):
        tell_command(bench, "by default", [*words, *["--rounds", 4][: 2 * bench.small]], 60)


def measure_bits(bench: Bench) -> None:
    """Whether two processes give the same bits: the fingerprints of two runs of each precision."""
    for what in PRECISIONS:
        others: Figures = {"clients": 100, "cohort": 50, "rounds": 3, "engine": "fused", "blocks": 1}
        others |= {"model.precision": what, "evaluation.every": 3, "data.train_examples": 5000}
        others |= {"cluster.backend": "in-process", **(SMALL if bench.small else {})}
        with bench.attempt(what):
            with ThreadPoolExecutor(2) as both:
                played = list(both.map(lambda _: play_command(words_of(bench, others), 60), range(2)))  # noqa: B023
            if unfinished := [became for _, became, _ in played if became != "finished"]:
                bench.tell(what, unfinished[0])
                continue
            prints = [tables.runs["model_fingerprint"][0] for _, _, tables in played]
            same = prints[0] == prints[1]
            bench.tell(what, "the same bits twice" if same else f"OTHER bits: {prints}", same=same, prints=prints)


def measure_tests(bench: Bench) -> None:
    """The tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training", "-k", "gpu or cuda"]
    done = subprocess.run([*words, *["--collect-only"] * bench.small], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    bench.tell("all", lines[-1].strip("= ") if lines else done.stderr[-200:], status=done.returncode, failed=failed)


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
