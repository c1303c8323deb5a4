"""Addressed randomness: the same address gives the same numbers, any other address others."""

import itertools

from fedray.randomness import MAX_SEED, PURPOSES, generator, torch_seed


def test_the_same_address_gives_the_same_numbers():
    assert (
        generator(5, "shuffle", t=2, client=3, epoch=1).permutation(50)
        == generator(5, "shuffle", t=2, client=3, epoch=1).permutation(50)
    ).all()


def test_every_part_of_an_address_matters():
    addresses = itertools.product((0, 1, MAX_SEED), PURPOSES, (0, 1), (0, 1), (0, 1))
    drawn = [generator(s, p, t=t, client=c, epoch=e).integers(2**63) for s, p, t, c, e in addresses]
    assert len(set(drawn)) == len(drawn)


def test_torch_seeds_differ_in_the_low_32_bits_that_torch_reads():
    seeds = [torch_seed(0, "dropout", t=t, client=c) for t in range(30) for c in range(30)]
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)
