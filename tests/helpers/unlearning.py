"""Small runs whose accuracy falls again, so that the best round is not the last."""

import dataclasses

from small_runs import small

from fedray.algorithms.fedavg import FedAvg


class Unlearning(FedAvg):
    """Climbs in the last two rounds, so that the best round is one before."""

    def learning_rate(self, t, rounds):
        return self.lr if t <= 4 else -self.lr


def experiment(root, save_best=True, **changes):
    settings = {"model__name": "logistic", "data__train_examples": 400, "output__save_best": save_best, **changes}
    return dataclasses.replace(small(root, **settings), algorithm=Unlearning(lr=0.1, batch_size=10))
