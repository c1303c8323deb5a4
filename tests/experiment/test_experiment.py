"""Settings: one definition for files, command lines and help; run ids; each thing that can be wrong with them."""

import dataclasses
from pathlib import Path

import pytest
from small_data import has_one_value

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import options, read_command_line
from fedray.core.errors import BadInputError
from fedray.data import Data
from fedray.data.partitions import PARTITIONS
from fedray.experiment import Experiment, read_experiment
from fedray.experiment.composition import all_settings, compose
from fedray.experiment.experiment import CHOSEN
from fedray.models.model import Model

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").rglob("*.toml"))


def parse(*argv):
    return compose(read_command_line(argv, "fedray", "").tree)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("rounds = 7\n[algorithm]\nlr = 0.3\n[partition]\nname = 'dirichlet'\nalpha = 0.2\n")
    return path


def test_the_command_line_overrides_the_file_in_any_order(file):
    for argv in ((file, "--rounds", "9", "--algorithm.lr=0.1"), ("--algorithm.lr", "0.1", file, "--rounds", "9")):
        e = parse(*map(str, argv))
        assert (e.rounds, e.algorithm.lr, e.partition.alpha, e.output.name) == (9, 0.1, 0.2, "mine")


def test_a_file_and_python_and_the_command_line_mean_the_same(file):
    by_file = read_experiment(file, {"seed": 4})
    assert by_file == parse(str(file), "--seed", "4")
    assert by_file == dataclasses.replace(read_experiment(file), seed=4)


def test_the_name_on_the_command_line_chooses_the_class(file):
    assert parse(str(file), "--partition.name", "dirichlet", "--partition.alpha", "3").partition.alpha == 3
    assert parse("--partition.name", "contiguous").partition.name == "contiguous"


def test_another_choice_takes_the_place_of_the_files_whole(file):
    """The file's alpha belongs to its dirichlet partition, and goes with it."""
    assert parse(str(file), "--partition.name", "iid").partition.name == "iid"
    assert parse(str(file), "--partition.alpha", "3", "--partition.name", "dirichlet").partition.alpha == 3
    with pytest.raises(BadInputError, match="partition.alpha is a setting of partition.name = dirichlet"):
        parse(str(file), "--partition.alpha", "3", "--partition.name", "iid")


def test_a_number_that_is_fixed_may_be_said_on_the_command_line():
    fedsgd = parse("--algorithm.name", "fedsgd", "--algorithm.batch_size", "0", "--algorithm.epochs", "1").algorithm
    assert (fedsgd.batch_size, fedsgd.epochs, fedsgd.steps) == (0, 1, None)


def test_a_misspelt_setting_is_refused_whatever_is_chosen_over_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[partition]\nname = 'dirichlet'\nalfa = 3\nalpha = 0.1\n")
    for name in ("dirichlet", "iid"):
        with pytest.raises(BadInputError, match=r"unknown setting 'partition.alfa'"):
            parse(str(path), "--partition.name", name)


