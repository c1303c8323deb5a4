"""The table of exit statuses in docs/reliability.md is what the programs return."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import any_end_of
from pages import page

from fedray import __main__ as one
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import report_errors
from fedray.core.interrupt import Interrupt
from fedray.report import __main__ as report
from fedray.sweep import __main__ as sweep

SETTINGS = """
rounds = 1
clients = 2
cohort = 2
model.name = "logistic"
cluster.backend = "in-process"
data = {dataset = "synthetic", train_examples = 40, test_examples = 20}
[[grid]]
seed = [0, 1]
"""


def ends() -> dict[tuple[str, int], list[Callable[[pytest.MonkeyPatch], int]]]:
    """What makes each program return each of its statuses."""

    def one_run(*words: str) -> Callable[[pytest.MonkeyPatch], int]:
        return lambda _: any_end_of(one.main, "study.toml", *words).status

    def many(*words: str) -> Callable[[pytest.MonkeyPatch], int]:
        return lambda _: any_end_of(sweep.main, "study.toml", *words).status

    def with_loss(loss: Any, start: Callable[[pytest.MonkeyPatch], int]) -> Callable[[pytest.MonkeyPatch], int]:
        def play(patch: pytest.MonkeyPatch) -> int:
            patch.setattr(FedAvg, "loss", loss)
            return start(patch)

        return play

    def interrupted(main: Callable[[list[str], Interrupt], int]) -> Callable[[pytest.MonkeyPatch], int]:
        def play(_: pytest.MonkeyPatch) -> int:
            interrupt = Interrupt()
            interrupt.asked = True
            return report_errors(lambda: main(["study.toml", "--seed=5"], interrupt))

        return play

    def interrupted_report(patch: pytest.MonkeyPatch) -> int:
        patch.setattr(report, "load_folders", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        return any_end_of(report.main, "study").status

    def fails(*_: Any) -> Any:
        raise RuntimeError("too fast")

    def is_nan(_: FedAvg, output: Any, targets: Any) -> Any:
        return output.sum() * float("nan")

    return {
        ("python -m fedray", 0): [one_run(), with_loss(is_nan, one_run("--seed=9"))],
        ("python -m fedray", 1): [with_loss(fails, one_run("--seed=3"))],
        ("python -m fedray", 2): [one_run("--rounds=0"), lambda _: any_end_of(one.main).status],
        ("python -m fedray", 130): [interrupted(one.main)],
        ("python -m fedray.sweep", 0): [many(), many(), many("--dry-run")],
        ("python -m fedray.sweep", 1): [with_loss(fails, many("--rounds=2")), many("--rounds=2")],
        ("python -m fedray.sweep", 2): [many("--rounds=0"), lambda _: any_end_of(sweep.main).status],
        ("python -m fedray.sweep", 3): [with_loss(is_nan, many("--rounds=3"))],
        ("python -m fedray.sweep", 130): [interrupted(sweep.main)],
        ("python -m fedray.report", 0): [lambda _: any_end_of(report.main, "study").status],
        ("python -m fedray.report", 2): [
            lambda _: any_end_of(report.main, "nowhere").status,
            lambda _: any_end_of(report.main).status,
        ],
        ("python -m fedray.report", 130): [interrupted_report],
    }


def test_every_status_of_the_table_is_what_the_programs_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = re.findall(r"^\| (\d+|status) \|(.*)\|$", page("reliability").text, re.MULTILINE)
    (_, heading), *rest = rows
    programs = [cell.strip(" `") for cell in heading.split("|")]
    said = {
        (program, int(status))
        for status, cells in rest
        for program, cell in zip(programs, cells.split("|"), strict=True)
        if cell.strip() != "-"
    }
    assert said == set(ends())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(SETTINGS)
    for (program, status), plays in ends().items():
        for play in plays:
            with monkeypatch.context() as patch:
                assert play(patch) == status, program
