"""The section [evaluation]: when models are evaluated, what is measured, and which measure judges a run."""

import dataclasses
from typing import Literal

from fedray.core.errors import BadInputError
from fedray.core.metrics import METRICS, Targets
from fedray.core.own_code import is_address
from fedray.core.settings import Auto, Maybe, nearest, section, setting


@section
class Evaluation:
    """When the server's model is evaluated on the test set, and each client's on its own; when that ends the run."""

    every: int = setting(1, "Evaluate after every so many rounds, and after the last.", unit="rounds", ge=1)
    metrics: Maybe[str] = setting(
        None,
        "Metrics to measure besides those that cost nothing, by name, with commas between them: auc (the area under "
        "the ROC curve) needs the scores of all classes. F1 and balanced accuracy of classes, F1 and AUC of labels, "
        "MAE and RMSE of values are always measured.",
    )
    own_metric: Maybe[str] = setting(
        None,
        "A metric of your own, package.module:function: it is given the scores (float32 [n, outputs]) and the targets "
        "of a split as NumPy arrays, and returns a number, of which more is better.",
    )
    judged_by: Auto[Literal["accuracy", "loss", "f1", "balanced_accuracy", "auc", "mae", "rmse", "own_metric"]] = (
        setting(
            None,
            "The measure that target, patience, output.save_best, --halve and the report go by, of the validation "
            "split where there is one, else of the test set; of loss, mae and rmse less is better. Auto: accuracy for "
            "classes, f1 for labels, rmse for values.",
        )
    )
    target: Maybe[float] = setting(
        None, "Stop once the measure that `judged_by` names is at least this, or, where less is better, at most this."
    )
    target_accuracy: Maybe[float] = setting(
        None,
        "Stop once the accuracy is at least this: on the validation split where there is one, else on the test set.",
        gt=0,
        le=1,
    )
    patience: Maybe[int] = setting(
        None,
        "Stop after so many rounds without a better accuracy, or what `judged_by` names, of the same split.",
        unit="rounds",
        ge=1,
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
        "Evaluate every client on test examples of its own, with its label distribution, after every so many rounds "
        "and the last planned one; 0 is never; auto: as `every` says for algorithms with personal models, else never.",
        unit="rounds",
        ge=0,
    )
    client_examples: Auto[int] = setting(
        None,
        "Test examples of a client; auto: as many as the test set has for each client, and 10 to 1000.",
        unit="examples",
        ge=1,
    )
    client_holdout: float = setting(
        0.0,
        "The share of each client's own training examples that is held out of training, drawn at random, at least one, "
        "and on which the client is evaluated instead of test examples.",
        ge=0,
        lt=1,
    )
    unseen_clients: float = setting(
        0.0,
        "Clients, drawn at random, that are never asked to train and are evaluated with the others: a number of them, "
        "or below 1 a share of the population.",
        ge=0,
    )

    def resolved(self, own_models: bool) -> "Evaluation":
        """The same with `clients_every` decided; `own_models`: clients have models of their own."""
        if self.clients_every is not None:
            return self
        looks = own_models or self.client_holdout or self.unseen_clients
        return dataclasses.replace(self, clients_every=self.every if looks else 0)

    def unseen_of(self, clients: int) -> int:
        """The number of N clients that are never trained: of a share the nearest whole number, but at least one."""
        share = self.unseen_clients
        return int(share) if share == 0 or share >= 1 else max(1, round(share * clients))

    def __post_init__(self) -> None:
        self._check_splits()
        for name in self.asked:
            if name not in METRICS:
                raise BadInputError(
                    f"evaluation.metrics = {self.metrics}: {name!r} is none of {', '.join(METRICS)}"
                    f"{nearest(name, METRICS)}"
                )
        if self.own_metric and not is_address(self.own_metric):
            raise BadInputError(f"evaluation.own_metric = {self.own_metric} is not package.module:function")
        if self.judged_by == "own_metric" and not self.own_metric:
            raise BadInputError(
                "evaluation.judged_by = own_metric needs evaluation.own_metric, which names no function"
            )
        if self.target is not None and self.target_accuracy:
            raise BadInputError(
                f"evaluation.target = {self.target} and evaluation.target_accuracy = {self.target_accuracy} are two "
                "ends of a run; set one of them"
            )
        if self.target_accuracy and self.judged_by not in (None, "accuracy"):
            raise BadInputError(
                f"evaluation.target_accuracy is an accuracy, and this run is judged by {self.judged_by}; set "
                "evaluation.target"
            )

    def _check_splits(self) -> None:
        if self.unseen_clients > 1 and self.unseen_clients != int(self.unseen_clients):
            raise BadInputError(
                f"evaluation.unseen_clients = {self.unseen_clients} is neither a whole number of clients nor a share "
                "below 1"
            )
        if self.clients_every == 0 and (self.client_holdout or self.unseen_clients):
            name = "client_holdout" if self.client_holdout else "unseen_clients"
            raise BadInputError(
                f"evaluation.{name} is for the evaluation of clients, which evaluation.clients_every = 0 leaves out"
            )
        if self.client_holdout and self.client_examples:
            raise BadInputError(
                f"evaluation.client_examples = {self.client_examples} counts test examples, and with "
                "evaluation.client_holdout clients are evaluated on examples of their own"
            )

    def check_for_clients(self, algorithm: str, save_best: bool) -> None:
        """Raise BadInputError for what cannot be asked of an algorithm without a global model."""
        looks = self.target_accuracy or self.target is not None or self.patience or save_best
        if self.clients_every == 0 and looks:
            raise BadInputError(
                f"{algorithm} has no global model, so that evaluation.target_accuracy, patience and output.save_best "
                "go by the clients, which evaluation.clients_every = 0 does not evaluate"
            )
        for name in ("top_k", "metrics", "own_metric"):
            if getattr(self, name):
                raise BadInputError(
                    f"evaluation.{name} = {getattr(self, name)} is for the server's model, and {algorithm} has none to "
                    "evaluate"
                )
        if self.judged_by not in (None, "accuracy", "loss"):
            raise BadInputError(
                f"evaluation.judged_by = {self.judged_by} is for the server's model, and {algorithm} has none to "
                "evaluate; clients' models have accuracy and loss"
            )

    @property
    def asked(self) -> tuple[str, ...]:
        """The names in `metrics`, and the one that judges."""
        names = tuple(name.strip() for name in (self.metrics or "").split(",")) if self.metrics else ()
        return (*names, *((self.judged_by,) if self.judged_by in METRICS else ()))

    @property
    def needs_scores(self) -> bool:
        """Whether something is measured that takes the scores of all outputs."""
        return bool(self.own_metric) or "auc" in self.asked

    def judge(self, targets: Targets) -> str:
        """The measure that judges a run on such targets."""
        return self.judged_by or JUDGES[targets]


JUDGES: dict[Targets, str] = {"classes": "accuracy", "labels": "f1", "values": "rmse"}
"""The measure that judges a run by default. Of labels most are absent, so that a model that never says one is almost
always right: accuracy is no judge there."""