def test_switches_auto_and_none():
    assert parse("--algorithm.drop_last", "true").algorithm.drop_last is True
    assert parse("--output.save_model", "false").output.save_model is False
    assert parse("--cluster.clients_per_actor", "auto").cluster.clients_per_actor is None
    assert parse("--algorithm.steps", "none").algorithm.steps is None
    assert parse("--algorithm.steps", "5").algorithm.steps == 5


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--algorithm.lrr", "1"], ["algorithm.lrr", "did you mean algorithm.lr?"]),
        (["--lr", "1"], ["unknown setting 'lr'", "did you mean algorithm.lr?"]),
        (["--algoritm.lr", "1"], ["algoritm.lr", "algorithm.lr"]),
        (["--algorithm.lr", "-1"], ["algorithm.lr", "-1", "greater than 0"]),
        (["--algorithm.lr", "fast"], ["algorithm.lr", "'fast'", "number"]),
        (["--algorithm.lr", "nan"], ["algorithm.lr", "finite"]),
        (["--algorithm.momentum", "1"], ["algorithm.momentum", "less than 1"]),
        (["--rounds", "0"], ["rounds", "greater than or equal to 1"]),
        (["--rounds", "2.5"], ["rounds", "2.5", "integer"]),
        (["--rounds"], ["rounds", "expected one argument"]),
        (["--model.name", "lenet"], ["model.name", "'lenet'", "did you mean lenet5?"]),
        (["--algorithm.norms", "own"], ["algorithm.norms = 'own'", "'averaged'", "'local'"]),
        (["--algorithm.name", "fedavgg"], ["algorithm.name", "'fedavgg'", "did you mean fedavg?"]),
        (
            ["--partition.alpha", "1"],
            ["partition.alpha", "is a setting of partition.name = dirichlet, not of the one that was chosen"],
        ),
        (["--algorithm.mu", "1"], ["algorithm.mu is a setting of algorithm.name = fedprox, fednova, moon"]),
        (["--algorithm.name", "fedsgd", "--algorithm.batch_size", "8"], ["algorithm.batch_size = 8 must be 0"]),
        (["--partition.name", "dirichlet", "--partition.alpha", "0"], ["partition.alpha", "greater than 0"]),
        (["--cohort", "11"], ["cohort = 11", "clients = 10"]),
        (["--output.name", "a/b"], ["a/b", "folder name"]),
        (["nowhere.toml"], ["no settings file nowhere.toml"]),
        (["a.toml", "b.toml"], ["one settings file"]),
        (["--rounds", "3000000000"], ["rounds = 3000000000", "larger than"]),
        (["--algorithm.batch_size", "3000000000"], ["algorithm.batch_size = 3000000000", "larger than"]),
        (["--algorithm.lr", "1e39"], ["algorithm.lr", "less than or equal to 1000000"]),
        (["--output.name", "a" * 101], ["at most 100"]),
        (["--algorithm.drop_last", "maybe"], ["algorithm.drop_last = 'maybe'", "boolean"]),
        (["--sampling", "sizes"], ["sampling = 'sizes'", "did you mean size?"]),
        (["--evaluation.top_k", "0"], ["evaluation.top_k", "greater than or equal to 1"]),
        (["--evaluation.top_k", "3", "--algorithm.name", "fedper"], ["evaluation.top_k = 3", "fedper has none"]),
        (["--output.save_best", "maybe"], ["output.save_best = 'maybe'", "boolean"]),
        (["--seed", "-1"], ["seed = '-1'", "greater than or equal to 0"]),
        (["--algorithm.lr_schedule", "linear"], ["algorithm.lr_schedule = 'linear'", "cosine"]),
        (["--algorithm.lr_decay", "1.1"], ["algorithm.lr_decay = '1.1'", "less than or equal to 1"]),
        (["--algorithm.lr_decay_every", "0"], ["algorithm.lr_decay_every = '0'", "greater than or equal to 1"]),
        (["--model.precision", "float16"], ["model.precision = 'float16'", "bfloat16"]),
        (["--model.channels_last", "maybe"], ["model.channels_last = 'maybe'", "boolean"]),
        (["--algorithm.epochs_min", "0"], ["algorithm.epochs_min = '0'", "greater than or equal to 1"]),
        (["--algorithm.epochs_min", "2"], ["algorithm.epochs_min = 2 is more than algorithm.epochs = 1"]),
        (["--algorithm.steps_min", "0"], ["algorithm.steps_min = '0'", "greater than or equal to 1"]),
        (["--algorithm.steps_min", "2"], ["algorithm.steps_min = 2 needs algorithm.steps"]),
        (["--algorithm.clip_norm", "0"], ["algorithm.clip_norm = '0'", "greater than 0"]),
        (["--algorithm.label_smoothing", "1"], ["algorithm.label_smoothing = '1'", "less than 1"]),
        (["--algorithm.optimizer_options", "beta"], ["algorithm.optimizer_options = 'beta'", "keyword arguments"]),
        (["--algorithm.optimizer", "adam", "--algorithm.momentum", "0.9"], ["algorithm.momentum = 0.9 is for"]),
        (
            ["--algorithm.optimizer", "adafactor", "--engine", "fused", "--model.name", "mlp"],
            ["engine = fused cannot train fedavg, whose optimizer, torch's adafactor, needs one client at a time"],
        ),
        (["--data.augment", "cut-out"], ["data.augment = 'cut-out'", "did you mean cutout?"]),
        (["--data.cutout", "0", "--data.augment", "cutout"], ["data.cutout = '0'", "greater than or equal to 1"]),
        (["--data.cutout", "8"], ["data.cutout = 8 is for data.augment = cutout and crop-flip-cutout, not none"]),
        (["--evaluation.target_accuracy", "55"], ["evaluation.target_accuracy", "less than or equal to 1"]),
        (["--cluster.clients_per_actor", "0"], ["cluster.clients_per_actor", "greater than or equal to 1"]),
        (["--engine", "fusd"], ["engine = 'fusd'", "did you mean fused?"]),
        (["--chunk_size", "5", "--model.name", "lenet5"], ["chunk_size = 5 is for engine = fused, and this is plain"]),
        (["--chunk_size", "0"], ["chunk_size", "greater than or equal to 1"]),
    ],
)
def test_a_wrong_setting_is_one_sentence(argv, parts):
    with pytest.raises(BadInputError) as error:
        parse(*argv)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rounds = ", ["mine.toml", "not TOML"]),
        ("[algorithm]\nlearning_rate = 1", ["unknown setting 'algorithm.learning_rate'"]),
        ("[algoritm]\nlr = 1", ["'algoritm'", "did you mean algorithm?"]),
        ("algorithm = 3", ["algorithm is a section"]),
        ("rounds = 'many'", ["rounds = 'many'", "integer"]),
        ("output = 3", ["output is a section"]),
        ("[algorithm]\nname = 3", ["algorithm.name = 3", "fedavg"]),
        ("[algorithm]\nname = ['fedavg']", ["algorithm.name = ['fedavg']"]),
        ("[partition.name]\nx = 1", ["partition.name = {'x': 1}"]),
        ("rounds = true", ["rounds = true", "number"]),
        ("[algorithm]\nlr = true", ["algorithm.lr = true", "number"]),
        ("[algorithm.lr]\nx = 1", ["algorithm.lr = {'x': 1}", "number"]),
        ("rounds = [1]", ["rounds = [1]", "integer"]),
        ("grid = 3", ["[grid]", "table"]),
        ("rounds = 0\n[algorithm]\nlr = -1\nx = 2", ["algorithm.lr", "algorithm.x"]),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, parts):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadInputError) as error:
        parse(str(tmp_path / "mine.toml"))
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_target_needs_somebody_who_is_evaluated():
    tree = {"algorithm": {"name": "local"}, "evaluation": {"clients_every": 0, "patience": 2}}
    with pytest.raises(BadInputError, match="local has no global model, .*clients_every = 0 does not evaluate"):
        compose(tree)
    compose({**tree, "algorithm": {"name": "ditto"}})
    compose({**tree, "evaluation": {"patience": 2}})


