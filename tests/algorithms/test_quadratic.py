"""Where algorithms end on clients that disagree: least squares on shards of sorted labels, whose optima, and whose
fixed points under local steps, are known in closed form.

K local steps on a quadratic F_k are linear: w - w_k* becomes M_k (w - w_k*), with M_k = (I - lr H_k)^K for plain SGD.
So an algorithm that takes a mean of the clients with weights q_k stops at the w with sum_k q_k (I - M_k) (w - w_k*) =
0, and this is the optimum, sum_k p_k H_k (w - w_k*) = 0, only for special M_k.
"""

from functools import partial

import numpy as np
import pytest
from playing import Regression

from fedray.algorithms.effective_steps import effective_steps
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fednova import FedNova
from fedray.algorithms.scaffold import Scaffold

SIZES = (8, 16, 24, 48)
LOCAL = {"lr": 0.1, "steps": 5, "batch_size": 0}


@pytest.fixture(scope="module")
def regression():
    return Regression(SIZES)


def optimum(regression, weights):
    """The w that minimises sum_k weights_k F_k(w), from its normal equations."""
    hessian = sum(p * h for p, h in zip(weights, regression.hessians, strict=True))
    return np.linalg.solve(hessian, sum(p * s for p, s in zip(weights, regression.slopes, strict=True)))


def fixed_point(regression, weights, lr, steps, momentum=0.0):
    """The w with sum_k weights_k (I - M_k) (w - w_k*) = 0, after `steps` of each client."""
    stays = [np.eye(4) - after(h, lr, k, momentum) for h, k in zip(regression.hessians, steps, strict=True)]
    optima = [np.linalg.pinv(h) @ s for h, s in zip(regression.hessians, regression.slopes, strict=True)]
    return np.linalg.solve(
        sum(q * m for q, m in zip(weights, stays, strict=True)),
        sum(q * m @ w for q, m, w in zip(weights, stays, optima, strict=True)),
    )


def after(hessian, lr, steps, momentum):
    """M: what is left of w - w* after so many steps."""
    left, velocity = np.eye(4), 0.0
    for _ in range(steps):
        velocity = momentum * velocity + hessian @ left
        left = left - lr * velocity
    return left


def distance(one, other):
    return np.abs(one - other).max()


def end(regression, done):
    return regression.matrix(done[-1].state["params"])


@pytest.mark.parametrize("weighting", ["num_examples", "uniform"])
def test_fedavg_stops_off_the_optimum_where_its_equation_says(regression, weighting):
    p = regression.weights(weighting)
    best, stop = optimum(regression, p), fixed_point(regression, p, 0.1, [5] * 4)
    done, _ = regression.play(FedAvg, 45, weighting=weighting, **LOCAL)
    assert distance(end(regression, done), stop) < 1e-6
    assert distance(stop, best) > 5e-3


UNBIASED = {
    "scaffold I": (Scaffold, {"option": "I"}),
    "scaffold II": (Scaffold, {"option": "II"}),
    "scaffold II, momentum": (Scaffold, {"momentum": 0.5}),
    "feddyn": (FedDyn, {"alpha": 1.0}),
    "feddyn, momentum": (FedDyn, {"alpha": 1.0, "momentum": 0.5}),
}


@pytest.mark.parametrize(("weighting", "cohort", "rounds"), [("num_examples", 2, 65), ("uniform", 4, 40)])
@pytest.mark.parametrize("case", UNBIASED)
def test_control_variates_and_dynamic_regularisation_reach_the_optimum(regression, case, weighting, cohort, rounds):
    """With the same local steps, from all clients or half of them a round."""
    kind, settings = UNBIASED[case]
    best = optimum(regression, regression.weights(weighting))
    done, _ = regression.play(kind, rounds, cohort=cohort, weighting=weighting, **LOCAL, **settings)
    assert distance(end(regression, done), best) < 5e-6
    assert distance(regression.start, best) > 0.5


def test_the_optimum_weighted_by_examples_is_that_of_all_examples_pooled(regression):
    whole = Regression((96,))
    assert distance(optimum(regression, regression.weights("num_examples")), optimum(whole, [1.0])) < 1e-12


@pytest.fixture(scope="module")
def unequal():
    """Six clients with 10 to 60 copies of an image each, so that every batch of 10 has the gradient of the shard."""
    images = (91, 60, 1, 52, 59, 48)
    return Regression((), [np.full(10 * k, image) for k, image in enumerate(images, 1)])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_unequal_steps_pull_fedavg_to_the_wrong_weights_and_not_fednova(unequal, momentum):
    """One to six steps a round. As lr falls, FedNova's fixed point tends to the optimum, half as far for half the lr;
    FedAvg's tends to the optimum of the p_k |a_k|_1, which is elsewhere. Each stays at its own, and leaves the other's.
    """
    p, steps = unequal.weights("num_examples"), range(1, 7)
    far = np.array([effective_steps(k, momentum) for k in steps])
    ends = {FedAvg: optimum(unequal, p * far), FedNova: optimum(unequal, p)}
    assert distance(*ends.values()) > 0.05
    play = partial(unequal.play, engine="fused", batch_size=10, momentum=momentum)
    off = {FedAvg: [], FedNova: []}
    for lr in (0.04, 0.02, 0.01):
        stops = {FedAvg: fixed_point(unequal, p, lr, steps, momentum)}
        stops[FedNova] = fixed_point(unequal, p / far, lr, steps, momentum)
        for kind, stop in stops.items():
            off[kind].append(distance(stop, ends[kind]))
            moved = {}
            for name, start in {"own": stop, "optimum": ends[kind]}.items():
                done, _ = play(kind, 1, lr=lr, start=start)
                moved[name] = distance(end(unequal, done), start)
            assert [report.steps for report in done[0].updates.reports] == list(steps)
            assert moved["own"] < 2e-6
            assert moved["optimum"] > 50 * moved["own"]
    for errors in off.values():
        assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
        assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", [FedAvg, FedNova, Scaffold])
def test_unequal_steps_end_there_from_afar_and_scaffolds_at_the_optimum(unequal, kind):
    p, steps = unequal.weights("num_examples"), np.arange(1, 7)
    weights = {FedAvg: p, FedNova: p / steps}
    stop = fixed_point(unequal, weights[kind], 0.05, steps) if kind in weights else optimum(unequal, p)
    done, _ = unequal.play(kind, 110, engine="fused", lr=0.05, batch_size=10)
    assert distance(unequal.start, stop) > 0.5
    assert distance(end(unequal, done), stop) < 5e-5
