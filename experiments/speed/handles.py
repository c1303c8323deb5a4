"""A cohort handed out as one task, and as a task for each of its clients, alternating.

    python experiments/speed/handles.py [--turns 7]

The workload is rounds.py's cnn: 1,000 clients of 50 images, 50 a round, packed. Timed is from the first `submit` to the
last `keep`. As 50 handles the round has 50 calls of one client in place of 16 of three or four, and 50 sums in the
driver; the message is sent once all the same.

2026-11-27, 2 cores (AMD): one handle 5.516 s, 50 handles 4.980 s, ratio 0.903 (three turns, 0.856 to 0.990). Calls of
one client fill the last gaps.
"""

import argparse
import statistics
import time

from bare import BATCH, CLIENTS, COHORT, LR
from settings import experiment

from fedray.run.opening import population, shared_session
from fedray.run.prepared import Job
from fedray.server.population import Population
from fedray.server.rounds import sample_cohort
from fedray.server.task import Task


def play(clients: Population, task: Task, parts: list[list[int]]) -> float:
    """The seconds of one round whose cohort is handed out in these parts."""
    began = time.perf_counter()
    handles = [clients.submit(task, part) for part in parts]
    for handle in handles:
        clients.take(handle)
        clients.keep(handle)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    given, words = parser.parse_known_args()
    base = {
        "clients": CLIENTS,
        "cohort": COHORT,
        "model": {"name": "cnn"},
        "algorithm": {"lr": LR, "batch_size": BATCH, "weighting": "uniform"},
        "data": {"test_examples": 100},
    }
    job = Job(experiment(base, words))
    seconds: dict[str, list[float]] = {"one handle": [], "50 handles": []}
    with shared_session(job.experiment.cluster) as session, population(job, session, print) as (clients, where, _):
        print(where)
        algorithm = job.experiment.algorithm
        message = algorithm.broadcast(algorithm.init(*job.vectors), 1)
        for t in range(1, given.turns + 2):
            cohort = sample_cohort(0, t, CLIENTS, COHORT)
            for name, parts in (("one handle", [cohort]), ("50 handles", [[client] for client in cohort])):
                seconds[name].append(play(clients, Task(algorithm, message, t, LR), parts))
    timed = [each[1:] for each in seconds.values()]  # the first round warms up
    ratios = [many / one for one, many in zip(*timed, strict=True)]
    one, many = map(statistics.median, timed)
    print(
        f"one handle {one:.3f} s, 50 handles {many:.3f} s, ratio {statistics.median(ratios):.3f} (medians of "
        f"{given.turns}, {min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