def test_from_python_too():
    with pytest.raises(BadInputError, match="larger than the population"):
        read_experiment(EXPERIMENTS[0], {"cohort": 10**6})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Experiment(rounds=0)


def test_everything_but_cluster_and_output_is_in_the_run_id():
    """Structural: every setting outside the two sections changes the id, none inside them does."""
    base = Experiment(blocks=1)
    networks = {  # what is only for some of them is compared on one of those
        **dict.fromkeys(("model.pretrained", "model.norm", "model.stem"), "resnet18"),
        "model.aux_weight": "googlenet",
        "chunk_size": "logistic",
        **dict.fromkeys(("model.freeze", "model.trainable", "model.lora_rank"), "mine:net"),
    }
    others = {
        "model.trainable": "fc.*", "model.lr_scale": "fc.*=2", "model.freeze": "backbone", "model.norm": "group", "model.stem": "cifar",
        "data.root": None, "data.dataset": "synthetic", "data.augment": "crop-flip", "model.name": "cnn", "model.precision": "bfloat16", "model.channels_last": True,
        "blocks": 2, "engine": "plain", "sampling": "size", "evaluation.target_accuracy": 0.5, "faults.over_selection": 2, "faults.min_survivors": 2,
        "faults.lost": "drop", "faults.non_finite": "reject", "cluster.backend": "in-process", "cluster.address": "auto", "cluster.forked": False,
        "data.sampling": "balanced", "loss.name": "huber", "loss.class_weights": "balanced",
        "evaluation.metrics": "auc", "evaluation.own_metric": "mine:metric", "evaluation.judged_by": "loss", "evaluation.target": 0.5,
        "evaluation.client_holdout": 0.1, "evaluation.unseen_clients": 1,
    }  # fmt: skip
    for name, (_, field) in options().items():
        if name in (
            "data.root",
            "data.cutout",
            "model.groups",
            "loss.delta",
            "data.input_columns",
            *OF_TRANSFER,
            *OF_PARQUET,
        ) or name.startswith(("algorithm.", "aggregator.", "partition.")):
            continue
        model = networks.get(name, "lenet5")
        changed = base_with(name, others[name] if name in others else another(field), model)
        same = changed.run_id("f") == base_with("blocks", 1, model).run_id("f")
        assert same == name.startswith(("cluster.", "output.")), name
    assert base.run_id("f") != base.run_id("g")
    cut = [compose({"blocks": 1, "data": {"augment": "cutout", "cutout": side}}).run_id("f") for side in (8, 16)]
    grouped = {"name": "resnet18", "norm": "group"}
    cut += [compose({"blocks": 1, "model": {**grouped, "groups": groups}}).run_id("f") for groups in (2, 4)]
    cut += [compose({"blocks": 1, "loss": {"name": "huber", "delta": delta}}).run_id("f") for delta in (1, 2)]
    assert len({base.run_id("f"), *cut}) == 7
    assert base.run_id("f") != base.run_id("f", "the file of a function, or weights")


