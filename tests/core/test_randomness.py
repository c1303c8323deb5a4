"""Addressed randomness: the same address gives the same numbers, any other address others."""

import itertools

import numpy as np

from fedray.core.randomness import MAX_SEED, PURPOSES, Generators, generator, torch_seed


def test_the_same_address_gives_the_same_numbers():
    assert (
        generator(5, "shuffle", t=2, client=3, epoch=1).permutation(50)
        == generator(5, "shuffle", t=2, client=3, epoch=1).permutation(50)
    ).all()


def test_every_part_of_an_address_matters():
    addresses = itertools.product((0, 1, MAX_SEED), PURPOSES, (0, 1), (0, 1), (0, 1))
    drawn = [generator(s, p, t=t, client=c, epoch=e).integers(2**63) for s, p, t, c, e in addresses]
    assert len(set(drawn)) == len(drawn)


def test_one_generator_for_many_addresses_starts_afresh_at_each():
    many = Generators(5, "shuffle", 2)
    for client, epoch in itertools.product((0, 3, 10**6), (0, 1, 7)):
        for shape in (3, 50):  # an odd number of draws leaves half of a 64-bit word over
            numbers = many.at(client, epoch).integers(0, 1000, shape, dtype=np.uint32)
            alone = generator(5, "shuffle", t=2, client=client, epoch=epoch)
            assert (numbers == alone.integers(0, 1000, shape, dtype=np.uint32)).all()


def test_torch_seeds_differ_in_the_low_32_bits_that_torch_reads():
    seeds = [torch_seed(0, "dropout", t=t, client=c) for t in range(30) for c in range(30)]
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)
