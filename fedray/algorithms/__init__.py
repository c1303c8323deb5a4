"""The algorithms, one paper a file. A new one is its file and its line here: that enrols it everywhere."""

from fedray.algorithms.fedavg import FedAvg

ALGORITHMS: dict[str, type[FedAvg]] = {algorithm.name: algorithm for algorithm in (FedAvg,)}
