"""Newer settings: neutral ones are left out, absent ones are filled in, and the two are inverse."""

import pytest

from fedray.core.newer import NEWER, Newer, with_neutral, without_neutral
from fedray.core.settings import flatten
from fedray.experiment.composition import compose

OLD = {"seed": 1, "data": {"root": ""}, "algorithm": {"name": "fedprox", "mu": 0.1}}


@pytest.fixture(autouse=True)
def newer(monkeypatch):
    """Settings that are new in sections that were there, in a new section, at the top and for one algorithm."""
    for name in list(NEWER):
        monkeypatch.delitem(NEWER, name)
    for name, setting in {
        "chain.steps": Newer((), only=("clipped",)),
        "chain.name": Newer("none"),
        "chain.bits": Newer(32),
        "data.order": Newer("file"),
        "protocol": Newer("rounds"),
        "algorithm.warm_up": Newer(0, only=("fedprox", "moon")),
    }.items():
        monkeypatch.setitem(NEWER, name, setting)


NEUTRAL = {
    **OLD, "protocol": "rounds", "data": {"root": "", "order": "file"}, "chain": {"name": "none", "bits": 32},
    "algorithm": {"name": "fedprox", "mu": 0.1, "warm_up": 0},
}  # fmt: skip


def test_neutral_settings_are_left_out_and_a_new_section_with_them():
    assert without_neutral(NEUTRAL) == OLD
    assert list(without_neutral(NEUTRAL)) == list(OLD)
    assert NEUTRAL["chain"] == {"name": "none", "bits": 32}  # as it was


@pytest.mark.parametrize(
    ("settings", "stored"),
    [
        ({"protocol": "gossip"}, {"protocol": "gossip"}),
        ({"data": {"root": "", "order": "drawn"}}, {"data": {"root": "", "order": "drawn"}}),
        ({"chain": {"name": "none", "bits": 8}}, {"chain": {"bits": 8}}),
        ({"chain": {"name": "clipped", "bits": 32, "steps": (1,)}}, {"chain": {"name": "clipped", "steps": (1,)}}),
        ({"chain": {"name": "clipped", "bits": 32, "steps": ()}}, {"chain": {"name": "clipped"}}),
        # A setting of the same name of a new algorithm is another one.
        ({"algorithm": {"name": "newest", "warm_up": 0}}, {"algorithm": {"name": "newest", "warm_up": 0}}),
    ],
)
def test_what_is_left_out_is_filled_in_again(settings, stored):
    whole = NEUTRAL | settings
    assert without_neutral(whole) == OLD | stored
    assert with_neutral(dict(flatten(without_neutral(whole)))) == dict(flatten(whole))


def test_a_setting_of_some_algorithms_is_not_filled_in_for_others():
    other = OLD | {"algorithm": {"name": "fedavg"}}
    assert "algorithm.warm_up" not in with_neutral(dict(flatten(other)))
    assert with_neutral(dict(flatten(OLD)))["algorithm.warm_up"] == 0


def test_a_default_that_is_not_neutral_is_another_run(monkeypatch):
    """Neutral is what 0.3.0 did, whatever the default becomes."""
    chosen = {"data": {"dataset": "synthetic"}}
    here = compose(chosen).resolved().run_id("x")
    monkeypatch.setitem(NEWER, "sampling", Newer("uniform"))
    neutral = compose(chosen).resolved()
    assert "sampling" not in neutral.stored_settings() and neutral.run_id("x") != here
    monkeypatch.setitem(NEWER, "sampling", Newer("size"))
    assert compose(chosen).resolved().stored_settings()["sampling"] == "uniform"
    assert compose(chosen).resolved().run_id("x") == here
    neutral = compose({**chosen, "sampling": "size"}).resolved()
    assert "sampling" not in neutral.stored_settings()
    assert with_neutral(dict(flatten(neutral.stored_settings())))["sampling"] == "size"
