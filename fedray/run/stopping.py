"""The end of a run, decided from its rounds table: finished, target reached, no improvement, diverged."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedray.experiment.experiment import Evaluation, Experiment
from fedray.server.participation import Faults


def judged_by(e: Experiment) -> str:
    """The accuracy that target and patience go by: the validation split's, where there is one."""
    if e.algorithm.personalises:
        return "client_accuracy"
    return "validation_accuracy" if e.data.validation_examples else "test_accuracy"


def outcome(
    evaluation: Evaluation, rounds: Sequence[Mapping[str, Any]], planned: int, judged: str, faults: Faults
) -> str | None:
    """The final status after these rows of the rounds table, a function of them alone; None while the run goes on.

    `judged` is the accuracy that target and patience go by.
    """
    if not rounds:
        return None
    last, best = rounds[-1], best_round(rounds, judged)
    if not_finite(last) or spoilt(last, faults):
        return "diverged"
    if best and last[judged] is not None:
        if evaluation.target_accuracy and last[judged] >= evaluation.target_accuracy:
            return "reached_target"
        if evaluation.patience and last["round"] - best >= evaluation.patience:
            return "no_improvement"
    return "finished" if last["round"] >= planned else None


def best_round(rounds: Sequence[Mapping[str, Any]], judged: str) -> int | None:
    """The first of the rounds with the highest of this accuracy; None where no round was evaluated."""
    scores: dict[int, float] = {row["round"]: row[judged] for row in rounds if row[judged] is not None}
    return max(scores, key=lambda t: scores[t], default=None)


def not_finite(row: Mapping[str, Any]) -> list[str]:
    """The columns of a round's row whose value is not finite. Any of them means that the run diverged."""
    watched = ("train_loss", "update_norm", "test_loss", "validation_loss", "client_loss")
    return [name for name in watched if row.get(name) is not None and not math.isfinite(row[name])]


def spoilt(row: Mapping[str, Any], faults: Faults) -> bool:
    """Whether non-finite updates end the run: by setting, or because too few others are left."""
    left = row["answered"] >= min(faults.min_survivors, row["answered"] + row["non_finite"])
    return row["non_finite"] > 0 and (faults.non_finite == "stop" or not left)


def describe_divergence(row: Mapping[str, Any]) -> str:
    for name in not_finite(row):
        return f"{name} = {row[name]} in round {row['round']}"
    return f"{row['non_finite']} of {row['cohort_size']} updates in round {row['round']} are not finite"
