"""The algorithms, one paper a file. A new algorithm needs its file and an entry in ALGORITHMS, nothing else."""

from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedavgm import FedAvgM
from fedray.algorithms.fedbn import FedBN
from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fednova import FedNova
from fedray.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedray.algorithms.fedper import FedPer
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.fedsgd import FedSGD
from fedray.algorithms.finetune import FineTune
from fedray.algorithms.local import Local
from fedray.algorithms.moon import Moon
from fedray.algorithms.scaffold import Scaffold

ALGORITHMS: dict[str, type[FedAvg]] = {
    algorithm.name: algorithm
    for algorithm in (
        *(FedAvg, FedSGD, FedAvgM, FedProx, Scaffold, FedNova, FedDyn, FedAdagrad, FedAdam, FedYogi, Moon),
        *(Local, FineTune, FedBN, FedPer, Ditto),
    )
}
