"""An experiment made ready to run: everything derived from it, every check made, nothing yet on disk."""

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import fedray
from fedray import data, results
from fedray.algorithms.local import Local
from fedray.algorithms.local_optimizer import PRELOADED
from fedray.cluster.forks import ForkServer, fork_server
from fedray.cluster.needs import Needs, object_store_bytes, will_fork
from fedray.core.atomic import remove_stale
from fedray.core.errors import BadInputError
from fedray.data.dataset import Dataset
from fedray.data.own_tests import draw_own_tests
from fedray.data.partitions import count_holders, label_counts, partition_id
from fedray.experiment.experiment import Experiment
from fedray.models import model as models
from fedray.models.blueprint import Blueprint
from fedray.results.recorder import check_writable, drop_journal
from fedray.results.schema import PER_RUN
from fedray.run.checks import check_batches, try_optimizer
from fedray.run.extras import check_extras
from fedray.run.needs import copies_held, vectors_held
from fedray.run.stopping import judged_by
from fedray.training.chunks import VECTORS, bytes_of_client, most_at_once
from fedray.training.spec import EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU, Recipe


@lru_cache(maxsize=2)
def load_data(settings: data.Data, fingerprint: str) -> Dataset:
    """The data set, loaded once for runs in a row; `fingerprint` is part of the key, because files can change."""
    return data.load(settings, fingerprint)


