"""An unknown setting is answered with the one that was meant, by another simulator's name or a paper's letter."""

import shlex

import pytest
from fuzzing import end_of

from fedray import __main__ as one
from fedray import data
from fedray.__main__ import main
from fedray.algorithms import ALGORITHMS
from fedray.cli import command_line
from fedray.cli.command_line import options
from fedray.core.errors import BadInputError
from fedray.core.settings import plain
from fedray.data.partitions import PARTITIONS
from fedray.experiment import read_experiment
from fedray.experiment.composition import FIELDS, compose, section_class
from fedray.experiment.experiment import CHOSEN
from fedray.experiment.synonyms import NOTES, OTHER_NAMES, SECTIONS, SYNONYMS, WORDS
from fedray.models import model
from fedray.sweep.grid import read_grid


def test_every_other_name_is_of_a_setting_and_is_none_itself():
    known = options()
    assert len(SYNONYMS) > 200
    assert set(SYNONYMS.values()) <= set(known)
    assert not {plain(word) for word in SYNONYMS} & {plain(name) for name in known}
    written = [plain(word) for words in [*WORDS.values(), ", ".join(SECTIONS)] for word in words.split(", ")]
    assert len(set(written)) == len(written)  # none means two settings
    assert set(NOTES) <= set(SYNONYMS)


def test_every_section_has_a_setting_that_its_name_means():
    assert {name for name in FIELDS if section_class(name, {})} == set(SECTIONS)
    assert all(setting.startswith(f"{section}.") for section, setting in SECTIONS.items())


@pytest.fixture(scope="module")
def prepared():
    """The program's parser and options, which take longer to make than a command line to read."""
    return command_line.build_parser(one.PROGRAM, "", one.FLAGS, one.VALUES, {}), options()


@pytest.fixture
def quick(prepared, monkeypatch):
    parser, known = prepared
    monkeypatch.setattr(command_line, "build_parser", lambda *_: parser)
    monkeypatch.setattr(command_line, "options", lambda: known)