OF_TRANSFER = {"model.init": "a.pt", "model.lora_alpha": 2, "model.lora_layers": "fc"}


def test_settings_of_adapters_are_in_the_run_id_and_a_file_is_by_its_content():
    adapted = {"name": "mine:net", "lora_rank": 2}
    others = [{name.partition(".")[2]: value} for name, value in OF_TRANSFER.items()]
    runs = [compose({"model": {**adapted, **given}}) for given in [{}, *others]]
    assert len({each.run_id("f") for each in runs}) == 4
    moved = compose({"model": {**adapted, "init": "elsewhere/b.pt"}})
    assert moved.run_id("f", "+content") == runs[1].run_id("f", "+content") != moved.run_id("f", "+other")


OF_PARQUET = {
    "data.image_column": "a",
    "data.label_column": "b",
    "data.user_column": "c",
    "data.image_size": 8,
    "data.holdout_examples": 5,
}


def test_every_setting_of_a_folder_of_parquet_is_in_the_run_id():
    settings = [{}, *({name.partition(".")[2]: value} for name, value in OF_PARQUET.items())]
    runs = [compose({"blocks": 1, "data": {"dataset": "parquet", **given}}).run_id("f") for given in settings]
    assert len(set(runs)) == len(runs)


def test_every_setting_of_every_algorithm_and_partition_is_in_the_run_id():
    others = {
        "algorithm.lr_schedule": "cosine", "algorithm.weighting": "uniform", "algorithm.server_optimizer": "yogi",
        "algorithm.option": "I", "partition.distribution": "power_law",
        "algorithm.epochs_min": 1, "algorithm.norms": "local", "algorithm.steps_min": 1,
        "algorithm.optimizer_options": "nesterov=True",
    }  # fmt: skip
    beside = {"algorithm.server_nesterov": {"server_momentum": 0.9}, "algorithm.steps_min": {"steps": 2}}
    ids = set()
    for section, classes in CHOSEN.items():
        for choice in classes:
            ids.add(base := compose({section: {"name": choice}}).run_id("f"))
            for name, field in all_settings({section: {"name": choice}}):
                if not name.startswith(f"{section}.") or field is None or has_one_value(field.annotation):
                    continue
                if choice in ("fedadagrad", "fedadam", "fedyogi") and name in FOR_SGD:
                    continue
                if choice in ("scaffold", "fednova") and name.startswith("algorithm.optimizer"):
                    continue
                tree = {section: {"name": choice, **beside.get(name, {})}}
                without = compose(tree).run_id("f")
                tree[section][name.partition(".")[2]] = others.get(name) or another(field)
                assert compose(tree).run_id("f") not in (base, without), (choice, name)
    assert len(ids) == len(ALGORITHMS) + len(PARTITIONS) - 1  # the defaults of both are one experiment


