"""Participation: which of the clients asked take part in a round, and the settings for real losses.

Simulated faults: every client asked may drop out, and more clients may be asked than are needed (Bonawitz et al. 2019,
"Towards Federated Learning at Scale: System Design", section 3). Both are drawn at addresses of the seed, so they are
the same in every run. Real faults: a process is lost, or an update is not finite. Tables count the two kinds apart.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.core.updates import Report


@section
class Faults:
    """Clients that do not answer: simulated, by chance, or real, because of an error."""

    dropout: float = setting(
        0.0, "Probability that a client asked does not answer, drawn anew each round (simulated).", ge=0, le=1
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
        "Clients whose process is lost while it trains them: retry trains them again elsewhere, to the same bits; "
        "drop leaves them out of the round, and the others weigh more.",
    )
    min_survivors: int = setting(
        1,
        "Least number of updates in a round. With fewer, under lost = drop, the round is played once more, and then "
        "the run stops. Under non_finite = reject the run ends as diverged.",
        unit="clients",
        ge=1,
    )
    non_finite: Literal["stop", "reject"] = setting(
        "stop",
        "A client's update or loss that is not finite: stop ends the run as diverged, reject leaves out that update.",
    )


def answering(faults: Faults, seed: int, t: int, asked: Sequence[int], cohort: int) -> tuple[list[int], dict[int, str]]:
    """The clients asked in round t that train, in the order asked, and the status of the others, by client.

    Clients drop out at random ("dropout"). Of the rest the first `cohort` in a random order train, and the others are
    "surplus". The function is pure.
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
    """The report of a client that was asked but did not train, or whose training was lost."""
    return Report(client, num_examples, 0, None, None, None, 0, 0, status)
