"""What seconds tell: those of runs in flight together are of cores that they shared, and CPU time is not."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedray.results.frames import Results

SHARED = "Several of these runs were in flight at a time and shared the cores."
TOLERANCE = 0.05  # seconds; times of rounds are whole milliseconds


def in_flight_together(results: "Results") -> bool:
    """Whether rounds of different runs were played at the same time."""
    import pandas as pd

    rounds = results.rounds[results.rounds["run"].isin(results.runs["run"])].dropna(subset=["finished_at", "seconds"])
    ends = rounds["finished_at"] + pd.to_timedelta(rounds["seconds_evaluate"].astype(float).fillna(0.0), unit="s")
    begins = ends - pd.to_timedelta(rounds["seconds"], unit="s")
    spans = pd.DataFrame({"begins": begins, "ends": ends, "round": rounds["round"], "seconds": rounds["seconds"]})
    spans = spans.drop_duplicates().sort_values("begins")  # a longer run has the rounds of the one that it took over
    latest = spans["ends"].cummax().shift()  # a run's own rounds follow one another
    return bool((spans["begins"] < latest - pd.Timedelta(seconds=TOLERANCE)).any())


def has_cpu_seconds(results: "Results") -> bool:
    """Whether all rounds of these runs have their CPU time, which results of earlier versions lack."""
    rounds = results.rounds[results.rounds["run"].isin(results.runs["run"])]
    return len(rounds) > 0 and bool(rounds["cpu_seconds"].notna().all())


def by_cpu(results: "Results") -> "Results":
    """The results with the CPU time of the clients' training in place of `seconds`, in `rounds` and in `runs`."""
    rounds = results.rounds.assign(seconds=results.rounds["cpu_seconds"])
    sums = rounds.groupby("run")["seconds"].sum()
    runs = results.runs.assign(seconds=results.runs["run"].map(sums).fillna(0.0))
    return replace(results, rounds=rounds, runs=runs)
