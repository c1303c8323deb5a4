"""TensorBoard and Weights & Biases have what the rounds table has; without them fedray is whole."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fuzzing import end_of
from small_runs import assert_same_tables, small, stopped_after

from fedray import results
from fedray.__main__ import main
from fedray.core.errors import BadInputError
from fedray.core.settings import flatten
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.trackers import Logger, scalars
from fedray.run.watch import Watch
from fedray.sweep import __main__ as sweep

ROOT = Path(__file__).parents[2]
WHY = "it is an extra, which `pip install -e '.[dev]'` installs"


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def scalars_of(rounds):
    """What should be logged of a rounds table: (name, round) and the value in float32."""
    found = {}
    for row in rounds.astype(object).where(rounds.notna(), None).to_dict("records"):
        own = {name: row[name] for name in results.SCHEMAS["rounds"].names[17:]}
        found |= {(name, row["round"]): pytest.approx(value, rel=1e-6) for name, value in scalars(own).items()}
    return found


def test_what_is_logged_of_a_round_is_all_of_its_numbers_by_kind():
    row = {
        "round": 3,
        "test_accuracy": 0.5,
        "client_loss": None,
        "seconds": 2.0,
        "bytes_up": 7,
        "retries": 0,
        "finished_at": 9,
    }
    assert scalars(row) == {
        "accuracy/test_accuracy": 0.5,
        "seconds/seconds": 2.0,
        "bytes/bytes_up": 7,
        "round/retries": 0,
    }


# TensorBoard


def events_of(folder):
    """Every scalar that TensorBoard shows, by name and step, each once; and the settings' text."""
    pytest.importorskip("tensorboard", reason=WHY)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    shown.Reload()
    found = [((name, event.step), event.value) for name in shown.Tags()["scalars"] for event in shown.Scalars(name)]
    assert len(found) == len(dict(found))
    (text,) = shown.Tensors("settings")[-1].tensor_proto.string_val
    return dict(found), text.decode()


def test_tensorboard_has_every_round_and_the_settings(tmp_path):
    pytest.importorskip("tensorboard", reason=WHY)
    experiment = small(tmp_path, output__tensorboard=True, evaluation__every=2)
    tables = run(experiment)
    job = Job(experiment)
    found, text = events_of(job.folder / "tensorboard" / job.run)
    assert found == scalars_of(tables.rounds)
    assert ("accuracy/test_accuracy", 1) not in found
    assert {
        ("accuracy/test_accuracy", 6),
        ("loss/train_loss", 1),
        ("round/update_norm", 3),
        ("seconds/seconds", 2),
    } <= found.keys()
    for name, value in flatten(job.experiment.settings()):
        assert f"| {name} | {value} |" in text
    assert not (tmp_path / "off" / "small" / "tensorboard").exists()
    assert_same_tables(tables, run(small(tmp_path / "off", evaluation__every=2)))


@pytest.mark.parametrize("lost", [False, True])
def test_tensorboard_shows_a_round_once_that_was_played_again(tmp_path, lost):
    """Interrupted after round 5, and its last checkpoint lost, so that round 5 is played twice."""
    pytest.importorskip("tensorboard", reason=WHY)
    stopped_after(tmp_path, 5, output__tensorboard=True)
    if lost:
        Job(small(tmp_path)).checkpoint.unlink()
    tables = run(small(tmp_path, output__tensorboard=True))
    (folder,) = (tmp_path / "small" / "tensorboard").iterdir()
    assert len(list(folder.iterdir())) == 2
    assert events_of(folder)[0] == scalars_of(tables.rounds)


def test_tensorboard_of_a_longer_run_has_the_rounds_that_it_took_over(tmp_path):
    pytest.importorskip("tensorboard", reason=WHY)
    run(small(tmp_path, rounds=3, output__keep_checkpoint=True))
    tables = run(small(tmp_path, output__tensorboard=True))
    (folder,) = (tmp_path / "small" / "tensorboard").iterdir()
    assert tables.runs["taken_from"].notna().all() and events_of(folder)[0] == scalars_of(tables.rounds)