FOR_SGD = ("algorithm.server_momentum", "algorithm.server_nesterov")


def base_with(name, value, model="lenet5"):
    *section, key = name.split(".")
    tree = {"blocks": 1, "model": {"name": model}}
    (tree.setdefault(section[0], {}) if section else tree)[key] = value
    return compose(tree)


def another(field):
    """A valid value that is not the default."""
    if field.annotation is bool:
        return not field.default
    if isinstance(field.default, float):
        return field.default * 0.7 + 0.013
    if isinstance(field.default, str):
        return "other"
    return (field.default or 99) + 1


def test_resolving_leaves_nothing_automatic_in_the_run_id(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDRAY_DATA", str(tmp_path))
    resolved = Experiment(cohort=10, clients=40).resolved()
    assert resolved.data.dataset == "synthetic"
    assert (resolved.blocks, resolved.engine) == (16, "plain")
    fused = {"clients": 10**4, "model": Model(name="logistic"), "data": Data(dataset="synthetic")}
    assert [Experiment(cohort=m, **fused).resolved().blocks for m in (10, 50, 100, 1000)] == [2, 2, 4, 16]


class OneByOne(FedAvg):
    fusable = False


def test_the_engine_follows_from_the_model_and_the_algorithm_unless_it_is_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDRAY_DATA", str(tmp_path))

    def engine(model, **settings):
        return Experiment(model=Model(name=model), **settings).resolved().engine

    models = {name: engine(name) for name in ("lenet5", "cnn", "logistic", "mlp", "resnet18")}
    assert [name for name, chosen in models.items() if chosen == "fused"] == ["logistic", "mlp"]
    assert engine("logistic", engine="plain") == "plain"
    assert engine("logistic", algorithm=OneByOne()) == "plain"
    assert Experiment(model=Model(name="mlp", precision="bfloat16")).resolved().engine == "plain"
    assert Experiment(model=Model(name="mlp", precision="tf32")).resolved().engine == "fused"
    with pytest.raises(ValueError, match=r"engine = fused cannot train test_experiment.OneByOne"):
        Experiment(model=Model(name="mlp"), algorithm=OneByOne(), engine="fused")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_that_ships_is_valid(path):
    assert parse(str(path)).output.name == path.stem
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?")  # its question


def test_help_explains_every_setting_with_default_and_range(capsys):
    with pytest.raises(SystemExit) as exit_status:
        read_command_line(["--help"], "python -m fedray", "Run.")
    text = " ".join(capsys.readouterr().out.split())
    assert exit_status.value.code == 0
    for name, (_, field) in options().items():
        assert f"--{name} " in text
        if field is not None:
            assert " ".join(field.description.split()) in text
    assert "Learning rate of the clients in the first round. (default 0.05; > 0; <= 1,000,000)" in text
    assert "(rounds; default 20; >= 1)" in text
    assert "default auto" in text
    assert "--engine plain|fused" in text
