"""The natural partition: a client is a user."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from fedray.cli.console import ConsoleWatch
from fedray.core.errors import BadInputError
from fedray.data.partitions.natural import Natural
from fedray.experiment.composition import compose
from fedray.run.checks import check_split
from fedray.run.prepared import Job

USERS = np.array([2, 0, 2, 1, 4, 2, 0, 4])  # 0 has two examples, 1 one, 2 three, 4 two; nobody is 3


def lists(shards):
    return [shard.tolist() for shard in shards]


def test_a_client_holds_the_examples_of_its_user():
    for seed in range(3):
        assert lists(Natural().split(USERS, 4, seed)) == [[1, 6], [3], [0, 2, 5], [4, 7]]


def test_users_with_too_few_examples_are_left_out():
    assert lists(Natural(min_size=2).split(USERS, 3, 0)) == [[1, 6], [0, 2, 5], [4, 7]]
    assert lists(Natural(min_size=3).split(USERS, 1, 0)) == [[0, 2, 5]]


def test_of_more_users_each_is_drawn_as_often_and_keeps_its_place():
    drawn = Counter(tuple(shard[0] for shard in lists(Natural().split(USERS, 2, seed))) for seed in range(1200))
    assert drawn.keys() == {(1, 3), (1, 0), (1, 4), (3, 0), (3, 4), (0, 4)}  # by their users, not by their rows
    assert max(abs(times - 200) for times in drawn.values()) < 65  # five standard deviations


def test_more_clients_than_users_are_refused_with_the_number_of_users():
    with pytest.raises(BadInputError, match=r"^5 clients .* need as many users, but the training set has 4$"):
        Natural().split(USERS, 5, 0)
    with pytest.raises(BadInputError, match=r"partition.min_size = 2 or more examples, .* has 3$"):
        Natural(min_size=2).split(USERS, 4, 0)
    with pytest.raises(ValidationError, match="min_size"):
        Natural(min_size=0)


def make_job(tmp_path, users=None, **changes):
    """An experiment on synthetic images that have users."""
    data = {"dataset": "synthetic", "train_examples": 120, "test_examples": 10}
    tree = {
        "clients": 5,
        "data": data,
        "partition": {"name": "natural"},
        "output": {"root": str(tmp_path), "name": "x"},
    }
    job = Job(compose({**tree, **changes}))
    job.dataset = dataclasses.replace(job.dataset, train_users=users)
    return job


def test_users_come_from_the_data_set_and_labels_do_not_matter(tmp_path):
    users = np.arange(120) % 7
    job = make_job(tmp_path, users)
    assert all(len(set(users[shard].tolist())) == 1 for shard in job.shards)
    assert [len(shard) for shard in job.shards] == [np.sum(users == users[shard[0]]) for shard in job.shards]
    assert job.unused == 120 - sum(map(len, job.shards)) > 0


def test_a_data_set_without_users_is_refused_and_the_setting_named(tmp_path):
    with pytest.raises(BadInputError, match=r"partition.name = natural .*synthetic does not say; data.user_column"):
        check_split(make_job(tmp_path))


def test_other_partitions_have_no_use_for_users(tmp_path):
    with_users, without = (
        make_job(tmp_path, users, partition={"name": "dirichlet"}) for users in (np.arange(120) % 7, None)
    )
    assert lists(with_users.shards) == lists(without.shards)


def test_the_console_says_how_many_images_are_in_no_shard(tmp_path, capsys):
    watch = ConsoleWatch(Console(highlight=False, soft_wrap=True))
    watch.say_setting(make_job(tmp_path, np.arange(120) % 6))
    assert "natural shards of 20 images; 20 images are in no shard; 5 take part" in capsys.readouterr().out
    watch.say_setting(make_job(tmp_path, np.arange(120) % 5))
    assert "no shard" not in capsys.readouterr().out