@pytest.mark.usefixtures("quick")
def test_every_other_name_on_the_command_line_is_answered_with_the_setting(tmp_path, monkeypatch):
    """The program is called with each as an option."""
    monkeypatch.chdir(tmp_path)
    for word, setting in SYNONYMS.items():
        end = end_of(main, f"--{word}", "3")
        expected = f"--{setting} 3?" if word in SECTIONS else f"{setting}?"
        assert f"; did you mean {expected}" in end.err, (word, end.err)
        assert end.status == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model cnn", "model is a section of settings, not a setting of its own; did you mean --model.name cnn?"),
        ("--model=cnn --rounds 3", "did you mean --model.name cnn?"),
        ("--rounds 3 --algorithm fedprox", "did you mean --algorithm.name fedprox?"),
        ("--data 'my data'", "did you mean --data.dataset 'my data'?"),
        ("--cluster ray", "did you mean --cluster.backend ray?"),
        ("--partition --rounds 3", "did you mean --partition.name?"),
        ("--learning-rate 0.1", "unknown setting 'learning-rate'; did you mean algorithm.lr?"),
        ("--learningRate 0.1", "did you mean algorithm.lr?"),
        ("--algorithm.learning_rate 0.1", "did you mean algorithm.lr?"),
        ("--optimizer.lr 0.1", "did you mean algorithm.lr?"),
        ("-lr 0.1", "did you mean algorithm.lr?"),
        ("--client.local_epochs 5", "did you mean algorithm.epochs?"),
        ("--protocol.n_rounds 5", "did you mean rounds?"),
        ("--data.name mnist", "did you mean data.dataset?"),
        (
            "--alpha 0.1",
            "unknown setting 'alpha'; did you mean partition.alpha? It is a setting of partition.name = dirichlet",
        ),
        ("--K 100", "did you mean clients?"),
        ("--k 100", "did you mean clients?"),
        ("--C 0.1", "did you mean cohort? It is a number of clients, not a fraction of them"),
        ("--E 5", "did you mean algorithm.epochs?"),
        ("--B 10", "did you mean algorithm.batch_size?"),
        ("--eta 0.1", "did you mean algorithm.lr?"),
        ("--mu 1", "did you mean algorithm.mu? It is a setting of algorithm.name = fedprox, fednova, moon"),
        ("--algoritm.name fedprox", "did you mean algorithm.name?"),
        ("--modle cnn", "did you mean model.name?"),
        ("--learnin_rate 0.1", "did you mean algorithm.lr?"),
        ("--queit mine.toml", "unknown setting 'queit'; did you mean quiet?"),
        ("--config mine.toml", "unknown setting 'config'; a settings file is named without an option: mine.toml"),
        ("--log_level debug", "did you mean log-level?"),
        ("--model.name CNN", "did you mean cnn?"),
        ("--model.name 2NN", "did you mean mlp?"),
        ("--algorithm.name FedAvg", "did you mean fedavg?"),
        ("--algorithm.name SCAFFOLD", "did you mean scaffold?"),
        ("--data.dataset cifar-10", "did you mean cifar10?"),
        ("--data.dataset CIFAR_100", "did you mean cifar100?"),
        ("--data.dataset FMNIST", "did you mean fashion_mnist?"),
        ("--partition.name non-iid", "did you mean dirichlet?"),
        ("--partition.name Dirichlet", "did you mean dirichlet?"),
        ("--engine FUSED", "did you mean fused?"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_was_meant_is_said(words, sentence):
    end = end_of(main, *shlex.split(words))
    assert end.status == 2
    assert sentence in end.err


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"learning_rate": 0.1}, "unknown setting 'learning_rate'; did you mean algorithm.lr?"),
        (
            {"algorithm": {"local_epochs": 5}},
            "unknown setting 'algorithm.local_epochs'; did you mean algorithm.epochs?",
        ),
        ({"data": {"name": "mnist"}}, "unknown setting 'data.name'; did you mean data.dataset?"),
        (
            {"model": "cnn"},
            "model is a section of settings, not a setting of its own; did you mean model.name = 'cnn'?",
        ),
        ({"evaluation": 5}, "did you mean evaluation.every = 5?"),
        ({"client": {"local_epochs": 5, "eta": 0.1}}, "'client.eta'; did you mean algorithm.lr?"),
        ({"client": {"local_epochs": 5, "eta": 0.1}}, "'client.local_epochs'; did you mean algorithm.epochs?"),
        ({"algoritm": {"lr": 0.1}}, "unknown setting 'algoritm'; did you mean algorithm?"),
        ({"client": {}}, "unknown setting 'client'; did you mean clients?"),
        ({"partition": {"name": "noniid"}}, "did you mean dirichlet?"),
        ({"algorithm": {"name": "Fed-Avg"}}, "did you mean fedavg?"),
    ],
)
def test_what_was_meant_is_said_of_toml_and_of_python_too(tree, sentence):
    with pytest.raises(BadInputError) as error:
        compose(tree)
    assert sentence in str(error.value)


def test_a_section_with_a_value_is_said_where_a_setting_of_it_is_given_beside(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('model = "cnn"\n')
    with pytest.raises(BadInputError, match=r"did you mean model\.name = 'cnn'\?"):
        read_experiment(path, {"model.norm": "group"})


@pytest.mark.parametrize(
    ("sweep", "words", "sentence"),
    [
        ({"grid": {"learning_rate": [1]}}, (), "'learning_rate' in [grid] is no setting; did you mean algorithm.lr?"),
        ({"grid": {"model": ["cnn", "mlp"]}}, (), "'model' in [grid] is no setting; did you mean model.name?"),
        ({"search": {"n": 2, "E": [1, 5]}}, (), "'E' in [search] is no setting; did you mean algorithm.epochs?"),
        ({}, ("model=cnn,mlp",), "'model' in --grid is no setting; did you mean model.name?"),
        ({}, ("C=0.1,0.2",), "did you mean cohort? It is a number of clients"),
    ],
)
def test_what_was_meant_is_said_of_axes(sweep, words, sentence):
    with pytest.raises(BadInputError) as error:
        read_grid(sweep, words)
    assert sentence in str(error.value)


def test_other_names_of_choices_are_of_choices():
    """And none is nearest to what it means anyway, or is a choice itself."""
    for section, others in OTHER_NAMES.items():
        assert set(others.values()) <= set(CHOSEN[section])
        assert not {plain(other) for other in others} & {plain(choice) for choice in CHOSEN[section]}
    assert set(data.OTHER_NAMES.values()) <= set(data.NAMES)
    assert set(model.OTHER_NAMES.values()) <= set(model.KNOWN)
    assert {"iid", "dirichlet"} <= set(PARTITIONS) and "fedavg" in ALGORITHMS
