"""Every setting that there is refuses a wrong value and does something: two laws, so that none can join without them.

A setting joins the second with one line in EFFECTS. What counts as a setting of its own: each of a section, and each
that an algorithm or a partition declares itself, by that one's name (`fedprox.mu`); and each algorithm and partition.
"""

import dataclasses
import math
import re
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from fuzzing import end_of
from small_data import has_one_value

from fedray import results
from fedray.__main__ import main
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError
from fedray.experiment import Experiment
from fedray.experiment.composition import compose, override, pydantic_fields, section_class
from fedray.experiment.experiment import CHOSEN, DEFAULT_NAMES
from fedray.run import run
from fedray.run.opening import population
from fedray.run.prepared import Job
from fedray.run.watch import Watch

TINY = {
    "data.dataset": "synthetic", "data.train_examples": 61, "data.test_examples": 40, "rounds": 2, "clients": 3,
    "cohort": 2, "model.name": "logistic", "algorithm.batch_size": 8, "cluster.backend": "in-process",
    "output.name": "tiny",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Change:
    """With this setting `before` and `after`, and others as `given`, what `differs` is not the same.

    That is the "model" to the bit, a column of a table ("rounds.test_loss"), or the "files" that there are during the
    run and after it.
    """

    before: Any
    after: Any
    differs: str
    given: dict[str, Any]
    needs: str


def change(before: Any, after: Any, differs: str = "model", needs: str = "", **given: Any) -> Change:
    """`given` are other settings, with two underscores for a dot; `needs` is a library that may be missing."""
    return Change(before, after, differs, {name.replace("__", "."): value for name, value in given.items()}, needs)


@dataclasses.dataclass(frozen=True)
class Shown:
    """Another test shows what the setting does, since that takes Ray, data on disk or a failure."""

    by: str


def shown(by: str) -> Shown:
    return Shown(by)


ABSENT = None
"""A setting that TINY has and this is to be without."""
LOCAL_RAY = shown("test_a_ray_of_its_own_and_a_population_have_what_the_settings_say")
ADAPTIVE: dict[str, Any] = {"algorithm__server_optimizer": "adam", "algorithm__server_lr": 0.1}
UNEVEN: dict[str, Any] = {"partition__name": "dirichlet", "partition__alpha": 0.3}
MOON: dict[str, Any] = {"model__name": "lenet5", "clients": 2, "algorithm__lr": 0.1}
LENET: dict[str, Any] = {"model__name": "lenet5"}
RESNET: dict[str, Any] = {
    "model__name": "resnet20", "rounds": 1, "clients": 2, "cohort": 1, "data__train_examples": 16,
    "data__test_examples": 10,
}  # fmt: skip
PERSONAL: dict[str, Any] = {"evaluation__clients_every": 1, **UNEVEN}

EFFECTS: dict[str, Change | Shown] = {
    "seed": change(0, 1),
    "rounds": change(1, 2, "rounds.round"),
    "clients": change(3, 4, "population.client"),
    "cohort": change(1, 2, "rounds.cohort_size"),
    "sampling": change("uniform", "size", "clients.client", **UNEVEN | {"clients": 6, "rounds": 3}),
    "blocks": change(1, 2, clients=4, cohort=4, engine="plain"),
    "engine": change("plain", "fused"),
    "chunk_size": change(1, 4, clients=4, cohort=4, blocks=1, engine="fused", model__name="lenet5"),
    "data.dataset": shown("test_auto_is_cifar10_where_it_is_on_disk_and_synthetic_elsewhere"),
    "data.root": shown("test_the_environment_names_the_folder_and_the_setting_goes_before_it"),
    "data.augment": change("none", "crop-flip"),
    "data.cutout": change(4, 24, data__augment="cutout"),
    "data.holdout_examples": shown("test_without_test_files_training_examples_are_held_out_for_it"),
    "data.image_column": shown("test_columns_are_found_or_named"),
    "data.label_column": shown("test_columns_are_found_or_named"),
    "data.user_column": shown("test_users_are_numbered_in_the_order_of_their_names_and_stay_with_their_examples"),
    "data.image_size": shown("test_sizes_are_equal_or_made_so"),
    "data.input_columns": shown("test_columns_of_a_table_are_those_named_or_all_numbers"),
    "data.target_bins": shown("test_partitions_and_tables_go_by_bins_of_real_targets"),
    "data.train_examples": change(60, 90, "population.num_examples"),
    "data.test_examples": change(40, 50, "rounds.test_loss"),
    "data.validation_examples": change(0, 10, "rounds.validation_loss"),
    "partition.name = contiguous": change("iid", "contiguous", "partitions.count"),
    "partition.name = dirichlet": change("iid", "dirichlet", "partitions.count"),
    "partition.name = classes_per_client": change("iid", "classes_per_client", "partitions.count", clients=10, data__train_examples=200),
    "partition.name = sampled": change("iid", "sampled", "partitions.count"),
    "partition.name = shards": change("iid", "shards", "partitions.count"),
    "partition.name = quantity_skew": change("iid", "quantity_skew", "population.num_examples"),
    "partition.name = natural": shown("test_a_client_holds_the_examples_of_its_user"),
    "dirichlet.alpha": change(0.1, 10.0, "partitions.count"),
    "dirichlet.min_size": change(1, 18, "population.num_examples", partition__alpha=0.05),
    "dirichlet.balanced": change(False, True, "population.num_examples", partition__alpha=0.1),
    "classes_per_client.classes": change(2, 3, "partitions.count", clients=10, data__train_examples=400),
    "sampled.examples": change(20, 30, "population.num_examples"),
    "shards.shards_per_client": change(1, 3, "partitions.count"),
    "quantity_skew.distribution": change("lognormal", "power_law", "population.num_examples"),
    "quantity_skew.sigma": change(0.1, 2, "population.num_examples"),
    "quantity_skew.exponent": change(0.1, 2, "population.num_examples", partition__distribution="power_law"),
    "quantity_skew.min_size": change(1, 18, "population.num_examples"),
    "natural.min_size": shown("test_users_with_too_few_examples_are_left_out"),
    "skew.noise": change(0, 0.1),
    "skew.rotation": change(0, 90),
    "skew.colour": change(0, 0.5),
    "model.name": change("logistic", "lenet5", "runs.num_params"),
    "model.precision": change("float32", "bfloat16", engine="plain"),
    "model.channels_last": change(False, True, model__name="cnn", rounds=1, data__train_examples=20),
    "model.projection": change(0, 8, "runs.num_params", engine="plain"),
    "model.pretrained": shown("test_a_frozen_pretrained_resnet18_sends_its_last_layer_and_is_saved_whole"),
    "model.freeze": shown("test_a_frozen_pretrained_resnet18_sends_its_last_layer_and_is_saved_whole"),
    "model.norm": change("own", "group", "runs.num_buffers", **RESNET),
    "model.groups": change(2, 4, model__norm="group", **RESNET),
    "model.stem": change("own", "cifar", "runs.num_params", **{**RESNET, "model__name": "resnet18"}),
    "model.resize": change(0, 40, **RESNET),
    "model.aux_weight": change(0, 0.3, "runs.num_params", **{**RESNET, "model__name": "googlenet"}),
    "model.init": shown("test_a_run_is_known_by_the_files_content_and_not_by_its_place"),
    "model.trainable": shown("test_both_engines_train_a_part_alike"),
    "model.lr_scale": change("1.bias=0", "1.bias=2"),
    "model.lora_rank": shown("test_adapters_alone_are_trained_and_sent_and_the_rest_never_changes"),
    "model.lora_alpha": shown("test_the_first_step_of_an_adapter_by_hand"),
    "model.lora_layers": shown("test_what_patterns_name_is_trained_and_no_more"),
    "algorithm.name = fedsgd": change("fedavg", "fedsgd", "clients.steps", algorithm__batch_size=ABSENT, data__train_examples=120),
    "algorithm.name = fedavgm": change("fedavg", "fedavgm"),
    "loss.name": shown("test_the_fused_engine_trains_as_the_plain_one"),
    "loss.delta": shown("test_the_fused_engine_trains_as_the_plain_one"),
    "loss.class_weights": change("none", "balanced"),
    "data.sampling": change("shuffle", "balanced"),
    "algorithm.name = fedprox": change("fedavg", "fedprox"),
    "algorithm.name = scaffold": change("fedavg", "scaffold"),
    "algorithm.name = fednova": change("fedavg", "fednova", **UNEVEN),
    "algorithm.name = feddyn": change("fedavg", "feddyn"),
    "algorithm.name = fedadagrad": change("fedavg", "fedadagrad"),
    "algorithm.name = fedadam": change("fedavg", "fedadam"),
    "algorithm.name = fedyogi": change("fedavg", "fedyogi"),
    "algorithm.name = moon": change("fedavg", "moon", **MOON),
    "algorithm.name = local": change("fedavg", "local", "rounds.bytes_up"),
    "algorithm.name = finetune": change("fedavg", "finetune", "evaluations.test_loss", **PERSONAL),
    "algorithm.name = fedbn": change("fedavg", "fedbn", "rounds.bytes_up", **RESNET),
    "algorithm.name = fedper": change("fedavg", "fedper", "rounds.bytes_up", model__name="mlp"),
    "algorithm.name = ditto": change("fedavg", "ditto", "evaluations.test_loss", **PERSONAL),
    "algorithm.lr": change(0.05, 0.1),
    "algorithm.lr_schedule": change("constant", "cosine"),
    "algorithm.lr_decay": change(0.5, 0.9, algorithm__lr_schedule="exponential"),
    "algorithm.lr_decay_every": change(1, 2, algorithm__lr_schedule="step"),
    "algorithm.epochs": change(1, 2, "clients.steps"),
    "algorithm.steps": change("none", 5, "clients.steps"),
    "algorithm.batch_size": change(8, 10, "clients.steps"),
    "algorithm.drop_last": change(False, True, "clients.steps"),
    "algorithm.momentum": change(0, 0.9),
    "algorithm.weight_decay": change(0, 0.1),
    "algorithm.optimizer": change("sgd", "adam", engine="plain"),
    "algorithm.optimizer_options": change("betas=(0.9, 0.99)", "betas=(0.5, 0.9)", engine="plain", algorithm__optimizer="adam"),
    "algorithm.epochs_min": change("none", 1, "clients.steps", algorithm__epochs=5),
    "algorithm.steps_min": change("none", 1, "clients.steps", algorithm__steps=9),
    "algorithm.clip_norm": change("none", 0.01),
    "algorithm.label_smoothing": change(0, 0.1),
    "algorithm.norms": change("averaged", "local", "rounds.bytes_up", **RESNET),
    "algorithm.weighting": change("num_examples", "uniform", **UNEVEN),
    "algorithm.server_lr": change(1, 0.5),
    "algorithm.server_optimizer": change("sgd", "yogi"),
    "algorithm.server_momentum": change(0, 0.9),
    "algorithm.server_nesterov": change(False, True, algorithm__server_momentum=0.9),
    "algorithm.server_beta1": change(0.9, 0.5, **ADAPTIVE),
    "algorithm.server_beta2": change(0.99, 0.5, **ADAPTIVE),
    "algorithm.server_tau": change(1e-3, 1e-1, **ADAPTIVE),
    "fedavgm.server_momentum": change(0.9, 0.5),
    "fedprox.mu": change(0.01, 1),
    "scaffold.option": change("I", "II"),
    "scaffold.weighting": change("num_examples", "uniform", **UNEVEN),
    "fednova.mu": change(0, 1),
    "fednova.weighting": change("num_examples", "uniform", **UNEVEN),
    "feddyn.alpha": change(0.01, 1),
    "feddyn.weighting": change("num_examples", "uniform", **UNEVEN),
    "fedadagrad.server_lr": change(0.1, 0.2),
    "fedadagrad.server_beta1": change(0, 0.5),
    "fedadam.server_lr": change(0.01, 0.1),
    "fedyogi.server_lr": change(0.01, 0.1),
    "moon.mu": change(0.1, 10, **MOON),
    "moon.tau": change(0.1, 10, **MOON),
    "finetune.fine_tune_epochs": change(1, 3, "evaluations.test_loss", **PERSONAL),
    "fedper.personal_layers": change("last", "3.*,5.*", "rounds.bytes_up", model__name="mlp"),
    "ditto.lam": change(0, 1, "evaluations.test_loss", **PERSONAL),
    "ditto.personal_epochs": change(1, 3, "evaluations.test_loss", **PERSONAL),
    "evaluation.every": change(1, 2, "rounds.test_loss"),
    "evaluation.target_accuracy": change("none", 1e-9, "runs.status"),
    "evaluation.patience": change("none", 1, "runs.status", algorithm__lr=1e-9, rounds=3),
    "evaluation.clients_every": change(1, 2, "evaluations.round"),
    "evaluation.client_examples": change(10, 12, "evaluations.test_examples", evaluation__clients_every=1),
    "evaluation.metrics": change("none", "auc", "rounds.test_auc"),
    "evaluation.own_metric": shown("test_a_metric_of_ones_own_is_in_both_tables_and_judges"),
    "evaluation.judged_by": change("accuracy", "loss", "runs.judged_by"),
    "evaluation.target": change("none", 1e-9, "runs.status"),
    "evaluation.client_holdout": change(0.2, 0.5, "evaluations.test_examples"),
    "evaluation.unseen_clients": change(0, 1, "rounds.unseen_loss"),
    "evaluation.top_k": change("none", 3, "rounds.test_top_k_accuracy"),
    "faults.dropout": change(0, 1, "rounds.dropouts"),
    "faults.over_selection": change(0, 1, "rounds.surplus"),
    "faults.lost": shown("test_by_setting_the_clients_of_a_lost_actor_are_left_out_and_the_others_weigh_more"),
    "faults.min_survivors": shown("test_with_too_few_survivors_a_round_is_repeated_and_then_the_run_stops"),
    "faults.non_finite": shown("test_what_is_not_finite_stops_the_run_or_only_that_update"),
    "cluster.backend": shown("test_nothing_is_left_of_ray_after_kill_9_and_the_run_goes_on_elsewhere"),
    "cluster.address": shown("test_an_existing_cluster_is_joined_when_asked_for_used_on_every_node_and_left_running"),
    "cluster.clients_per_actor": LOCAL_RAY,
    "cluster.cpus": LOCAL_RAY,
    "cluster.gpus": LOCAL_RAY,
    "cluster.cpus_per_actor": LOCAL_RAY,
    "cluster.gpus_per_client": LOCAL_RAY,
    "cluster.gpu_memory": LOCAL_RAY,
    "cluster.forked": LOCAL_RAY,
    "cluster.object_store": LOCAL_RAY,
    "cluster.start_timeout": LOCAL_RAY,
    "cluster.deadline_factor": LOCAL_RAY,
    "cluster.deadline_seconds": LOCAL_RAY,
    "output.root": change("results", "elsewhere", "files"),
    "output.name": change("tiny", "other", "files"),
    "output.checkpoint_every": change(1, 9, "files"),
    "output.save_model": change(True, False, "files"),
    "output.save_best": shown("test_where_there_is_a_validation_split_it_is_best_by_that"),
    "output.keep_checkpoint": change(False, True, "files"),
    "output.flush_seconds": shown("test_parquet_waits_for_flush_seconds_but_load_does_not"),
    "output.client_output": shown("test_what_actors_on_other_nodes_print_is_waited_for"),
    "output.tensorboard": change(False, True, "files", needs="tensorboard"),
    "output.wandb": change("", "fedray", "files", needs="wandb"),
}  # fmt: skip

BAD_TEXTS = {
    "model.init": "weights.npz", "model.trainable": "a,,b", "model.lr_scale": "fc.*", "model.lora_layers": "fc",
    "output.name": "a/b", "output.wandb": "a/b", "cluster.address": "nowhere at all",
}  # fmt: skip
"""Of settings that are text, some that is wrong; any other is a text like any."""


@cache
def every_setting() -> dict[str, tuple[str, str, Any]]:
    """By its key in EFFECTS each setting's dotted name, the choice that it is of (empty: the default one), its field."""
    found: dict[str, tuple[str, str, Any]] = {}
    for name, field in pydantic_fields(Experiment).items():
        kind = section_class(name, {})
        if kind is None:
            found[name] = name, "", field
        for choice, own in CHOSEN.get(name, {"": kind} if kind else {}).items():
            chosen = "" if choice == DEFAULT_NAMES.get(name, "") else choice
            for key, inner in pydantic_fields(own).items():
                if not chosen or key in vars(own).get("__annotations__", {}):
                    found[f"{chosen or name}.{key}"] = f"{name}.{key}", chosen, inner
    return found


def keys_of_effects() -> list[str]:
    """The settings that have more than one value, and the algorithms and partitions."""
    names = [f"{name}.name = {choice}" for name in CHOSEN for choice in CHOSEN[name] if choice != DEFAULT_NAMES[name]]
    return names + [key for key, (_, _, field) in every_setting().items() if not has_one_value(field.annotation)]


# What a wrong value is.


def wrong_values(key: str, field: Any) -> list[Any]:
    """Values that are none of the setting's, by its type and its limits."""
    optional = get_origin(field.annotation) in (Union, UnionType)
    kinds = [
        each for each in (get_args(field.annotation) if optional else [field.annotation]) if each is not type(None)
    ]
    kind = kinds[0] if kinds else None
    wrong: list[Any] = [[1]]
    if kind is None or get_origin(kind) is Literal:
        wrong += ["nonesuch", 12345]
    elif kind is bool:
        wrong += ["maybe", 2]
    elif kind is str:
        wrong += [3, True, *([BAD_TEXTS[key]] if key in BAD_TEXTS else [])]
    else:
        wrong += ["many", "", True, math.nan, math.inf, "0x10"]
        wrong += [1.5, 2**31 if key != "seed" else 2**63] if kind is int else []
        wrong += [word for word in ("auto", "none") if field.default is not None or not is_absence(field, word)]
        for limit in field.metadata:
            match type(limit).__name__:
                case "Ge":
                    wrong += [limit.ge - 1, -1e300]
                case "Gt":
                    wrong += [limit.gt, limit.gt - 1]
                case "Le":
                    wrong += [limit.le + 1]
                case "Lt":
                    wrong += [limit.lt]
    return wrong


def is_absence(field: Any, word: str) -> bool:
    """Whether this word is how the setting is written where it has no value."""
    validators = [m.func for m in field.metadata if type(m).__name__ == "BeforeValidator"]
    return any(validator(word) is None for validator in validators)


def tree_of(name: str, choice: str, value: Any) -> dict[str, Any]:
    """Nested settings with this one."""
    section, _, key = name.rpartition(".")
    return {section: {**({"name": choice} if choice else {}), key: value}} if section else {key: value}


@pytest.mark.parametrize("key", every_setting())
def test_a_wrong_value_is_one_sentence_that_names_its_setting(key, tmp_path, monkeypatch):
    """In a file or from Python each of them, on the command line the first that a word can say; nothing is on disk."""
    monkeypatch.chdir(tmp_path)
    name, choice, field = every_setting()[key]
    said = False
    for value in wrong_values(key, field):
        with pytest.raises(BadInputError) as error:
            compose(tree_of(name, choice, value))
        assert name in str(error.value), (value, str(error.value))
        assert "\n" not in str(error.value)
        if isinstance(value, str if field.annotation is str else str | int | float) and not said:
            said = True
            words = [f"--{name.partition('.')[0]}.name={choice}"] if choice else []
            end = end_of(main, "--cluster.backend=in-process", *words, f"--{name}={value}")
            assert end.status == 2, value
            assert name in end.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("section", CHOSEN)
def test_a_name_that_is_none_is_refused_with_the_nearest(section):
    for value, hint in (
        ("nonesuch", ""),
        (DEFAULT_NAMES[section] + "x", f"did you mean {DEFAULT_NAMES[section]}?"),
        (3, ""),
        ([], ""),
    ):
        with pytest.raises(BadInputError, match=re.escape(f"{section}.name = {value!r} is not one of ")) as error:
            compose({section: {"name": value}})
        assert hint in str(error.value)


# What a setting does.


class Looking(Watch):
    """Keeps what there is on disk after each round."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def look(self) -> None:
        # Names of other files than tables have a time in them.
        self.files |= {
            str(path.with_suffix("") if path.suffix == ".parquet" else path.parent) for path in Path().rglob("*.*")
        }

    def round(self, job: Any, row: Any) -> None:
        self.look()


@dataclasses.dataclass(frozen=True)
class Outcome:
    tables: results.Results
    files: list[str]

    def of(self, what: str) -> Any:
        """What a Change says `differs`."""
        if what == "files":
            return self.files
        table, _, column = ("runs.model_fingerprint" if what == "model" else what).partition(".")
        return getattr(self.tables, table)[column].astype(object).where(lambda values: values.notna(), None).tolist()


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory):
    """Plays an experiment of these settings, once, in a folder of its own."""
    known: dict[str, Outcome] = {}

    def play(settings: dict[str, Any]) -> Outcome:
        tree: dict[str, Any] = {}
        override(tree, {name: value for name, value in settings.items() if value is not ABSENT})
        experiment = compose(tree)
        key = repr(experiment.settings())  # what is the default needs not be said
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("run"))
                patch.setenv("WANDB_MODE", "offline")
                watch = Looking()
                tables = run(experiment, watch)
                watch.look()
                known[key] = Outcome(tables, sorted(watch.files))
        return known[key]

    return play


@pytest.mark.parametrize("key", keys_of_effects())
def test_every_setting_does_something(key, outcome_of):
    if key not in EFFECTS:
        pytest.fail(
            f"{key} has no line in EFFECTS: add one that names two values of it and what comes out differently, "
            f'"{key}": change(before, after, "rounds.test_loss")'
        )
    effect = EFFECTS[key]
    if isinstance(effect, Shown):
        defined = re.compile(rf"^def {effect.by}\(", re.MULTILINE)
        assert any(defined.search(path.read_text()) for path in Path(__file__).parents[1].rglob("test_*.py")), effect.by
        return
    if effect.needs:
        pytest.importorskip(effect.needs, reason="it is an extra, which `pip install -e '.[dev]'` installs")
    name, choice = key.partition(" = ")[0], ""
    if key in every_setting():
        name, choice, _ = every_setting()[key]
    given = {**TINY, **effect.given, **({f"{name.partition('.')[0]}.name": choice} if choice else {})}
    before, after = (outcome_of({**given, name: value}) for value in (effect.before, effect.after))
    assert before.of(effect.differs), "nothing to compare"
    assert before.of(effect.differs) != after.of(effect.differs)


def test_no_effect_is_listed_of_what_is_no_setting():
    assert set(EFFECTS) - set(keys_of_effects()) == set()


def test_a_ray_of_its_own_and_a_population_have_what_the_settings_say(tmp_path, monkeypatch):
    """Each differs from its default here."""
    import ray

    from fedray.cluster.start import connected
    from fedray.cluster.tickets import Patience

    monkeypatch.chdir(tmp_path)
    own = Cluster(
        cpus=3, gpus=2, object_store=90, start_timeout=77.0, forked=False, clients_per_actor=2, cpus_per_actor=0.5,
        gpus_per_client=0.25, gpu_memory=9000, deadline_factor=7.0, deadline_seconds=8.0,
    )  # fmt: skip
    assert all(
        value != getattr(Cluster(), name) for name, value in vars(own).items() if name not in ("backend", "address")
    )
    tree: dict[str, Any] = {}
    override(tree, {**TINY, "clients": 4})
    job = Job(dataclasses.replace(compose(tree), cluster=own))
    with connected(own) as session:
        has = ray.cluster_resources()
        assert (has["CPU"], has["GPU"], has["object_store_memory"]) == (3, 2, 90 * 2**20)
        assert session.pool.start_timeout == 77
        assert session.pool.nursery is None
        with population(job, session, print) as (clients, where, _):
            assert where.startswith("2 Ray actors, 4 clients packed into them, 0.5 CPU and 0.5 GPU (4500 MiB) each")
            assert clients.traffic.patience == Patience(7.0, 8.0)
            rows = clients.rows()
            assert len(set(rows["actor"])) == 2
            assert set(rows["num_cpus"]) == set(rows["num_gpus"]) == {0.25}  # a client's part
