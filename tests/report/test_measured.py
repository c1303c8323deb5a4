"""An answer is that of the settings that it was measured for, and of no copy of its file."""

import json
from pathlib import Path

import pytest

from fedray.core.errors import BadInputError
from fedray.report.__main__ import main as report
from fedray.report.header import Header, read_header
from fedray.report.measured import measured_header, named_in, read_settings
from fedray.results import load
from fedray.sweep import __main__ as sweep

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALL = """\
# Which rate?
#
# The answer is 42.
# Measured for settings 00000000.

rounds = 1
clients = 2
cohort = 2
[data]
dataset = "synthetic"
train_examples = 40
test_examples = 20
[model]
name = "logistic"
[algorithm]
lr = 0.1
[cluster]
backend = "in-process"
[grid]
seed = [0, 1]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file whose answer is that of its settings."""
    path = tmp_path / "rate.toml"
    path.write_text(SMALL)
    path.write_text(SMALL.replace("00000000", read_settings(path).digest))
    return path


def play(file: Path, *words: str) -> Path:
    """The results folder of a sweep that was played."""
    assert sweep.main([str(file), "--output.root", str(file.parent / "results"), *words]) == 0
    return file.parent / "results" / file.stem


def header_of(folder: Path) -> Header:
    return measured_header(folder, load(folder.name, folder.parent).runs)


def digest_with(file: Path, *changes: tuple[str, str]) -> str:
    text = file.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    changed = file.with_name("changed.toml")
    changed.write_text(text)
    return read_settings(changed).digest


def test_a_copy_with_another_rate_drops_the_answer(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the original keeps it."""
    copy = file.with_name("copy.toml")
    copy.write_text(file.read_text().replace("lr = 0.1", "lr = 0.2"))
    kept, dropped = play(file), play(copy)
    assert header_of(kept).answer[0].text.startswith("The answer is 42.")
    assert header_of(kept).note == ""
    assert report([str(dropped)]) == 0
    page = (dropped / "report.html").read_text()
    assert "<h1>Which rate?</h1>" in page and "The answer is 42." not in page
    assert "answer was measured for other settings and is not shown." in page


def test_runs_with_settings_of_the_command_line_have_not_the_files_answer(file: Path) -> None:
    """The file is the same. In a folder with its own runs as well the answer is shown, and says of how many it is."""
    folder = play(file, "--algorithm.lr", "0.2", "--seed", "0", "--grid", "algorithm.momentum=0.0")
    assert header_of(folder).answer == ()
    assert header_of(folder).note.endswith("it was measured for the file's settings, and no run here has these.")
    assert play(file) == folder
    assert "The answer is 42." in header_of(folder).answer[0].text
    assert header_of(folder).note.startswith("Of 3 runs on this page 2 have the settings")


def test_what_the_file_leaves_on_auto_may_be_anything(file: Path) -> None:
    runs = load("rate", play(file).parent).runs
    settings = read_settings(file)
    assert settings.has(runs) == [True, True]

    def with_setting(section: str, name: str, value: object) -> list[bool]:
        tree = json.loads(runs["settings"][0])
        (tree[section] if section else tree)[name] = value
        return settings.has(runs.assign(settings=[json.dumps(tree), None]))

    assert with_setting("", "engine", "plain") == [True, False]
    assert with_setting("model", "channels_last", True) == [True, False]
    assert with_setting("cluster", "cpus", 7) == with_setting("data", "root", "elsewhere") == [True, False]
    assert with_setting("output", "client_output", True) == [True, False]  # newer than 0.3.0, and in no id
    assert with_setting("evaluation", "target_accuracy", 0.5) == [False, False]  # none is none
    assert with_setting("algorithm", "momentum", 0.9) == [False, False]  # not in the file, so the default


def test_the_digest_is_of_the_settings_and_not_of_how_they_are_written(file: Path) -> None:
    """A number that stays: the headers of users' files have it."""
    digest = read_settings(file).digest
    assert digest == "1afc72c4"
    assert named_in(file.read_text()) == [digest]
    same = [("# The answer is 42.", "# More."), ("seed = [0, 1]", "seed = [1, 0]"), ("lr = 0.1", "lr = 1e-1")]
    same += [('backend = "in-process"', "cpus = 2"), ("rounds = 1\n", 'rounds = 1\noutput.root = "there"\n')]
    assert {digest_with(file, each) for each in same} == {digest}
    others = [("seed = [0, 1]", "seed = [0, 1, 2]"), ("lr = 0.1", "lr = 0.11"), ("lr = 0.1", "momentum = 0.1")]
    assert len({digest, *(digest_with(file, each) for each in others)}) == 4


def test_an_answer_without_settings_is_not_shown_and_the_line_to_add_is(file: Path) -> None:
    folder = play(file)
    copy = folder / "experiment.toml"
    line = f"Measured for settings {read_settings(file).digest}."
    copy.write_text(copy.read_text().replace(f"# {line}\n", ""))
    assert header_of(folder).answer == () and header_of(folder).note.endswith(f"let the header say: {line}")
    copy.write_text(copy.read_text().replace("# The answer is 42.\n", f"# The answer is 42.\n# {line}\n"))
    assert header_of(folder) == Header("Which rate?", read_header(folder).answer, settings=read_settings(copy).digest)
    copy.write_text("# Which rate?\n" + copy.read_text()[copy.read_text().index("\nrounds") :])
    assert (header_of(folder).answer, header_of(folder).note) == ((), "")


def test_settings_that_cannot_be_read_here_have_no_answer(file: Path) -> None:
    folder = play(file)
    copy = folder / "experiment.toml"
    copy.write_text(copy.read_text().replace("lr = 0.1", "rate = 0.1"))
    assert header_of(folder).answer == ()
    assert "its settings cannot be read here: unknown setting 'algorithm.rate'" in header_of(folder).note
    with pytest.raises(BadInputError):
        read_settings(copy)


def test_a_header_may_name_several_settings() -> None:
    text = "of both, Measured for settings 1a2b3c4d, 5e6f7a8b and 00000001. It is measured for settings ffffffff"
    assert named_in(text) == ["1a2b3c4d", "5e6f7a8b", "00000001", "ffffffff"]
    assert named_in("measured for settings 1a2b3c4") == named_in("measured for settings 1a2b3c4d5") == []


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.toml")), ids=lambda path: path.name)
def test_our_own_experiments_answer_for_their_settings(path: Path) -> None:
    header = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert named_in(header) == [read_settings(path).digest]
