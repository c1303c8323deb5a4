"""An experiment made ready to run: all that is derived from it, and nothing yet on disk."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedray import data, results
from fedray.algorithms.local_optimizer import PRELOADED
from fedray.cluster.forks import ForkServer, called_by_name, fork_server
from fedray.cluster.needs import will_fork
from fedray.core.atomic import remove_stale
from fedray.core.errors import BadInputError
from fedray.core.own_classes import content, files_of
from fedray.data.dataset import Dataset
from fedray.data.own_tests import draw_own_tests, own_test_size
from fedray.data.partitions import PARTITIONS, count_holders, label_counts, partition_id
from fedray.data.partitions import own as own_partitions
from fedray.experiment.experiment import CHOSEN, Experiment
from fedray.models.blueprint import Blueprint
from fedray.models.model import imagenet_statistics
from fedray.results.recorder import check_writable, drop_journal
from fedray.results.schema import PER_RUN
from fedray.run import segments
from fedray.run.extras import check_extras
from fedray.training.spec import Recipe


@lru_cache(maxsize=2)
def load_data(settings: data.Data, fingerprint: str) -> Dataset:
    """The data set, loaded once for runs in a row; `fingerprint` is part of the key, because files can change."""
    return data.load(settings, fingerprint)


TRAVELLING = ("skew", "model", "algorithm", "aggregator")
"""The sections that processes which train clients have."""


def setting_of(section: str) -> str:
    """The setting that has the class of a section, as messages say it."""
    return f"{section}.name" if section in CHOSEN else section


class Job:
    """A resolved experiment, its place on disk, and all that is derived from it: data, shards, model."""

    def __init__(self, experiment: Experiment, writes: bool = True):
        """BadInputError where it cannot run. Without `writes` its folder is not checked."""
        if not experiment.output.name:
            raise BadInputError("the results have no name; set output.name")
        if writes:
            check_extras(experiment.output)
        self.asked = experiment
        """The experiment as it was given. Its `engine` and `blocks` may be on auto; run/played.py needs to know."""
        self.experiment = experiment = experiment.resolved()
        self.fingerprint = data.fingerprint(experiment.data)
        self.model_source = experiment.model.fingerprint()
        self.own_code = {name: content(kind, setting_of(name)) for name, kind in experiment.own_classes.items()}
        """The content of each class of the user's own, by its section of the settings."""
        self.algorithm_source = self.own_code.get("algorithm", "")
        self.run = experiment.run_id(self.fingerprint, self.model_source, self.own_code)
        self.folder = Path(experiment.output.root) / experiment.output.name
        self.checkpoint = self.folder / "checkpoints" / f"{self.run}.safetensors"
        self.checkpoint_before = self.checkpoint.with_suffix(".previous.safetensors")
        self.model = self.folder / "models" / f"{self.run}.safetensors"
        self.best_model = self.model.with_suffix(".best.safetensors")
        self._answer: Callable[[], Any] | None = None
        if writes:
            self._check_place()

    def _check_place(self) -> None:
        check_writable(self.folder)
        own = [self.checkpoint, self.checkpoint_before, self.model, self.best_model]
        own += [self.folder / "journal" / f"{self.run}.jsonl"]
        own += [self.folder / table / f"{self.run}.parquet" for table in PER_RUN]
        if folder := next((path for path in own if path.is_dir()), None):
            raise BadInputError(f"{folder} is a folder, where run {self.run} has a file")

    def read_status(self) -> str | None:
        """The run's status on disk; None where it was never started, DamagedError where it cannot be read."""
        return results.status(self.experiment.output.root, self.experiment.output.name, self.run)

    @property
    def status(self) -> str | None:
        return self.read_status()

    @property
    def ended(self) -> bool:
        return self.status in results.FINAL_STATUSES

    @property
    def settings_json(self) -> str:
        """The settings as the results have them."""
        return json.dumps(self.experiment.stored_settings())

    @cached_property
    def dataset(self) -> Dataset:
        return load_data(self.experiment.data, self.fingerprint)

    @cached_property
    def shards(self) -> list[np.ndarray]:
        e = self.experiment
        of_each = self.dataset.strata.train
        if getattr(e.partition, "by_user", False):
            if self.dataset.train_users is None:
                raise BadInputError(
                    f"partition.name = {e.partition.name} needs to know whose each example is, and {self.dataset.name} "
                    "does not say; data.user_column names the column of the users"
                )
            of_each = self.dataset.train_users
        named = e.chosen_name("partition")
        if named in PARTITIONS:
            return e.partition.split(of_each, e.clients, e.seed)
        return own_partitions.split(e.partition, named, of_each, e.clients, e.seed)

    @property
    def partition_id(self) -> str:
        """The name of the partition in the tables, which count bins or labels where targets are no classes."""
        return partition_id(self.shards, None if self.dataset.kind.targets == "classes" else self.dataset.strata)

    def read_data(self) -> tuple[Dataset, list[np.ndarray]]:
        """The data set and the shards, read and dealt out by the first call; BadInputError where they are at fault."""
        return self.dataset, self.shards

    @cached_property
    def unused(self) -> int:
        """The number of training examples in no shard."""
        return int((count_holders(self.shards, len(self.dataset.train_labels)) == 0).sum())

    @cached_property
    def own_tests(self) -> list[np.ndarray] | None:
        """The rows of the test set on which each client is evaluated; None where clients never are."""
        e, found = self.experiment, self.dataset.strata
        if not e.evaluation.clients_every:
            return None
        counts = label_counts(self.shards, found.train, len(found.names))
        size = e.evaluation.client_examples or own_test_size(len(found.test), e.clients)
        return draw_own_tests(counts, found.test, size, e.seed)

    def fork_server(self) -> ForkServer | None:
        """The process that imports torch, started by the first call; None where torch has to be imported here."""
        cluster = self.experiment.cluster
        return fork_server() if cluster.backend == "ray" and will_fork(cluster) else None

    def ask_for_blueprint(self) -> None:
        """Have the model built where torch is; `blueprint` waits for it."""
        if self._answer is None:
            preload([self])
            r = self.recipe
            wanted = (r.model, r.shape, r.classes, r.seed, r.fingerprint)
            self._answer = called_by_name(self.fork_server(), "fedray.models.describe:blueprint", *wanted)

    @cached_property
    def blueprint(self) -> Blueprint:
        self.ask_for_blueprint()
        assert self._answer
        found: Blueprint = self._answer()
        return found

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Initial params [P] and buffers [B]."""
        return self.blueprint.params, self.blueprint.buffers

    @property
    def recipe(self) -> Recipe:
        e, d = self.experiment, self.dataset
        channels = d.train_images.shape[1]
        mean, std = imagenet_statistics(channels) if e.model.pretrained else (d.mean, d.std)
        return Recipe(
            model=e.model,
            shape=d.train_images.shape[1:],
            classes=len(d.classes),
            kind=d.kind,
            mean=mean,
            std=std,
            augment=e.data.augment,
            seed=e.seed,
            engine=str(e.engine),
            chunk_size=e.chunk_size,
            cutout=e.data.cutout,
            skew=e.skew,
            clients=e.clients,
            fingerprint=self.model_source,
            own_classes=tuple(
                dict.fromkeys(
                    file
                    for name, kind in e.own_classes.items()
                    if name in TRAVELLING
                    for file in files_of(kind, setting_of(name))
                )
            ),
        )

    def tidy(self) -> None:
        """Remove checkpoints, the journal and unfinished files, now that the run's tables are complete."""
        self.checkpoint.unlink(missing_ok=True)
        self.checkpoint_before.unlink(missing_ok=True)
        for path in (self.checkpoint, self.best_model):
            remove_stale(path)
        segments.remove(self.checkpoint)
        drop_journal(self.experiment.output.root, self.experiment.output.name, self.run)


def preload(jobs: Sequence[Job]) -> None:
    """Import in the fork server what these runs will need, before actors are forked. All have one cluster section."""
    wanted = [name for job in jobs for name in job.experiment.model.preloaded]
    wanted += [name for job in jobs if job.experiment.algorithm.local_optimizer for name in PRELOADED]
    if server := jobs[0].fork_server():
        server.preload(sorted(set(wanted)))
