"""An experiment is all that identifies a run: the sections of the settings, composed.

One typed definition, the sections' own declarations, validates TOML files and command lines and prints the help.
The run id is a hash of all settings but the sections [cluster] (where it runs) and [output] (what it writes), and but
newer settings that are neutral (core/newer.py).
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal

from pydantic import InstanceOf

from fedray import data
from fedray.algorithms import ALGORITHMS
from fedray.algorithms.capabilities import refuse_former_hooks
from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError
from fedray.core.newer import without_neutral
from fedray.core.own_classes import address_of, is_own
from fedray.core.randomness import MAX_SEED
from fedray.core.settings import Auto, Maybe, flatten, section, setting
from fedray.data import Data
from fedray.data.partitions import PARTITIONS
from fedray.data.partitions.even import Iid
from fedray.data.partitions.scheme import Partition
from fedray.data.skew import Skew
from fedray.models.loss import Loss
from fedray.models.model import Model
from fedray.results.output import Output
from fedray.server.aggregators import AGGREGATORS, Aggregator, Mean
from fedray.server.participation import Faults


@section
class Evaluation:
    """When the server's model is evaluated on the test set, and each client's on its own; when that ends the run."""

    every: int = setting(1, "Evaluate after every so many rounds, and after the last.", unit="rounds", ge=1)
    target_accuracy: Maybe[float] = setting(
        None,
        "Stop once the accuracy is at least this: on the validation split where there is one, else on the test set.",
        gt=0,
        le=1,
    )
    patience: Maybe[int] = setting(
        None, "Stop after so many rounds without a better accuracy, of the same split.", unit="rounds", ge=1
    )
    top_k: Maybe[int] = setting(
        None,
        "Also count how often the right label is among the k best, of which there must be fewer than classes; of equal "
        "scores the first label's is the better.",
        unit="labels",
        ge=1,
    )
    clients_every: Auto[int] = setting(
        None,
        "Evaluate every client on test images of its own, with its label distribution, after every so many rounds and "
        "the last planned one; 0 is never; auto: as `every` says for algorithms with personal models, otherwise never.",
        unit="rounds",
        ge=0,
    )
    client_examples: Auto[int] = setting(
        None,
        "Test images of a client; auto: as many as the test set has for each client, and 10 to 1000.",
        unit="images",
        ge=1,
    )

    def resolved(self, own_models: bool) -> "Evaluation":
        """The same with `clients_every` decided; `own_models`: clients have models of their own."""
        if self.clients_every is not None:
            return self
        return dataclasses.replace(self, clients_every=self.every if own_models else 0)


@section
class Experiment:
    """All that identifies a run."""

    seed: int = setting(0, "Seed of everything random.", ge=0, le=MAX_SEED)
    rounds: int = setting(20, "Rounds of federated training.", unit="rounds", ge=1)
    clients: int = setting(10, "Clients in the population, N.", unit="clients", ge=1)
    cohort: int = setting(5, "Clients that take part in a round, m.", unit="clients", ge=1)
    sampling: Literal["uniform", "size"] = setting(
        "uniform",
        "How a cohort is drawn, without replacement: uniform, all clients alike, or by size, one after another, each "
        "in proportion to its examples among those left. With size, algorithm.weighting = num_examples counts a "
        "client's examples twice, uniform once (Li et al. 2020, arXiv 1907.02189, whose Scheme I draws so, but with "
        "replacement).",
    )
    blocks: Auto[int] = setting(
        None,
        "Into how many blocks of consecutive clients a cohort is cut, which are handed out and summed; auto: 16, which "
        "2, 4, 8 and 16 cores share evenly, or, fused, one for every 25 clients and 2 to 16, and on a GPU as few as "
        "have at most 50 clients.",
        ge=1,
    )
    engine: Auto[Literal["plain", "fused"]] = setting(
        None,
        "How clients train: plain, one after another, or fused, a block's clients as one batched program, which is "
        "faster for small models, on a GPU for all, and gives the same within rounding; auto: fused for logistic and "
        "mlp, and on a GPU for more than 100 clients where it can be.",
    )
    chunk_size: Auto[int] = setting(
        None,
        "Most clients of a block that engine = fused trains as one program; auto: what suits a processor's caches, or "
        "8 GiB of a GPU's memory.",
        unit="clients",
        ge=1,
    )
    data: Data = Data()
    partition: InstanceOf[Partition] = Iid()
    skew: Skew = Skew()
    model: Model = Model()
    loss: Loss = Loss()
    algorithm: InstanceOf[FedAvg] = FedAvg()
    aggregator: InstanceOf[Aggregator] = Mean()
    evaluation: Evaluation = Evaluation()
    faults: Faults = Faults()
    cluster: Cluster = Cluster()
    output: Output = Output()

    def __post_init__(self) -> None:
        refuse_former_hooks(type(self.algorithm))  # its own __post_init__ may have hidden FedAvg's
        if wrong := next((name for name in CHOSEN if not dataclasses.is_dataclass(getattr(self, name))), None):
            kind = type(getattr(self, wrong))
            raise BadInputError(f"{wrong} = {address_of(kind)} has no settings; declare it with @section")
        if self.cohort > self.clients:
            raise BadInputError(f"cohort = {self.cohort} is larger than the population, clients = {self.clients}")
        if self.cohort + self.faults.over_selection > self.clients:
            raise BadInputError(
                f"cohort = {self.cohort} and faults.over_selection = {self.faults.over_selection} ask more clients "
                f"than the population has, clients = {self.clients}"
            )
        if self.faults.min_survivors > self.cohort:
            raise BadInputError(
                f"faults.min_survivors = {self.faults.min_survivors} is more than a cohort has, cohort = {self.cohort}"
            )
        looks = self.evaluation.target_accuracy or self.evaluation.patience or self.output.save_best
        if self.algorithm.personalises and self.evaluation.clients_every == 0 and looks:
            raise BadInputError(
                f"{self.chosen_name('algorithm')} has no global model, so that evaluation.target_accuracy, patience "
                "and output.save_best go by the clients, which evaluation.clients_every = 0 does not evaluate"
            )
        if self.algorithm.personalises and self.evaluation.top_k:
            raise BadInputError(
                f"evaluation.top_k = {self.evaluation.top_k} is for the server's model, and "
                f"{self.chosen_name('algorithm')} has none to evaluate"
            )
        if self.model.freeze == "backbone" and self.model.is_known and not self.model.pretrained:
            raise BadInputError(
                f"model.freeze = backbone would leave {self.model.name} random features for good; it is for "
                "model.pretrained = true, and for a function of your own that loads weights"
            )
        if self.algorithm.compares and self.model.features_are_fixed:
            raise BadInputError(
                f"algorithm.name = {self.chosen_name('algorithm')} compares what the last Linear layer is given, which "
                f"nothing trains with {self.model.features_are_fixed}; set model.projection"
            )
        if self.algorithm.has_own_loss and self.loss.changed:
            raise BadInputError(
                f"algorithm.name = {self.chosen_name('algorithm')} has a loss of its own, so that {self.loss.changed} "
                "would do nothing"
            )
        if self.data.sampling == "balanced" and getattr(self.algorithm, "option", "") == "I":
            raise BadInputError(
                f"data.sampling = balanced draws the examples of steps, and {self.chosen_name('algorithm')} with "
                "algorithm.option = I takes a gradient of its whole shard besides; set algorithm.option = II"
            )
        if self.engine == "fused" and self.unfit_to_fuse:
            raise BadInputError(f"engine = fused {self.unfit_to_fuse}")
        if self.chunk_size and self.chosen_engine == "plain":
            raise BadInputError(f"chunk_size = {self.chunk_size} is for engine = fused, and this is plain")
        for name, value in flatten(self.settings()):
            if not is_plain(value):
                raise BadInputError(
                    f"{name} = {value!r} is not a plain value (a number, a text, a list), and a run is known by those"
                )
            if name != "seed" and isinstance(value, int) and value > LARGEST_COUNT:
                raise BadInputError(f"{name} = {value} is larger than {LARGEST_COUNT}")

    def resolved(self) -> "Experiment":
        """The same with a value for every "auto" that changes a result; needs the data's folder, not its content.

        The engine and the blocks are those of a CPU, and the id has them. A GPU may play others (run/played.py).
        """
        engine = self.chosen_engine
        return dataclasses.replace(
            self,
            data=data.resolve(self.data),
            model=self.model.resolved(),
            blocks=self.blocks or (min(16, max(2, self.cohort // 25)) if engine == "fused" else 16),
            engine=engine,
            evaluation=self.evaluation.resolved(self.algorithm.has_own_models),
        )

    @property
    def chosen_engine(self) -> Literal["plain", "fused"]:
        """The engine, "auto" replaced by its value on a CPU, which is in the ids of runs and so never changes.

        It is plain for optimizers of torch's, as when none of them was fused.
        """
        plain = self.unfit_to_fuse or self.algorithm.local_optimizer or not self.model.is_written_out
        return self.engine or ("plain" if plain else "fused")

    @property
    def unfit_to_fuse(self) -> str:
        """The reason that the fused engine cannot play this, to follow its name in a sentence; empty where it can."""
        if self.algorithm.unfusable:
            return f"cannot train {self.chosen_name('algorithm')}, {self.algorithm.unfusable}"
        return ""

    def settings(self) -> dict[str, Any]:
        """All settings as nested dictionaries of plain values, as TOML would write them."""
        tree = dataclasses.asdict(self)
        for name in CHOSEN:
            tree[name] = {"name": self.chosen_name(name), **tree[name]}
        return tree

    def stored_settings(self) -> dict[str, Any]:
        """The settings as an id, a checkpoint and the results have them: newer ones (core/newer.py) unless neutral."""
        return without_neutral(self.settings())

    def chosen_name(self, section: str) -> str:
        """The name of a section's class; for a class that is not enrolled under its name, its address."""
        kind = type(getattr(self, section))
        return kind.name if CHOSEN[section].get(kind.name) is kind else address_of(kind)

    @property
    def own_algorithm(self) -> type[FedAvg] | None:
        """The class of the algorithm where that is the user's own."""
        kind = type(self.algorithm)
        return None if ALGORITHMS.get(kind.name) is kind else kind

    @property
    def own_classes(self) -> dict[str, type]:
        """The classes of the user's own that play a part in a result, by the section of the settings that has one."""
        found = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {
            name: kind
            for name, kind in found.items()
            if name not in ("cluster", "output")
            and is_own(kind)
            and CHOSEN.get(name, {}).get(getattr(kind, "name", "")) is not kind
        }

    def run_id(
        self, data_fingerprint: str, model_fingerprint: str = "", own_code: Mapping[str, str] | None = None
    ) -> str:
        """The name of this run, for a resolved experiment: the same wherever the run is and whatever it writes.

        `own_code` has the content of each of `own_classes`, and of an own loss.
        """
        tree = {name: value for name, value in self.stored_settings().items() if name not in ("cluster", "output")}
        tree["data"] = {**tree["data"], "root": "", "fingerprint": data_fingerprint}
        tree["model"] = {**tree["model"], "fingerprint": model_fingerprint}
        for name, content in (own_code or {}).items():
            part, _, key = name.partition(".")  # of a function the setting that names it, of a class its section
            what = f"{key}_fingerprint" if key else "fingerprint"
            if not key and name not in CHOSEN:
                what = address_of(type(getattr(self, name)))  # the others have no name
            tree[part] = {**tree.get(part, {}), what: content}
        digest = blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=5).hexdigest()
        named = self.chosen_name("algorithm").replace(":", ".")
        return re.sub(r"[^A-Za-z0-9_.-]", "", f"{named}-seed{self.seed}-{digest}")


OWN_LOSS = "loss.name"
"""The key of the user's own loss, a function, beside those of `own_classes`."""
LARGEST_COUNT = 2**31 - 1  # what the tables hold


def is_plain(value: Any) -> bool:
    """Whether JSON has such values."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


# Sections of which one of several classes is chosen by the key `name`.
CHOSEN: dict[str, Mapping[str, type]] = {
    "algorithm": ALGORITHMS,
    "aggregator": AGGREGATORS,
    "partition": PARTITIONS,
}
DEFAULT_NAMES = {"algorithm": FedAvg.name, "aggregator": Mean.name, "partition": Iid.name}
