"""A breakpoint in a client on Ray, which nobody could answer, is an error that says where pdb works."""

import os

import pytest
from small_runs import small

from fedray.core.errors import BadInputError, ClientError
from fedray.results import load
from fedray.run import run

WAY = "is in a process of Ray, which has no terminal; --cluster.backend in-process plays the same run, and pdb stops there"


def on_ray(root, **algorithm):
    return small(root, cohort=4, cluster={"backend": "ray", "clients_per_actor": 2}, algorithm=algorithm)


@pytest.mark.parametrize(("how", "line"), [("builtin", 20), ("pdb", 22)])
def test_it_ends_the_run_with_the_client_the_round_and_the_way(tmp_path, session, how, line):
    said = f"client 2 failed in round 2: the breakpoint in breaking.py line {line} {WAY}"
    with pytest.raises(ClientError) as error:
        run(on_ray(tmp_path, name="breaking:Breaking", how=how), session=session)
    assert str(error.value) == said
    tables = load("small", tmp_path)
    assert (tables.runs["status"][0], tables.runs["error"][0]) == ("failed", said)
    assert tables.rounds["round"].tolist() == [1]


def test_one_that_every_client_meets_is_found_before_anything_is_written(tmp_path, session):
    with pytest.raises(BadInputError) as error:
        run(on_ray(tmp_path, name="breaking:Everywhere"), session=session)
    assert str(error.value) == f"the breakpoint in breaking.py line 33 {WAY}"
    assert not list(tmp_path.iterdir())


def test_those_of_the_driver_stay_pythons_own(session):
    assert "PYTHONBREAKPOINT" not in os.environ
