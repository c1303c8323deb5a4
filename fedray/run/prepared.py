"""An experiment made ready to run: all that is derived from it, and nothing yet on disk."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedray import data, results
from fedray.algorithms.local_optimizer import PRELOADED
from fedray.cluster.forks import ForkServer, called_by_name, fork_server
from fedray.cluster.needs import will_fork
from fedray.core import own_code
from fedray.core.atomic import remove_stale
from fedray.core.errors import BadInputError
from fedray.core.own_classes import content, files_of
from fedray.data.dataset import Dataset, Split
from fedray.data.own_tests import draw_own_tests, own_test_size
from fedray.data.partitions import PARTITIONS, count_holders, label_counts, partition_id
from fedray.data.partitions import own as own_partitions
from fedray.data.splits import draw_unseen, hold_out
from fedray.experiment.experiment import CHOSEN, OWN_LOSS, Experiment
from fedray.models.blueprint import Blueprint
from fedray.models.model import imagenet_statistics
from fedray.results.files import read_row
from fedray.results.recorder import check_writable, drop_journal
from fedray.results.schema import PER_RUN
from fedray.run import segments
from fedray.run.extras import check_extras
from fedray.run.own_metric import OWN_METRIC, OwnMetric
from fedray.run.stopping import judged_by
from fedray.training.spec import Recipe


@lru_cache(maxsize=2)
def load_data(settings: data.Data, fingerprint: str) -> Dataset:
    """The data set, loaded once for runs in a row; `fingerprint` is part of the key, because files can change."""
    return data.load(settings, fingerprint)


TRAVELLING = ("skew", "model", "loss", "algorithm", "aggregator")
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
        """The content of each class of the user's own, and of their loss and metric, by its section or setting."""
        self.loss_source = experiment.loss.fingerprint()
        if self.loss_source:
            self.own_code[OWN_LOSS] = self.loss_source
        if own := experiment.evaluation.own_metric:
            self.own_code[OWN_METRIC] = own_code.fingerprint(own, OWN_METRIC)
        self.algorithm_source = self.own_code.get("algorithm", "")
        self._answer: Callable[[], Any] | None = None
        self._find_place()
        if writes:
            self._check_place()

    def _find_place(self) -> None:
        experiment = self.experiment
        self.run = experiment.run_id(self.fingerprint, self.model_source, self.own_code)
        self.folder = Path(experiment.output.root) / experiment.output.name
        self.checkpoint = self.folder / "checkpoints" / f"{self.run}.safetensors"
        self.checkpoint_before = self.checkpoint.with_suffix(".previous.safetensors")
        self.model = self.folder / "models" / f"{self.run}.safetensors"
        self.best_model = self.model.with_suffix(".best.safetensors")

    def with_rounds(self, rounds: int) -> "Job":
        """The same with so many rounds. It shares what was derived so far, and its place on disk is not checked."""
        other = copy(self)
        other.asked, other.experiment = replace(self.asked, rounds=rounds), replace(self.experiment, rounds=rounds)
        other._find_place()
        return other

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
    def keeps_checkpoint(self) -> bool:
        """Whether the run finished and was to keep its last checkpoint, by its row."""
        try:
            (row,) = read_row(self.folder / "runs" / f"{self.run}.parquet").to_pylist()
        except BadInputError:
            return False
        output = json.loads(row["settings"] or "{}").get("output", {})
        return row["status"] == "finished" and output.get("keep_checkpoint") is True

    @property
    def settings_json(self) -> str:
        """The settings as the results have them."""
        return json.dumps(self.experiment.stored_settings())

    @cached_property
    def dataset(self) -> Dataset:
        return load_data(self.experiment.data, self.fingerprint)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the server's model is evaluated on."""
        return ("test", "validation") if self.experiment.data.validation_examples else ("test",)

    @property
    def judged(self) -> str:
        """The column of `rounds` that the run is judged by, which the kind of the data has a say in."""
        return judged_by(self.experiment, self.dataset.kind.targets)

    @cached_property
    def own_metric(self) -> OwnMetric | None:
        address = self.experiment.evaluation.own_metric
        return OwnMetric(address, self.own_code[OWN_METRIC]) if address else None

    @cached_property
    def shards(self) -> list[np.ndarray]:
        """The rows of the training set that each client trains on."""
        share = self.experiment.evaluation.client_holdout
        return self.own_split[0] if share else self.dealt

    @cached_property
    def own_split(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The rows that each client trains on, and those that are held out at it."""
        return hold_out(self.dealt, self.experiment.evaluation.client_holdout, self.experiment.seed)

    @cached_property
    def unseen(self) -> np.ndarray:
        """The clients that are never trained, sorted."""
        e = self.experiment
        return draw_unseen(e.clients, e.unseen, e.seed)

    @cached_property
    def dealt(self) -> list[np.ndarray]:
        """The rows of the training set that each client has."""
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
        return int((count_holders(self.dealt, len(self.dataset.train_labels)) == 0).sum())

    @cached_property
    def own_tests(self) -> list[np.ndarray] | None:
        """The rows on which each client is evaluated; None where clients never are.

        They are rows of the test set or, with evaluation.client_holdout, of the training set.
        """
        e, found = self.experiment, self.dataset.strata
        if not e.evaluation.clients_every:
            return None
        if e.evaluation.client_holdout:
            return self.own_split[1]
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
            wanted = (r.model, r.shape, r.classes, r.seed, r.fingerprint, r.kind)
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
            model=e.model.located(),
            shape=d.train_images.shape[1:],
            classes=len(d.classes),
            kind=d.kind,
            tested_on_own=e.evaluation.client_holdout > 0,
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
            own_classes=(
                *dict.fromkeys(
                    file
                    for name, kind in e.own_classes.items()
                    if name in TRAVELLING
                    for file in files_of(kind, setting_of(name))
                ),
                *([(OWN_LOSS, e.loss.name, self.loss_source)] if self.loss_source else []),
            ),
            loss=e.loss,
            class_weights=self.class_weights,
            loss_source=self.loss_source,
            sampling=e.data.sampling,
        )

    @cached_property
    def class_weights(self) -> tuple[float, ...]:
        """The weights of the classes in the loss; BadInputError where they or the loss do not suit the targets."""
        d = self.dataset
        return self.experiment.loss.weights(d.kind, d.train_labels, d.classes)

    def tidy(self) -> None:
        """Remove checkpoints, the journal and unfinished files, now that the run's tables are complete.

        The last checkpoint stays where the run was to keep it, and finished.
        """
        for path in (self.checkpoint, self.best_model):
            remove_stale(path)
        if self.checkpoint.exists() and self.keeps_checkpoint:
            if self.checkpoint_before.exists():  # until it goes, segments may be there that only it lists
                with suppress(BadInputError):  # it is damaged, and who goes on from it is told
                    segments.remove(self.checkpoint, segments.listed_by(self.checkpoint))
        else:
            self.checkpoint.unlink(missing_ok=True)
            segments.remove(self.checkpoint)
        self.checkpoint_before.unlink(missing_ok=True)
        drop_journal(self.experiment.output.root, self.experiment.output.name, self.run)


def preload(jobs: Sequence[Job]) -> None:
    """Import in the fork server what these runs will need, before actors are forked. All have one cluster section."""
    wanted = [name for job in jobs for name in job.experiment.model.preloaded]
    wanted += [name for job in jobs if job.experiment.algorithm.local_optimizer for name in PRELOADED]
    if server := jobs[0].fork_server():
        server.preload(sorted(set(wanted)))
