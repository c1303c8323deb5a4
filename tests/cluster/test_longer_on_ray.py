"""On Ray a run goes on from a shorter one as in one process: what clients remember comes from their segments."""

import pandas as pd
import pytest
from small_runs import comparable, small

from fedray.run import run


@pytest.mark.slow
def test_on_ray_a_longer_run_has_the_bits_of_one_that_was_never_stopped(tmp_path, session):
    scaffold = {"algorithm__name": "scaffold", "algorithm__momentum": 0.0, "output__checkpoint_every": 1}
    run(small(tmp_path / "a", rounds=3, output__keep_checkpoint=True, **scaffold))
    on_ray = run(small(tmp_path / "a", cluster__backend="ray", **scaffold), session=session)
    here = run(small(tmp_path / "b", **scaffold))
    assert on_ray.runs["taken_from"].notna().all()
    assert on_ray.runs["model_fingerprint"].tolist() == here.runs["model_fingerprint"].tolist()
    one, other = comparable(on_ray), comparable(here)
    for name in ("rounds", "clients", "confusion", "metrics"):
        pd.testing.assert_frame_equal(one[name], other[name], obj=name)
