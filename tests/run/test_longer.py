"""A run that goes on from a shorter one is the run that was never stopped, and the shorter one is not touched."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from small_runs import assert_same_tables, comparable, small
from unlearning import Unlearning

from fedray import results
from fedray.__main__ import main
from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import BadInputError
from fedray.results.clock import in_flight_together
from fedray.results.recorder import mark
from fedray.run import checkpoint, longer, run
from fedray.run.disk import check_disk, parts_of, parts_of_all
from fedray.run.prepared import Job
from fedray.run.segments import paths_of
from fedray.run.watch import Watch
from fedray.sweep.__main__ import main as sweep
from fedray.sweep.longer import rounds_before, waves

KEEP = {"output__keep_checkpoint": True}
SCAFFOLD = {"algorithm__name": "scaffold", "algorithm__momentum": 0.0, "output__checkpoint_every": 1}
KINDS = {
    "fedavg": {},
    "scaffold, what clients remember in segments": SCAFFOLD,
    "adam at the server": {"algorithm__server_optimizer": "adam", "algorithm__server_lr": 0.1},
    "fedavgm": {"algorithm__server_momentum": 0.9},
    "ditto, personal models": {"algorithm__name": "ditto"},
    "fedper, a part stays at the clients": {"algorithm__name": "fedper", "model__name": "mlp"},
    "a checkpoint after more rounds than it has": {**SCAFFOLD, "output__checkpoint_every": 50},
    "lr by a step schedule": {"algorithm__lr_schedule": "step", "algorithm__lr_decay_every": 2},
    "a validation split, and faults": {"data__validation_examples": 40, "faults__dropout": 0.3},
    "each client evaluated": {"evaluation__clients_every": 1, "clients": 3},
}


class Noting(Watch):
    def __init__(self):
        self.notices, self.rounds = [], []

    def notice(self, text):
        self.notices.append(text)

    def round(self, job, row):
        self.rounds.append(row["round"])


class StoppedAt(Noting):
    def __init__(self, t):
        super().__init__()
        self.t = t

    def round(self, job, row):
        super().round(job, row)
        if row["round"] == self.t:
            raise KeyboardInterrupt


def contents(root, run_id=""):
    """The files of a run, or all, with their bytes and the time of their last change."""
    found = (path for path in Path(root).rglob("*") if path.is_file() and run_id in path.name)
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def untaken(tables):
    """The tables without the column that tells a run that went on from one that was never stopped."""
    return dataclasses.replace(tables, runs=tables.runs.drop(columns="taken_from"))


def model_of(experiment):
    return {name: tensor.tobytes() for name, tensor in load_file(Job(experiment).model).items()}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_three_rounds_and_three_more_are_six(tmp_path, changes):
    first, watch = run(small(tmp_path / "a", rounds=3, **KEEP, **changes)), Noting()
    (shorter,) = first.runs["run"]
    before = contents(tmp_path)
    e, whole = small(tmp_path / "a", **changes), small(tmp_path / "b", **changes)
    both, once = run(e, watch), run(whole)
    assert before.items() <= contents(tmp_path / "a").items()
    assert watch.notices == [f"going on from run {shorter} after its 3 rounds"] and watch.rounds == [4, 5, 6]
    assert both.runs["taken_from"].tolist() == [shorter] and once.runs["taken_from"].isna().all()
    assert both.runs["model_fingerprint"].notna().all()
    assert_same_tables(untaken(both), untaken(once))
    assert model_of(e) == model_of(whole)
    for column in ("seconds", "cpu_seconds", "finished_at"):
        assert both.rounds[column][:3].tolist() == first.rounds[column].tolist()
    assert not paths_of(Job(e).checkpoint) and not Job(e).checkpoint.exists()
    assert not list(tmp_path.rglob(".*"))


def test_two_and_two_and_two_are_six_and_each_is_a_run(tmp_path):
    for rounds in (2, 4, 6):
        tables = run(small(tmp_path / "a", rounds=rounds, **KEEP, **SCAFFOLD))
    assert_same_tables(untaken(tables), untaken(run(small(tmp_path / "b", **SCAFFOLD))))
    every = results.load("small", tmp_path / "a")
    assert sorted(every.runs["rounds_done"]) == [2, 4, 6] and set(every.runs["status"]) == {"finished"}
    by_rounds = every.runs.set_index("rounds_done")
    assert by_rounds["taken_from"].tolist() != [None] * 3
    assert by_rounds["taken_from"][6] == by_rounds["run"][4] and by_rounds["taken_from"][4] == by_rounds["run"][2]
    assert len({tuple(each["finished_at"][:2]) for _, each in every.rounds.groupby("run")}) == 1
    assert len({path.stem.partition(".")[0] for path in Job(small(tmp_path / "a")).checkpoint.parent.iterdir()}) == 3


def test_but_for_the_evaluation_that_the_old_last_round_forced(tmp_path):
    settings = {"evaluation__every": 2, "evaluation__clients_every": 2}
    run(small(tmp_path / "a", rounds=3, **KEEP, **settings))
    both, once = (comparable(untaken(run(small(tmp_path / name, **settings)))) for name in "ab")
    seen = [name for name in both["rounds"] if once["rounds"][name].notna().any()]
    forced = [name for name in seen if name.startswith(("test_", "client_"))]
    assert both["rounds"].loc[2, forced].notna().all() and once["rounds"].loc[2, forced].isna().all()
    both["rounds"].loc[2, forced] = None
    both["evaluations"] = both["evaluations"].query("round != 3").reset_index(drop=True)
    for tables in (both, once):  # the forced evaluation may have been the best one
        tables["confusion"] = tables["confusion"].query("which == 'final'").reset_index(drop=True)
    for name in ("rounds", "clients", "evaluations", "population", "confusion", "partitions"):
        pd.testing.assert_frame_equal(both[name], once[name], obj=name, check_dtype=False)


def test_events_are_copied_and_one_tells_of_it(tmp_path):
    e = small(tmp_path, rounds=3, **KEEP)
    with pytest.raises(KeyboardInterrupt):
        run(e, StoppedAt(2))
    first = run(e)
    tables = run(small(tmp_path))
    assert first.events["kind"].tolist() == ["resumed"]
    said = [f"continuing run {first.runs['run'][0]} after round 2", "going on from run "]
    assert tables.events["round"].tolist() == [3, 4]
    assert all(detail.startswith(each) for detail, each in zip(tables.events["detail"], said, strict=True))


def test_the_best_model_may_be_of_the_first_part(tmp_path):
    def experiment(root, rounds, **changes):
        settings = {"data__train_examples": 400, "output__save_best": True, "output__checkpoint_every": 1, **changes}
        return dataclasses.replace(small(root, rounds=rounds, **settings), algorithm=Unlearning(lr=0.1, batch_size=10))

    first = Job(experiment(tmp_path / "a", 5, **KEEP))
    run(first.experiment)
    best = {}
    for name in "ab":
        job = Job(experiment(tmp_path / name, 6))
        tables = run(job.experiment)
        (t,) = tables.runs["best_round"]
        assert t < 5
        with safe_open(job.best_model, "numpy") as file:
            best[name] = {key: file.get_tensor(key).tobytes() for key in file.keys()}, file.metadata()  # noqa: SIM118
    (one, meta), (other, expected) = best["a"], best["b"]
    assert one == other and meta["round"] == str(t) and meta["run"] == expected["run"] == job.run
    content = first.best_model.read_bytes()
    first.best_model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    watch = Noting()
    run(experiment(tmp_path / "a", 7), watch)
    assert watch.notices[-1] == "the model of its best round was not kept; --fresh runs it again"


def test_patience_counts_the_rounds_of_both_parts(tmp_path):
    settings = {"algorithm__lr": 1e-9, "evaluation__patience": 4}
    run(small(tmp_path / "a", rounds=3, **KEEP, **settings))
    both, once = (run(small(tmp_path / name, **settings)) for name in "ab")
    assert both.runs["status"].tolist() == ["no_improvement"] and both.runs["rounds_done"].tolist() == [5]
    assert_same_tables(untaken(both), untaken(once))


@pytest.mark.parametrize("harm", ["ended", "killed", "fresh"])
def test_the_longer_run_is_one_that_can_be_stopped_and_goes_on(tmp_path, harm):
    run(small(tmp_path / "a", rounds=3, **KEEP, **SCAFFOLD))
    e, watch = small(tmp_path / "a", **SCAFFOLD), Noting()
    if harm == "killed":  # its first checkpoint is there, and nothing more

        class Killed(Watch):
            def took(self, job, rows):
                assert [row["round"] for row in rows] == [1, 2, 3] and rows[0]["update_norm"] > 0

            def round(self, job, row):
                shutil.copytree(tmp_path / "a", tmp_path / "left", ignore=shutil.ignore_patterns(".*"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(e, Killed())
        e = small(tmp_path / "left", **SCAFFOLD)
        for path in paths_of(Job(small(tmp_path / "left", rounds=3, **SCAFFOLD)).checkpoint):
            path.unlink()  # it needs nothing of the shorter run's any more
    else:
        with pytest.raises(KeyboardInterrupt):
            run(e, StoppedAt(5))
    tables = run(e, watch, fresh=harm == "fresh")
    assert watch.rounds == {"ended": [6], "killed": [4, 5, 6], "fresh": [1, 2, 3, 4, 5, 6]}[harm]
    assert tables.runs["taken_from"].notna().tolist() == [harm != "fresh"]
    assert_same_tables(untaken(tables), untaken(run(small(tmp_path / "b", **SCAFFOLD))))


def told(experiment, **changes):
    watch = Noting()
    run(experiment, watch, **changes)
    return watch


def test_a_schedule_that_depends_on_rounds_starts_over_with_a_sentence(tmp_path):
    run(small(tmp_path, rounds=3, algorithm__lr_schedule="cosine", **KEEP))
    e = small(tmp_path, algorithm__lr_schedule="cosine")
    short, watch = Job(small(tmp_path, rounds=3, algorithm__lr_schedule="cosine")).run, told(e)
    assert watch.notices == [
        f"run {short} of 3 rounds had the learning rate 0.015 in round 2, which is 0.018660 in one of 6 "
        f"(algorithm.lr_schedule = cosine), so that run {Job(e).run} starts from round 1".replace(
            "0.018660", "0.0186603"
        )
    ]
    assert watch.rounds == [1, 2, 3, 4, 5, 6]


def test_a_schedule_of_ones_own_is_asked_round_by_round(tmp_path):
    """Unlearning's does not depend on the number of rounds; the other one's does in the last round alone."""

    class Last(FedAvg):
        def learning_rate(self, t, rounds):
            return self.lr / 2 if t == rounds else self.lr

    for kind, rounds in ((Unlearning, [4, 5, 6]), (Last, [1, 2, 3, 4, 5, 6])):
        algorithm = kind(batch_size=10)
        run(dataclasses.replace(small(tmp_path / kind.__name__, rounds=3, **KEEP), algorithm=algorithm))
        watch = told(dataclasses.replace(small(tmp_path / kind.__name__), algorithm=algorithm))
        assert watch.rounds == rounds
    assert "had the learning rate 0.025 in round 3, which is 0.05 in one of 6" in watch.notices[0]


def harm(job, what):
    """Damage one file of a run; what is said of it."""
    folder, path = job.folder, job.checkpoint
    if what in ("evaluations", "rounds"):
        path = folder / what / f"{job.run}.parquet"
    elif what == "a segment":
        path = paths_of(job.checkpoint)[0]
    elif what == "a segment is missing":
        paths_of(job.checkpoint)[0].unlink()
        return f"the checkpoint {path} needs .* no checkpoint"
    if what in ("no checkpoint", "evaluations"):
        path.unlink()
        missing = f"the results file {path} is missing"
        return f"run {job.run} of 3 rounds has no checkpoint" if what == "no checkpoint" else missing
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    return {"rounds": f"the results file {path} ", "a segment": f"the checkpoint {job.checkpoint} needs "}.get(
        what, f"the checkpoint {path} is damaged"
    )


@pytest.mark.parametrize(
    "what", ["no checkpoint", "the checkpoint", "a segment", "a segment is missing", "evaluations", "rounds"]
)
def test_without_a_whole_checkpoint_and_all_tables_it_starts_over_with_a_sentence(tmp_path, what):
    e = small(tmp_path / "a", rounds=3, **KEEP, **SCAFFOLD)
    run(e)
    said = harm(Job(e), what)
    before = contents(tmp_path)
    six = small(tmp_path / "a", **SCAFFOLD)
    watch = told(six)
    (notice,) = watch.notices
    assert pd.Series([notice]).str.match(f"{said}.*, so that run {Job(six).run} starts from round 1$").all(), notice
    assert watch.rounds == [1, 2, 3, 4, 5, 6] and "--fresh" not in notice
    assert before.items() <= contents(tmp_path / "a").items()


def test_a_run_that_kept_no_checkpoint_is_named(tmp_path):
    run(small(tmp_path, rounds=3))
    job = Job(small(tmp_path, rounds=3))
    assert not job.checkpoint.parent.exists() or not list(job.checkpoint.parent.iterdir())
    six = small(tmp_path)
    assert told(six).notices == [
        f"run {job.run} of 3 rounds has no checkpoint, since output.keep_checkpoint was false, so that run "
        f"{Job(six).run} starts from round 1"
    ]
    assert told(small(tmp_path, rounds=3, **KEEP)).notices == ["its checkpoint was not kept; --fresh runs it again"]
    run(small(tmp_path, rounds=3, **KEEP), fresh=True)
    assert job.checkpoint.exists()
    before = contents(tmp_path / "small", job.run)
    run(small(tmp_path, rounds=3))  # asked for again without the setting it is what it is
    assert contents(tmp_path / "small", job.run) == before


def test_the_longest_that_can_be_gone_on_from_is_taken(tmp_path):
    for rounds, changes in ((2, KEEP), (3, KEEP), (4, {}), (7, KEEP), (5, {**KEEP, "seed": 1})):
        run(small(tmp_path, rounds=rounds, **changes))
    run(small(tmp_path, rounds=5, **KEEP, algorithm__lr=0.03))
    watch = told(small(tmp_path))
    three, four = (Job(small(tmp_path, rounds=rounds)).run for rounds in (3, 4))
    assert watch.notices == [
        f"run {four} of 4 rounds has no checkpoint, since output.keep_checkpoint was false; going on from run {three} "
        "after its 3 rounds"
    ]
    assert watch.rounds == [4, 5, 6]


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        ("diverged", {"algorithm__lr": 1e6, "model__name": "mlp"}),
        ("reached_target", {"evaluation__target_accuracy": 0.01}),
        ("no_improvement", {"evaluation__patience": 1, "algorithm__lr": 1e-9}),
    ],
)
def test_only_a_finished_run_keeps_its_checkpoint_and_is_gone_on_from(tmp_path, status, changes):
    e = small(tmp_path, rounds=3, **KEEP, **changes)
    assert run(e).runs["status"].tolist() == [status]
    assert not list(Job(e).checkpoint.parent.glob("*"))
    watch = told(small(tmp_path, **changes))
    assert watch.notices == [] and watch.rounds[0] == 1


def test_an_interrupted_run_is_not_gone_on_from(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path, rounds=3, **KEEP), StoppedAt(2))
    assert told(small(tmp_path)).rounds == [1, 2, 3, 4, 5, 6]


def test_another_engine_than_trained_it_is_not_taken_over(tmp_path, monkeypatch):
    """As of a run that auto trained on a GPU; in a run of the same rounds it is refused."""
    run(small(tmp_path, rounds=3, **KEEP))
    read = longer.read_checkpoint

    def on_a_gpu(*given):
        past = read(*given)
        return dataclasses.replace(past, played=(dataclasses.replace(past.played[0], blocks=1, device="cuda"),))

    monkeypatch.setattr(longer, "read_checkpoint", on_a_gpu)
    watch = told(small(tmp_path, blocks=2))
    assert "of 3 rounds was trained with blocks = 1 on cuda, and blocks = 2 is asked for, so that" in watch.notices[0]
    assert (
        told(small(tmp_path, rounds=5))
        .notices[0]
        .endswith(
            "after its 3 rounds; it was trained on cuda, in blocks = 1, and now is on cpu, in blocks = 2, so the bits differ "
            "from an undisturbed run"
        )
    )


def test_software_that_changed_since_is_named(tmp_path, monkeypatch):
    from fedray.run import resume

    run(small(tmp_path, rounds=3, **KEEP))
    monkeypatch.setattr(resume, "fedray_source", lambda: "0123abcd")
    (notice,) = told(small(tmp_path)).notices
    assert "after its 3 rounds; software changed since (fedray's source " in notice


def test_a_dry_run_says_what_is_left_and_writes_nothing(tmp_path, capsys):
    run(small(tmp_path, rounds=3, **KEEP))
    words = [
        f"--{'.'.join([section, name])}={value}" for section, inner in _tree().items() for name, value in inner.items()
    ]
    words += [
        "--clients=4",
        "--cohort=3",
        "--rounds=6",
        f"--output.root={tmp_path}",
        "--output.name=small",
        "--dry-run",
    ]
    before = contents(tmp_path)
    assert main(words) == 0
    out = capsys.readouterr().out
    three = Job(small(tmp_path, rounds=3)).run
    assert f"in {tmp_path}/small/, going on from run {three} after its 3 rounds; 3 rounds are left" in out
    assert "for 3 rounds" in out
    assert main([*words, "--fresh"]) == 0
    assert "started over" in (out := capsys.readouterr().out) and "for 6 rounds" in out
    Job(small(tmp_path, rounds=3)).checkpoint.unlink()
    assert main(words) == 0
    assert f"from round 1: run {three} of 3 rounds has no checkpoint" in capsys.readouterr().out
    assert before.keys() - contents(tmp_path).keys() == {Job(small(tmp_path, rounds=3)).checkpoint}


def _tree():
    from small_runs import SMALL

    return {name: value for name, value in json.loads(json.dumps(SMALL)).items() if isinstance(value, dict)}


GRID = """
rounds = 6
clients = 4
cohort = 3
data = {{ dataset = "synthetic", train_examples = 160, test_examples = 120 }}
model.name = "logistic"
algorithm = {{ batch_size = 10, lr_schedule = "{schedule}" }}
cluster.backend = "in-process"
output = {{ root = "{root}", keep_checkpoint = {keep} }}
[grid]
rounds = [6, 2, 4]
seed = [0, 1]
"""


def test_in_a_sweep_over_rounds_each_goes_on_from_the_one_before(tmp_path, capsys):
    file = tmp_path / "axis.toml"
    file.write_text(GRID.format(schedule="constant", root=tmp_path / "a", keep="true"))
    assert sweep([str(file)]) == 0
    runs = results.load("axis", tmp_path / "a").runs
    assert sorted(runs["rounds_done"]) == [2, 2, 4, 4, 6, 6]
    assert runs.set_index("rounds_done")["taken_from"].isna().to_dict() == {2: True, 4: False, 6: False}
    assert "going on from run" in capsys.readouterr().out
    file.write_text(GRID.format(schedule="constant", root=tmp_path / "b", keep="false"))
    assert sweep([str(file), "--quiet"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("a/axis/checkpoints/*")}
    assert_same_tables(
        *(
            untaken(dataclasses.replace(tables, runs=tables.runs.sort_values("run", ignore_index=True)))
            for tables in (results.load("axis", tmp_path / name) for name in "ab")
        )
    )
    assert len(before) == 6
    assert sweep([str(tmp_path / "axis.toml"), f"--output.root={tmp_path / 'a'}"]) == 0
    assert {path: path.read_bytes() for path in tmp_path.glob("a/axis/checkpoints/*")} == before


def test_a_sweep_tells_once_that_shorter_runs_kept_nothing(tmp_path, capsys):
    file = tmp_path / "axis.toml"
    file.write_text(GRID.format(schedule="constant", root=tmp_path, keep="false").replace("[6, 2, 4]", "[2, 6]"))
    assert sweep([str(file)]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("since output.keep_checkpoint was false") == 1


def test_the_order_of_a_sweep_and_its_estimate(tmp_path):
    def jobs(**changes):
        return [Job(small(tmp_path, rounds=rounds, seed=seed, **changes)) for seed in (0, 1) for rounds in (6, 2, 4)]

    kept = jobs(**KEEP)
    assert [[job.experiment.rounds for job in wave] for wave in waves(kept)] == [[2, 2], [4, 4], [6, 6]]
    assert list(rounds_before(kept, fresh=True).values()) == [4, 0, 2, 4, 0, 2]
    for others in (jobs(), jobs(algorithm__lr_schedule="cosine", **KEEP)):
        assert waves(others) == [others]
        assert set(rounds_before(others, fresh=False).values()) == {0}
    run(small(tmp_path, rounds=3, **KEEP))
    assert list(rounds_before(kept, fresh=False).values()) == [4, 0, 3, 4, 0, 2]
    assert waves([]) == []


def test_runs_that_share_rounds_were_not_in_flight_together(tmp_path):
    run(small(tmp_path, rounds=3, **KEEP))
    run(small(tmp_path))
    assert not in_flight_together(results.load("small", tmp_path))


def test_a_checkpoint_that_stays_counts_in_the_plan(tmp_path):
    """What is on disk at any time of a run is within it, and of a sweep those of all runs count."""
    changes = {**SCAFFOLD, "clients": 12, "cohort": 2, "rounds": 12, "data__train_examples": 120}
    job, largest = Job(small(tmp_path, **changes, **KEEP)), [0]
    parts = {part.kind: part for part in parts_of(job)}
    working, kept = parts["checkpoints"], parts["kept"]
    assert check_disk([working, kept]) == [] and kept.sum.startswith(
        "1 x 1 MiB of the server's state, and of 11 clients"
    )
    without = {part.kind: part for part in parts_of(Job(small(tmp_path, **changes)))}
    assert "kept" not in without and without["checkpoints"].size <= working.size + kept.size

    class Weighing(Watch):
        def round(self, job, row):
            there = sum(path.stat().st_size for path in job.checkpoint.parent.glob("*"))
            largest.append(there)

    run(job.experiment, Weighing())
    stays = sum(path.stat().st_size for path in job.checkpoint.parent.iterdir())
    assert 0.3 * kept.size < stays < kept.size + 20_000
    assert 0.4 * (kept.size + working.size) < max(largest) < kept.size + working.size + 20_000
    every = {part.kind: part for part in parts_of_all([[working, kept]] * 3)}
    assert (every["checkpoints"].size, every["kept"].size) == (working.size, 3 * kept.size)
    once = Job(small(tmp_path, **{**changes, "rounds": 13, "output__checkpoint_every": 50}))
    assert [part.kind for part in parts_of(once, fresh=True)] == ["models"]
    assert [part.kind for part in parts_of(once)] == ["checkpoints", "models"]  # the one that it takes over


def test_a_run_killed_before_it_tidied_up_keeps_what_its_checkpoint_lists(tmp_path, monkeypatch):
    e = small(tmp_path, rounds=3, **KEEP, **SCAFFOLD)
    with monkeypatch.context() as patch:
        patch.setattr(Job, "tidy", lambda self: None)
        run(e)
    job = Job(e)
    assert job.checkpoint_before.exists()
    listed = {f"{job.run}.memories-{t}.safetensors" for t, *_ in checkpoint.load(job.checkpoint)[1]["memories"]}
    stale = job.checkpoint.with_name(f"{job.run}.memories-77.safetensors")
    stale.write_bytes(b"of the checkpoint before")
    run(e)
    assert {path.name for path in job.checkpoint.parent.iterdir()} == {job.checkpoint.name, *listed}
    assert told(small(tmp_path, **SCAFFOLD)).rounds == [4, 5, 6]


def test_marked_as_something_else_it_is_not_taken(tmp_path):
    run(small(tmp_path, rounds=3, **KEEP))
    mark(tmp_path, "small", Job(small(tmp_path, rounds=3)).run, "failed", "why", {})
    assert told(small(tmp_path)).rounds[0] == 1


WORDS = ["--clients=4", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=80", "--output.name=small"]
WORDS += ["--data.test_examples=60", "--model.name=logistic", "--algorithm.batch_size=10", "--algorithm.name=scaffold"]
WORDS += ["--output.checkpoint_every=1", "--output.save_best=true", "--cluster.backend=in-process"]


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_killed_before_any_file_operation_the_same_command_ends_in_the_same_numbers(tmp_path, warm, step):
    """Before every so manieth of the longer run, and in both runs the shorter one stays as it was."""
    shorter, whole, root = (tmp_path / name for name in ("shorter", "whole", "killed"))
    assert warm.run(*WORDS, "--rounds=2", "--output.keep_checkpoint=true", "--output.root", shorter)[0] == 0
    assert warm.run(*WORDS, "--rounds=4", "--output.root", whole)[0] == 0
    before = {path.relative_to(shorter): path.read_bytes() for path in shorter.rglob("*") if path.is_file()}
    once = results.load("small", whole)
    points, taken = 0, 0
    while True:
        shutil.copytree(shorter, root)
        words = [*WORDS, "--rounds=4", "--output.root", root]
        status, output, errors = warm.run(*words, at=points, under=root)
        if status == 0:
            break
        assert (status, errors) == (-signal.SIGKILL, "")
        status, output, errors = warm.run(*words)
        assert (status, errors) == (0, ""), output
        taken += "going on from run" in output
        assert "round 1/4" not in output
        run_id = once.runs["run"][0]
        assert_same_tables(untaken(results.load("small", root, run_id)), untaken(once))
        assert {path: (root / path).read_bytes() for path in before} == before
        shutil.rmtree(root)
        points += step
    assert points > 60 and taken


@pytest.mark.parametrize("how", ["rm", "archive"])
def test_a_checkpoint_that_stays_is_a_file_of_its_run(tmp_path, monkeypatch, capsys, how):
    """rm takes it along, and what was archived and unpacked elsewhere can be gone on from there."""
    from fedray.inventory.__main__ import main as inventory

    monkeypatch.chdir(tmp_path)
    e = small(tmp_path / "results", rounds=3, **KEEP, **SCAFFOLD)
    run(e)
    job = Job(e)
    assert inventory(["show", job.run]) == 0
    assert f"checkpoints/{job.checkpoint.name}" in capsys.readouterr().out
    if how == "rm":
        assert inventory(["rm", job.run, "--yes"]) == 0
        assert not list(job.checkpoint.parent.iterdir())
        return
    assert inventory(["archive", "small", "--yes", "--remove", "--to", "kept.tar.gz"]) == 0
    assert not list(job.checkpoint.parent.iterdir())
    shutil.unpack_archive("kept.tar.gz", tmp_path / "elsewhere", filter="data")
    assert told(small(tmp_path / "elsewhere", **SCAFFOLD)).rounds == [4, 5, 6]


def test_a_run_of_another_folder_is_not_found(tmp_path):
    run(small(tmp_path, rounds=3, **KEEP))
    assert told(small(tmp_path, output__name="other")).rounds[0] == 1


def test_refused_settings_leave_nothing_and_touch_nothing(tmp_path):
    run(small(tmp_path, rounds=3, **KEEP))
    before = contents(tmp_path)
    with pytest.raises(BadInputError, match="keep_checkpoint"):
        small(tmp_path, output__keep_checkpoint="perhaps")
    assert contents(tmp_path) == before