class Job:
    """A resolved experiment, its place on disk, and what it needs: data, shards, model, reservations."""

    def __init__(self, experiment: Experiment, writes: bool = True):
        """BadInputError where it cannot run; one that never `writes` may have no place on disk."""
        if not experiment.output.name:
            raise BadInputError("the results have no name; set output.name")
        if writes:
            check_extras(experiment.output)
        self.experiment = experiment = experiment.resolved()
        self.fingerprint = data.fingerprint(experiment.data)
        self.model_source = experiment.model.fingerprint()
        self.run = experiment.run_id(self.fingerprint, self.model_source)
        self.folder = Path(experiment.output.root) / experiment.output.name
        self.checkpoint = self.folder / "checkpoints" / f"{self.run}.safetensors"
        self.checkpoint_before = self.checkpoint.with_suffix(".previous.safetensors")
        self.model = self.folder / "models" / f"{self.run}.safetensors"
        self.best_model = self.model.with_suffix(".best.safetensors")
        if writes:
            self._check_place()

    def _check_place(self) -> None:
        check_writable(self.folder)
        own = [self.checkpoint, self.checkpoint_before, self.model, self.best_model]
        own += [self.folder / "journal" / f"{self.run}.jsonl"]
        own += [self.folder / table / f"{self.run}.parquet" for table in PER_RUN]
        if folder := next((path for path in own if path.is_dir()), None):
            raise BadInputError(f"{folder} is a folder, where run {self.run} has a file")

    @property
    def status(self) -> str | None:
        """The run's status on disk; None where it was never started."""
        return results.status(self.experiment.output.root, self.experiment.output.name, self.run)

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
        of_each = self.dataset.train_labels
        if getattr(e.partition, "by_user", False):
            if self.dataset.train_users is None:
                raise BadInputError(
                    f"partition.name = {e.partition.name} needs to know whose each example is, and {self.dataset.name} "
                    "does not say; data.user_column names the column of the users"
                )
            of_each = self.dataset.train_users
        return e.partition.split(of_each, e.clients, e.seed)

    @cached_property
    def unused(self) -> int:
        """How many training examples are in no shard."""
        return int((count_holders(self.shards, len(self.dataset.train_labels)) == 0).sum())

    @cached_property
    def own_tests(self) -> list[np.ndarray] | None:
        """The rows of the test set on which each client is evaluated; None where that is never."""
        e, labels = self.experiment, self.dataset.test_labels
        if not e.evaluation.clients_every:
            return None
        counts = label_counts(self.shards, self.dataset.train_labels, len(self.dataset.classes))
        size = e.evaluation.client_examples or min(1000, max(10, len(labels) // e.clients))
        return draw_own_tests(counts, labels, size, e.seed)

    def check_split(self) -> None:
        """Raise BadInputError where the data or their partition are at fault; torch is not needed."""
        self.shards  # noqa: B018
        if self.experiment.skew.colour and self.recipe.shape[0] == 1:
            raise BadInputError(
                f"skew.colour = {self.experiment.skew.colour} scales red, green and blue, but the images of "
                f"{self.dataset.name} are grey"
            )
        top_k, classes = self.experiment.evaluation.top_k, len(self.dataset.classes)
        if top_k and top_k >= classes:
            raise BadInputError(
                f"evaluation.top_k = {top_k} takes in all {classes} classes of {self.dataset.name}, of which the right "
                "one is always one; it must be fewer"
            )
        if any(len(rows) == 0 for rows in self.own_tests or ()):
            raise BadInputError(
                "the test set has no image of the labels of some client, which so cannot be evaluated; use more of "
                "data.test_examples, or evaluation.clients_every = 0"
            )

    def check_shards(self) -> None:
        """Raise BadInputError where a shard or the algorithm does not suit the model, or the batch size a shard."""
        sizes = [len(shard) for shard in self.shards]
        check_batches(self.experiment.algorithm, sizes, bool(self.blueprint.norms))
        self.check_layers()
        self.check_optimizer()

    def check_layers(self) -> None:
        """Raise BadInputError where what the algorithm does with some layers would come to nothing."""
        algorithm, found = self.experiment.algorithm, self.blueprint
        named = f"algorithm.name = {self.experiment.chosen_name('algorithm')}"
        kept = set(algorithm.personal(found.names, found.norms))
        trained = {name for name, (kind, _) in found.places.items() if kind == "params"}
        if trained <= kept and not isinstance(algorithm, Local):
            raise BadInputError(
                f"{named} with model.name = {self.experiment.model.name} keeps all that is trained at the clients, so "
                "that nothing would be shared; that is algorithm.name = local"
            )
        if (own := trained & kept) and own <= set(found.idle):
            raise BadInputError(f"{named} keeps {', '.join(sorted(own))} at the clients, which the model does not use")
        if self.experiment.engine == "fused" and (why := found.unfit_to_fuse):
            raise BadInputError(f"engine = fused cannot train model.name = {self.experiment.model.name}: {why}")
        if algorithm.compares and found.featureless:
            raise BadInputError(f"{named} compares what the last Linear layer is given, and {found.featureless}")

    def check_optimizer(self) -> None:
        """Raise BadInputError where the clients' optimizer is not torch's, or does not suit the model."""
        if wanted := self.experiment.algorithm.local_optimizer:
            places = self.blueprint.places.values()
            try_optimizer(self.fork_server, wanted, tuple(shape for kind, shape in places if kind == "params"))

    @cached_property
    def fork_server(self) -> ForkServer | None:
        """Where torch is imported; None where that has to be here."""
        cluster = self.experiment.cluster
        return fork_server() if cluster.backend == "ray" and will_fork(cluster) else None

    @cached_property
    def blueprint_asked(self) -> Callable[[], Blueprint]:
        """Have the model built where torch is: the call that waits for it, to be made when it is needed."""
        r = self.recipe
        wanted = (r.model, r.shape, r.classes, r.seed, r.fingerprint)
        if self.fork_server is None:
            return partial(models.blueprint, *wanted)
        preload([self])
        return self.fork_server.ask(models.blueprint, *wanted).result

    @cached_property
    def blueprint(self) -> Blueprint:
        return self.blueprint_asked()

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Initial params [P] and buffers [B]."""
        return self.blueprint.params, self.blueprint.buffers

    @property
    def needs(self) -> Needs:
        """What this run asks of memory."""
        d, e = self.dataset, self.experiment
        model = sum(vector.nbytes for vector in self.vectors)
        train = d.train_images.nbytes + d.train_labels.nbytes
        held = sum(len(shard) for shard in self.shards)  # more than there are, where a partition draws with replacement
        evaluated = sum(part.nbytes for part in (*d.examples("test"), *d.examples("validation")))
        shared = train + evaluated + 8 * held
        shards = held * train // len(d.train_labels)
        remembered = e.clients * model if e.algorithm.remembers else 0  # a model each, at most, in all that are here
        store = object_store_bytes(shared, model, e.cohort) + remembered
        largest = max(map(len, self.shards), default=0)
        largest_shard = largest * train // len(d.train_labels)
        batch, blueprint = min(e.algorithm.batch_size or largest, largest), self.blueprint
        needs = Needs(
            model=model,
            shards=shards,
            object_store=store,
            vectors=vectors_held(e.algorithm),
            frozen=blueprint.frozen_bytes * copies_held(e.algorithm, e.model),
            activations=blueprint.activation_bytes(batch, EVALUATION_BATCH),
            largest_shard=largest_shard,
            evaluated=evaluated,
            activations_on_gpu=blueprint.activation_bytes(batch, EVALUATION_BATCH_ON_GPU),
        )
        if e.engine != "fused":
            return needs
        params, images = self.vectors[0].nbytes, (blueprint.kept_bytes, blueprint.widest_bytes)
        of_client = bytes_of_client(params, e.algorithm.batch_size or largest, *images)
        block = -(-(e.cohort + e.faults.over_selection) // (e.blocks or 1))
        on_cpu, on_gpu = (
            min(block, most_at_once(e.chunk_size, size, gpu)) for size, gpu in ((params, False), (of_client, True))
        )
        one = dataclasses.replace(
            needs,
            activations=max(needs.activations, on_cpu * blueprint.activation_bytes(batch, 0)),
            activations_on_gpu=max(needs.activations_on_gpu, of_client - VECTORS * params),
            at_once=on_cpu,
            together="on a GPU" if e.model.is_written_out else "anywhere",
        )
        images_at_once = max(needs.activations_on_gpu, on_gpu * (of_client - VECTORS * params))
        many = dataclasses.replace(one, at_once_on_gpu=on_gpu, activations_on_gpu=images_at_once)
        return many if e.chunk_size else dataclasses.replace(many, fewer=one)

    def tidy(self) -> None:
        """Remove what a kill at the very end of the run left, now that its tables are complete."""
        self.checkpoint.unlink(missing_ok=True)
        self.checkpoint_before.unlink(missing_ok=True)
        for path in (self.checkpoint, self.best_model):
            remove_stale(path)
        drop_journal(self.experiment.output.root, self.experiment.output.name, self.run)

    @property
    def recipe(self) -> Recipe:
        e, d = self.experiment, self.dataset
        channels = d.train_images.shape[1]
        mean, std = models.imagenet_statistics(channels) if e.model.pretrained else (d.mean, d.std)
        return Recipe(
            model=e.model,
            shape=d.train_images.shape[1:],
            classes=len(d.classes),
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
        )

    @cached_property
    def grouping(self) -> dict[str, Any]:
        """The settings that people group by: columns of every per-run table."""
        e, a, d = self.experiment, self.experiment.algorithm, self.dataset
        return {
            "algorithm": e.chosen_name("algorithm"),
            "dataset": d.name,
            "data_format": d.format,
            "model": e.model.name,
            "partition": e.chosen_name("partition"),
            "alpha": getattr(e.partition, "alpha", None),
            "clients": e.clients,
            "cohort": e.cohort,
            "epochs": None if a.steps else a.epochs,
            "local_steps": a.steps,
            "batch_size": a.batch_size,
            "lr": a.lr,
            "momentum": a.momentum,
            "server_lr": a.server_lr,
            "weighting": a.weighting,
            "seed": e.seed,
        }

    @property
    def run_row(self) -> dict[str, Any]:
        """What the runs table knows before the population is up."""
        params, buffers = self.vectors
        return {
            "settings": self.settings_json,
            "rounds_planned": self.experiment.rounds,
            "judged_by": judged_by(self.experiment).removesuffix("_accuracy"),
            "num_params": params.size,
            "num_buffers": buffers.size,
            "partition_id": partition_id(self.shards),
            "data_fingerprint": self.fingerprint,
            "model_source_fingerprint": self.model_source or None,
            "cpu_capability": self.blueprint.torch.cpu_capability,
            **self.versions,
        }

    @property
    def versions(self) -> dict[str, str]:
        """What the bits of a result depend on besides the settings."""
        return {
            "fedray_version": fedray.__version__,
            "python_version": platform.python_version(),
            "torch_version": self.blueprint.torch.version,
            "ray_version": version("ray"),
            "numpy_version": np.__version__,
        }

    def partition_columns(self) -> dict[str, np.ndarray]:
        """The partitions table: every label of every client, client by client."""
        counts = label_counts(self.shards, self.dataset.train_labels, len(self.dataset.classes))
        clients, labels = np.indices(counts.shape).reshape(2, -1)
        names = np.array(self.dataset.classes, dtype=object)
        return {"client": clients, "label": labels, "label_name": names[labels], "count": counts.ravel()}


def preload(jobs: Sequence[Job]) -> None:
    """Have imported what these runs, all of one place, will import, where actors are forked from, before any is."""
    wanted = [name for job in jobs for name in job.experiment.model.preloaded]
    wanted += [name for job in jobs if job.experiment.algorithm.local_optimizer for name in PRELOADED]
    if jobs[0].fork_server:
        jobs[0].fork_server.preload(sorted(set(wanted)))
