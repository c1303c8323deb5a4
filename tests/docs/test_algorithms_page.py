"""The tables of docs/algorithms.md hold what the code has: each hook with its arguments, each attribute of a client."""

import inspect
import re

import numpy as np
import pytest
from pages import page

from fedray.algorithms.capabilities import Capabilities
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.hooks import Hooks
from fedray.algorithms.norms import OwnNorms
from fedray.server.task import Task
from fedray.training.client import Client

PAGE = page("algorithms")


def spans(cell):
    return re.findall(r"`([^`]+)`", cell)


def methods(kind):
    """The methods that a class defines itself, each with its arguments as in a call."""
    found = {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}
    return {f"{name}({', '.join([*inspect.signature(value).parameters][1:])})" for name, value in found.items()}


def test_the_table_of_hooks_has_each_and_no_other():
    listed = [hook for _, cell, _ in PAGE.table("| where | hook |") for hook in spans(cell)]
    assert len(listed) == len(set(listed))
    assert set(listed) == methods(FedAvg) | methods(Hooks) | methods(OwnNorms)


def test_the_table_of_constants_has_each():
    declared = {name for name, value in vars(Capabilities).items() if isinstance(value, bool)}
    assert {name for cell, _ in PAGE.table("| constant |") for name in spans(cell)} == declared


@pytest.fixture
def client():
    task = Task(FedAvg(), {}, 1, 0.1)
    return Client(None, task, 0, np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int64), {}, {})


def test_the_table_of_the_client_has_each_attribute_and_the_others_are_named_as_the_engines(client):
    listed = [each for cell, _ in PAGE.table("| `client.` |") for each in spans(cell)]
    (sentence,) = re.findall(r"other attributes are the engine's and change without notice: ([^.]*)\.", PAGE.text)
    promised = {each for each in listed if "(" not in each}
    calls = {each for each in listed if "(" in each}
    assert len(listed) == len(promised) + len(calls)
    assert calls <= methods(Client)
    names = {each.partition("(")[0] for each in methods(Client)} | {*vars(client)} | {"trainer"}
    assert promised | {each.partition("(")[0] for each in calls} | set(spans(sentence)) == names
    assert not set(spans(sentence)) & set(listed)
