"""Who of those asked takes part in a round: chance that is part of an experiment, and what becomes of real losses.

Simulated: every client asked may fail to answer, and more may be asked than are needed (Bonawitz et al. 2019, "Towards
Federated Learning at Scale: System Design", section 3). Both are drawn at addresses of the seed, so that they are the
same in every run. Real: a process is lost, or an update is not finite. Tables count the two kinds apart.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.core.updates import Report


@section
class Faults:
    """Clients that do not answer: by chance, which is simulated, or because something really went wrong."""

    dropout: float = setting(
        0.0, "Probability that a client which was asked does not answer, each round anew (simulated).", ge=0, le=1
    )
    over_selection: int = setting(
        0,
        "Clients asked beyond the cohort: the first that answer, in an order drawn from the seed, are the cohort "
        "(simulated).",
        ge=0,
        unit="clients",
    )
    lost: Literal["retry", "drop"] = setting(
        "retry",
        "When a process is lost while it trains clients: they train again elsewhere, to the same bits, or they are "
        "left out of the round, and the others weigh the more.",
    )
    min_survivors: int = setting(
        1,
        "With lost = drop: with fewer updates than this the round is repeated, and if that does not help the run "
        "stops. With non_finite = reject: it ends as diverged.",
        unit="clients",
        ge=1,
    )
    non_finite: Literal["stop", "reject"] = setting(
        "stop",
        "When a client's update or loss is not finite: the run ends as diverged, or only that update is left out.",
    )


def answering(faults: Faults, seed: int, t: int, asked: Sequence[int], cohort: int) -> tuple[list[int], dict[int, str]]:
    """Who of those asked in round t is to train, in the order asked, and why the others are not, by client.

    Of those that do not drop out, the first `cohort` in a random order are taken; the others are `surplus`. A pure
    function of its arguments.
    """
    number = len(asked)
    silent = generator(seed, "silence", t=t).random(number) < faults.dropout
    order = np.argsort(generator(seed, "arrival", t=t).random(number), kind="stable")
    first = {int(place) for place in order[~silent[order]][:cohort]}
    absent = {
        client: "dropout" if silent[place] else "surplus" for place, client in enumerate(asked) if place not in first
    }
    return [client for place, client in enumerate(asked) if place in first], absent


def absentee(client: int, num_examples: int, status: str) -> Report:
    """The report of a client that was asked and did not train, or whose training was lost."""
    return Report(client, num_examples, 0, None, None, None, 0, 0, status)
