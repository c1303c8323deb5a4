"""FedSGD by hand, and as gradient descent."""

import numpy as np
import pytest
from playing import Regression

from fedray.algorithms.fedsgd import FedSGD
from fedray.core.updates import Updates, WeightedSum
from fedray.server.aggregators import Mean

SIZES = (6, 10, 18, 27, 35)


def test_one_round_by_hand():
    """Gradients 2 and 4 at w = 1, of 1 and 3 examples, lr 0.5: w <- 1 - 0.5 (1/4 * 2 + 3/4 * 4) = -0.75.

    A server_lr of 0.5 goes half as far, to 0.125.
    """
    for server_lr, expected in ((1.0, -0.75), (0.5, 0.125)):
        fedsgd, total = FedSGD(lr=0.5, server_lr=server_lr), WeightedSum()
        for n, gradient in ((1, 2.0), (3, 4.0)):
            update = {"params": np.array([-0.5 * gradient], np.float32), "buffers": np.zeros(0, np.float32)}
            total.add_update(update, fedsgd.weight(n))
        state = {"params": np.ones(1, np.float32), "buffers": np.zeros(0, np.float32)}
        after = fedsgd.server_update(state, Mean().aggregate(Updates(total, [])), 1.0)
        assert after["params"].tolist() == [expected]


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_round_of_everyone_is_a_step_of_gradient_descent_on_the_union(engine):
    regression, whole = Regression(SIZES), Regression((96,))
    done, _ = regression.play(FedSGD, 6, engine=engine, lr=0.3)
    w = whole.start
    for after in done:
        w = w - 0.3 * whole.gradient(0, w)
        np.testing.assert_allclose(after.state["params"], whole.vector(w), rtol=0, atol=1e-6)
        assert [report.steps for report in after.updates.reports] == [1] * 5
    assert np.abs(w - whole.start).max() > 0.1


def test_its_settings_are_fixed():
    for wrong in ({"epochs": 2}, {"batch_size": 8}, {"steps": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FedSGD(**wrong)


def test_sgd_may_be_written_with_capitals():
    assert FedSGD(optimizer="SGD") == FedSGD()
    with pytest.raises(ValueError, match="optimizer"):
        FedSGD(optimizer="adam")
