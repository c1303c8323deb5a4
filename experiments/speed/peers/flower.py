"""Flower's Ray simulation of the workload: seconds a round, and from the start to the end of round 1."""

import time

BEGAN = time.perf_counter()

from flower_clients import app as client_app
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workload import CLIENTS, COHORT, KIND, LR, ROUNDS, make_model, report

marks: list[float] = []
server_app = ServerApp()


class Marked(FedAvg):
    """FedAvg that notes when each round begins."""

    def configure_train(self, *args, **kwargs):
        marks.append(time.perf_counter())
        return super().configure_train(*args, **kwargs)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Marked(fraction_train=COHORT / CLIENTS, fraction_evaluate=0.0, min_available_nodes=CLIENTS)
    arrays = ArrayRecord(make_model().state_dict())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS, train_config=ConfigRecord({"lr": LR}))
    marks.append(time.perf_counter())
    report("flower", marks)
    print(f"{KIND:<6}flower  {marks[1] - BEGAN:.1f} s from the start to the end of round 1", flush=True)


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=CLIENTS, backend_config=resources)
