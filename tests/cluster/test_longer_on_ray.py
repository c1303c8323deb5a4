"""On Ray a run goes on from a shorter one as in one process: what clients remember comes from their segments."""

from dataclasses import replace

import pytest
from small_runs import assert_same_tables, small

from fedray.run import run


@pytest.mark.slow
def test_on_ray_a_longer_run_has_the_bits_of_one_that_was_never_stopped(tmp_path, session):
    scaffold = {"algorithm__name": "scaffold", "algorithm__momentum": 0.0, "output__checkpoint_every": 1}
    run(small(tmp_path / "a", rounds=3, output__keep_checkpoint=True, **scaffold))
    on_ray = run(small(tmp_path / "a", cluster__backend="ray", **scaffold), session=session)
    here = run(small(tmp_path / "b", **scaffold))
    assert on_ray.runs["taken_from"].notna().all()
    both = [replace(each, runs=each.runs.drop(columns=["taken_from", "cluster.backend"])) for each in (on_ray, here)]
    assert_same_tables(*both)