def test_a_run_that_starts_over_takes_what_was_logged_aside(tmp_path):
    pytest.importorskip("tensorboard", reason=WHY)
    run(small(tmp_path, output__tensorboard=True, rounds=2))
    (before,) = (tmp_path / "small" / "tensorboard").glob("*/*")
    tables = run(small(tmp_path, output__tensorboard=True, rounds=2), fresh=True)
    (moved,) = (tmp_path / "small.old-1" / "tensorboard").glob("*/*")
    assert (moved.name, before.exists()) == (before.name, False)
    (folder,) = (tmp_path / "small" / "tensorboard").iterdir()
    assert events_of(folder)[0] == scalars_of(tables.rounds)


def test_the_runs_of_a_sweep_are_logged_each_in_its_folder(tmp_path):
    pytest.importorskip("tensorboard", reason=WHY)
    file = tmp_path / "s.toml"
    file.write_text("rounds = 2\n[grid]\nseed = [0, 1]\n")
    words = ["--data.dataset=synthetic", "--data.train_examples=60", "--data.test_examples=40", "--model.name=logistic"]
    words += ["--clients=3", "--cohort=2", "--cluster.backend=in-process", f"--output.root={tmp_path}"]
    assert end_of(sweep.main, file, *words, "--output.tensorboard=true").status == 0
    tables = results.load("s", tmp_path)
    for name in tables.runs["run"]:
        rounds = tables.rounds[tables.rounds["run"] == name]
        assert events_of(tmp_path / "s" / "tensorboard" / name)[0] == scalars_of(rounds)


# Weights & Biases


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    found = pytest.importorskip("wandb", reason=WHY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    return found


def records(content):
    """The records of a file in the log format of LevelDB, in which wandb keeps an offline run behind seven bytes."""
    at, whole = 7, b""
    while at + 7 < len(content):
        if 32768 - at % 32768 < 7:  # a header is never cut
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + size]
        if kind in (1, 4):  # all of a record, or its last part
            yield whole
            whole = b""
        at += 7 + size


