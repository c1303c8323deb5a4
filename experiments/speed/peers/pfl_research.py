"""pfl-research's simulation of the workload in one process, as it does without GPUs: seconds a round."""

import time
import types

BEGAN = time.perf_counter()

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from workload import BATCH, CLIENTS, COHORT, KIND, LR, ROUNDS, make_model, report, shard

marks: list[float] = []


class Marks(TrainingProcessCallback):
    """Notes when each round ends."""

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        marks.append(time.perf_counter())
        return False, type(aggregate_metrics)()


def loss(self, inputs, targets, eval=False):  # noqa: A002  pfl's name
    self.train(not eval)
    return F.cross_entropy(self(inputs), targets)


@torch.no_grad()
def metrics(self, inputs, targets, eval=True):  # noqa: A002
    self.train(not eval)
    return {"loss": Weighted(F.cross_entropy(self(inputs), targets).item() * len(inputs), len(inputs))}


def main() -> None:
    module = make_model()
    module.loss, module.metrics = types.MethodType(loss, module), types.MethodType(metrics, module)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    users = {client: shard(client) for client in range(CLIENTS)}
    data = FederatedDataset.from_slices(users, get_user_sampler("random", range(CLIENTS)))
    marks.append(time.perf_counter())
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=ROUNDS, evaluation_frequency=10**6, train_cohort_size=COHORT, val_cohort_size=0
        ),
        backend=SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(local_learning_rate=LR, local_num_epochs=1, local_batch_size=BATCH),
        model_eval_params=NNEvalHyperParams(local_batch_size=10_000),
        callbacks=[Marks()],
    )
    report("pfl", marks)
    print(f"{KIND:<6}pfl     {marks[1] - BEGAN:.1f} s from the start to the end of round 1", flush=True)


if __name__ == "__main__":
    main()
