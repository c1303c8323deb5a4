"""Do two actors finish together? A Dirichlet(0.1) population of 100 with unequal shards, cohort 20, packed.

    python experiments/speed/balance.py [--SETTING VALUE ...]

Apart is how much longer the last actor worked than the average one, as a share of the round's training; the round's
longest block is what it could not be less than by cutting the work better.

2026-11-22, 2 cores: shards of 1 to 2,257 images; apart by 1.6 % of a round, 4.8 % at most.
"""

import sys
from typing import Any

import numpy as np
from settings import experiment

from fedray.core.updates import cut
from fedray.run import run

BASE: dict[str, Any] = {
    "rounds": 20,
    "clients": 100,
    "cohort": 20,
    "partition": {"name": "dirichlet", "alpha": 0.1},
    "evaluation": {"every": 10**6},
    "data": {"test_examples": 100},
    "cluster": {"clients_per_actor": 50},
}


def main(words: list[str]) -> None:
    e = experiment(BASE, words)
    tables = run(e)
    count = int(tables.runs["blocks"].iloc[0])
    # A cohort's blocks are its clients in order, cut as evenly as can be.
    of_one = np.concatenate([np.full(len(b), i) for i, b in enumerate(cut(list(range(e.cohort)), count))])
    place = np.tile(of_one, e.rounds)
    blocks = tables.clients.groupby([tables.clients["round"], place])["seconds"].sum()
    rounds = tables.rounds.set_index("round")[1:]  # the first one warms up
    lanes = tables.runs["actors"].iloc[0]
    apart = rounds["seconds_idle"] * lanes  # with two actors, one waits for the other
    share = apart / (rounds["seconds"] - rounds["seconds_record"])
    longest = blocks.groupby(level=0).max()[1:]
    sizes = tables.population["num_examples"]
    print(f"shards of {sizes.min()} to {sizes.max()} images, {lanes} actors, {count} blocks, {len(rounds)} rounds")
    print(f"apart: median {share.median():.1%}, most {share.max():.1%} of a round")
    within = (share <= 0.1) | (apart <= longest)
    print(f"within 10 % or one block (median {longest.median():.2f} s): {within.sum()} of {len(rounds)} rounds")


if __name__ == "__main__":
    main(sys.argv[1:])
