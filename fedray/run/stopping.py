"""The end of a run, decided from its rounds table: finished, target reached, no improvement, diverged."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedray.core.metrics import Targets, sign
from fedray.experiment.experiment import Evaluation, Experiment
from fedray.results.schema import judging_column
from fedray.server.participation import Faults


def judged_by(e: Experiment, targets: Targets = "classes") -> str:
    """The column of `rounds` that target and patience go by: of the validation split, where there is one.

    Where there is no global model it is the clients' accuracy, or their loss.
    """
    measure = e.evaluation.judge(targets)
    if e.algorithm.personalises:
        return "client_loss" if targets == "values" or measure == "loss" else "client_accuracy"
    return f"{'validation' if e.data.validation_examples else 'test'}_{measure}"


def recorded_judge(recorded: Any, e: Experiment) -> str:
    """The column of `rounds` that a recorded run was judged by: `recorded` is its `judged_by` in `runs`.

    That is null in files of older versions, where the settings say it.
    """
    return judging_column(recorded) if isinstance(recorded, str) else judged_by(e)


def outcome(
    evaluation: Evaluation, rounds: Sequence[Mapping[str, Any]], planned: int, judged: str, faults: Faults
) -> str | None:
    """The final status after these rows of the rounds table, a function of them alone; None while the run goes on.

    `judged` is the column that target and patience go by.
    """
    if not rounds:
        return None
    last, best = rounds[-1], best_round(rounds, judged)
    if not_finite(last) or spoilt(last, faults):
        return "diverged"
    if best and last[judged] is not None:
        target = evaluation.target_accuracy or evaluation.target
        if target is not None and sign(judged) * (last[judged] - target) >= 0:
            return "reached_target"
        if evaluation.patience and last["round"] - best >= evaluation.patience:
            return "no_improvement"
    return "finished" if last["round"] >= planned else None


def best_round(rounds: Sequence[Mapping[str, Any]], judged: str) -> int | None:
    """The first of the rounds with the best of this column; None where no round was evaluated."""
    scores = {row["round"]: sign(judged) * row[judged] for row in rounds if is_number(row[judged])}
    return max(scores, key=lambda t: scores[t], default=None)


def is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def not_finite(row: Mapping[str, Any]) -> list[str]:
    """The columns of a round's row whose value is not finite. Any of them means that the run diverged."""
    watched = ("train_loss", "update_norm", "test_loss", "validation_loss", "client_loss", "unseen_loss")
    return [name for name in watched if row.get(name) is not None and not math.isfinite(row[name])]


def spoilt(row: Mapping[str, Any], faults: Faults) -> bool:
    """Whether non-finite updates end the run: by setting, or because too few others are left."""
    left = row["answered"] >= min(faults.min_survivors, row["answered"] + row["non_finite"])
    return row["non_finite"] > 0 and (faults.non_finite == "stop" or not left)


def describe_divergence(row: Mapping[str, Any]) -> str:
    for name in not_finite(row):
        return f"{name} = {row[name]} in round {row['round']}"
    return f"{row['non_finite']} of {row['cohort_size']} updates in round {row['round']} are not finite"