def stored(folder):
    """What an offline run's file holds: its id, its settings and its history by step."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    name, config, history = "", {}, {}
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("run"):
            name = record.run.run_id
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = record.history.step.num
            history |= {(key, step): value for key, value in items.items() if not key.startswith("_")}
    return name, config, history


def test_wandb_has_every_round_and_the_settings(tmp_path, wandb):
    experiment = small(tmp_path, output__wandb="fedray", evaluation__every=2)
    watch = Noting()
    tables = run(experiment, watch)
    job = Job(experiment)
    assert watch.notices == [f"Weights & Biases: {tmp_path}/small/wandb/, for `wandb sync`"]
    (folder,) = (job.folder / "wandb").glob("offline-run-*")
    name, config, history = stored(folder)
    assert name == job.run
    assert history == scalars_of(tables.rounds)
    settings = job.experiment.settings()
    assert {name: config[name] for name in settings} == json.loads(json.dumps(settings))
    run(experiment, fresh=True)
    assert stored(tmp_path / "small.old-1/wandb" / folder.name) == (name, config, history)
    assert len(list((job.folder / "wandb").glob("offline-run-*"))) == 1


def test_wandb_has_the_rest_of_a_run_that_goes_on_under_the_same_id(tmp_path, wandb):
    """Offline that is a second file, which `wandb sync` puts behind the first."""
    stopped_after(tmp_path, 4, output__wandb="fedray")
    tables = run(small(tmp_path, output__wandb="fedray"))
    parts = [stored(folder) for folder in sorted((tmp_path / "small" / "wandb").glob("offline-run-*"))]
    assert [name for name, _, _ in parts] == tables.runs["run"].tolist() * 2
    assert [sorted({t for _, t in history}) for _, _, history in parts] == [[1, 2, 3, 4], [5, 6]]
    assert parts[0][2] | parts[1][2] == scalars_of(tables.rounds)


def test_a_run_without_a_login_is_refused_before_anything_is_on_disk(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import sys\nfrom fedray.__main__ import main\nfrom fedray.cli.command_line import report_errors\n"
        "sys.exit(report_errors(lambda: main(sys.argv[1:])))"
    )
    command = [sys.executable, "-c", code, "--output.wandb=mine", "--cluster.backend=in-process"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 2
    assert re.fullmatch(
        r"fedray: output.wandb = mine needs a login: `wandb login`.*WANDB_MODE=offline.*\n", done.stderr
    )
    assert not (tmp_path / "results").exists()


# Both


class Breaking(Logger):
    name = "The logger"

    def __init__(self, tell, at):
        super().__init__(tell)
        self.at, self.logged, self.shut_down = at, [], False

    def open(self, job):
        if self.at == "open":
            raise OSError("no place for it")

    def log(self, t, numbers):
        if self.at == t:
            raise ConnectionError("the network\nis gone")
        self.logged.append(t)

    def shut(self):
        self.shut_down = True
        if self.at == "shut":
            raise ValueError("too late")


@pytest.mark.parametrize(
    ("at", "why", "logged"),
    [("open", "no place for it", []), (3, "the network is gone", [1, 2]), ("shut", "too late", [1, 2, 3, 4, 5, 6]), (None, None, [1, 2, 3, 4, 5, 6])],
)  # fmt: skip
def test_a_logger_that_fails_says_so_once_and_the_run_goes_on(tmp_path, monkeypatch, at, why, logged):
    watch, loggers = Noting(), []

    def chosen(output, tell):
        loggers.append(Breaking(tell, at))
        return loggers

    monkeypatch.setattr("fedray.run.trackers.chosen", chosen)
    tables = run(small(tmp_path), watch)
    assert tables.runs["status"].tolist() == ["finished"]
    assert watch.notices == ([f"The logger failed, and gets no more of this run: {why}"] if why else [])
    (logger,) = loggers
    assert (logger.logged, logger.shut_down) == (logged, at in ("shut", None))


def test_a_full_disk_of_tensorboard_is_a_notice(tmp_path):
    """A real failure: a file is where the folder should be."""
    pytest.importorskip("tensorboard", reason=WHY)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "tensorboard").write_text("")
    watch = Noting()
    assert run(small(tmp_path, output__tensorboard=True), watch).runs["status"].tolist() == ["finished"]
    (notice,) = watch.notices
    assert notice.startswith("TensorBoard failed, and gets no more of this run: ")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"output__tensorboard": True}, "output.tensorboard = true needs `pip install 'fedray[tensorboard]'`"),
        ({"output__wandb": "mine"}, "output.wandb = mine needs `pip install 'fedray[wandb]'`"),
    ],
)
def test_an_extra_that_is_not_installed_is_named_before_anything_is_on_disk(tmp_path, monkeypatch, settings, sentence):
    monkeypatch.setattr("fedray.run.extras.find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=re.escape(sentence)):
        run(small(tmp_path, **settings))
    assert not list(tmp_path.iterdir())


def test_the_base_installation_needs_neither_and_imports_neither(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[>=<]", word)[0] for word in project["dependencies"]}
    assert not named & {"tensorboard", "wandb", "tensorboardX"}
    extras = project["optional-dependencies"]
    assert {re.split(r"[>=<]", extras[name][0])[0] for name in ("tensorboard", "wandb")} == {"tensorboard", "wandb"}
    code = (
        "import sys\nfor name in ('tensorboard', 'wandb'): sys.modules[name] = None\n"
        "from fedray.__main__ import main\nimport fedray.run, fedray.sweep\nsys.exit(main(sys.argv[1:]))\n"
    )
    words = ["--data.dataset=synthetic", "--data.train_examples=60", "--data.test_examples=40", "--model.name=logistic"]
    words += ["--clients=2", "--cohort=2", "--rounds=1", "--cluster.backend=in-process", f"--output.root={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 129])
def test_a_project_that_cannot_be_one_is_refused(tmp_path, name):
    end = end_of(main, "--output.wandb", name, "--output.root", tmp_path / "results")
    assert (end.status, list(tmp_path.iterdir())) == (2, [])
    assert "output.wandb = " in end.err
