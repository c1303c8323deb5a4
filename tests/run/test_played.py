"""What `auto` is where a run is: engine, blocks and device are recorded, and the id is the same everywhere.

"cpu:0" stands for a GPU here: a device with a memory of its own.
"""

import json

import pyarrow.parquet as pq
import pytest
from small_runs import assert_same_tables, small, stopped_after

from fedray import results
from fedray.cli.command_line import report_errors
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError, DamagedError
from fedray.core.updates import cut
from fedray.report.__main__ import main as report
from fedray.run import checkpoint, played, run
from fedray.run.played import Played, decide, describe_change, followed
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.sweep.__main__ import main as sweep
from fedray.training.fused.version import FORMS_VERSION

MANY = {"clients": 101, "cohort": 3, "data__train_examples": 202, "model__name": "lenet5"}
HERE = ("engine", "blocks", "device", "forms_version")


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


@pytest.fixture
def gpu(monkeypatch):
    """Has runs be on "cpu:0" from now on, or, called, on the device of this name."""

    def put(device="cpu:0"):
        monkeypatch.setattr("fedray.training.device.choose_device", lambda wanted: device if wanted else "cpu")

    put()
    return put


def on_a_gpu(tmp_path, **changes):
    """The engine and the number of blocks of these settings on a GPU."""
    found = decide(Job(small(tmp_path, **{**MANY, **changes})), "cuda")
    return found.engine, found.blocks


# The rule.


def test_on_a_gpu_auto_is_fused_for_more_than_100_clients(tmp_path):
    assert on_a_gpu(tmp_path) == ("fused", 1)
    assert on_a_gpu(tmp_path, clients=100) == ("plain", 16)


def test_on_a_cpu_it_is_what_the_id_has(tmp_path):
    job = Job(small(tmp_path, **MANY))
    assert decide(job, "cpu") == Played("plain", 16, "cpu")
    assert (job.experiment.engine, job.experiment.blocks) == ("plain", 16)


@pytest.mark.parametrize("model", ["logistic", "mlp"])
@pytest.mark.parametrize("clients", [10, 101])
def test_what_is_fused_on_a_cpu_is_fused_on_a_gpu(tmp_path, model, clients):
    assert on_a_gpu(tmp_path, model__name=model, clients=clients)[0] == "fused"


def test_what_cannot_be_fused_stays_plain(tmp_path, monkeypatch):
    (tmp_path / "noisy_model.py").write_text(
        "from torch import nn\n\n\nclass Noisy(nn.Module):\n    def __init__(self, shape, classes):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(3072, 10)\n\n    def forward(self, x):\n        x = x.flatten(1)\n"
        "        return self.linear(x + x.new_empty(x.shape).normal_())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert on_a_gpu(tmp_path, model__name="noisy_model:Noisy") == ("plain", 16)  # only the model as it is built tells
    assert on_a_gpu(tmp_path, algorithm__name="moon") == ("plain", 16)
    (tmp_path / "branching.py").write_text(
        "from fedray import FedAvg\n\n\nclass Branching(FedAvg):\n    def loss(self, output, targets):\n"
        "        loss = super().loss(output, targets)\n        return loss if loss.item() < 9 else 9 * loss\n"
    )
    assert on_a_gpu(tmp_path, algorithm__name="branching:Branching") == ("plain", 16)  # it is tried
    assert on_a_gpu(tmp_path, cluster__clients_per_actor=1) == ("plain", 16)


def test_what_is_asked_for_is_played_on_a_gpu_too(tmp_path):
    assert on_a_gpu(tmp_path, engine="plain") == ("plain", 16)
    assert on_a_gpu(tmp_path, blocks=3) == ("fused", 3)
    assert on_a_gpu(tmp_path, engine="fused", clients=10, blocks=2) == ("fused", 2)
    assert on_a_gpu(tmp_path, engine="fused", clients=10) == ("fused", 1)


def test_automatic_blocks_on_a_gpu_have_at_most_50_clients_and_are_work_for_eight(tmp_path):
    for cohort, count in ((1, 1), (50, 1), (51, 2), (100, 2), (400, 8), (1000, 20)):
        changes = {"clients": 1000, "cohort": cohort, "data__train_examples": 1000}
        assert on_a_gpu(tmp_path, **changes) == ("fused", count)
        assert max(map(len, cut(list(range(cohort)), count))) <= 50


def test_the_rule_does_not_depend_on_how_many_gpus_or_actors_there_are(tmp_path):
    for cluster in ({"gpus": 1}, {"gpus": 8}, {"gpus_per_client": 0.5}, {"clients_per_actor": 7}):
        assert on_a_gpu(tmp_path, **{f"cluster__{name}": value for name, value in cluster.items()}) == ("fused", 1)


@pytest.mark.parametrize(
    ("changes", "engine"),
    [
        ({"model": "cnn"}, "plain"),
        ({"model": "resnet18"}, "plain"),
        ({"model": "mlp"}, "fused"),
        ({"model": "mlp", "algorithm__optimizer": "adam", "algorithm__momentum": 0}, "plain"),
        ({"model": "mlp", "algorithm__name": "ditto"}, "plain"),
        ({"model": "mlp", "algorithm__name": "fedper"}, "plain"),
        ({"model": "mlp", "algorithm__name": "moon"}, "plain"),
        ({"model": "mlp", "algorithm__name": "scaffold", "algorithm__option": "I"}, "plain"),
        ({"model": "mlp", "algorithm__name": "scaffold"}, "fused"),
        ({"model": "mlp", "algorithm__name": "fedprox"}, "fused"),
    ],
)
def test_the_engine_that_ids_have_is_that_of_0_3_0_whatever_can_be_fused_since(tmp_path, changes, engine):
    changes = {"model__name" if name == "model" else name: value for name, value in changes.items()}
    assert small(tmp_path, **changes).resolved().engine == engine


# What is recorded.


def test_the_id_is_the_same_and_the_row_says_what_ran(tmp_path, gpu):
    there = run(small(tmp_path / "gpu", **MANY), watch := Noting())
    gpu("cpu")
    here = run(small(tmp_path / "cpu", **MANY))
    assert there.runs["run"].tolist() == here.runs["run"].tolist()
    for tables in (there, here):
        settings = json.loads(tables.runs["settings"][0])
        assert (settings["engine"], settings["blocks"]) == ("plain", 16)
    assert there.runs[list(HERE)].to_dict("records") == [
        {"engine": "fused", "blocks": 1, "device": "cpu:0", "forms_version": FORMS_VERSION}
    ]
    assert here.runs[["engine", "blocks", "device"]].to_numpy().tolist() == [["plain", 16, "cpu"]]
    assert here.runs[["forms_version", "played_before"]].isna().all(axis=None)
    assert watch.notices == [
        "engine = auto is fused on a GPU for more than 100 clients, and has blocks = 1 here; the run has the id that "
        "it has on a CPU, of engine = plain"
    ]
    assert there.runs["model_fingerprint"][0] != here.runs["model_fingerprint"][0]


def test_auto_on_a_gpu_has_the_bits_of_the_engine_that_it_names(tmp_path, gpu):
    auto = run(small(tmp_path / "auto", **MANY))
    asked = run(small(tmp_path / "asked", **MANY, engine="fused", blocks=1))
    assert auto.runs["run"][0] != asked.runs["run"][0]
    assert auto.runs["model_fingerprint"].tolist() == asked.runs["model_fingerprint"].tolist()


def test_up_to_100_clients_a_notice_names_the_fused_engine(tmp_path, gpu):
    few = {**MANY, "clients": 100, "data__train_examples": 200}
    tables = run(small(tmp_path, **few), watch := Noting())
    assert tables.runs["engine"].tolist() == ["plain"]
    assert watch.notices == [
        "engine = fused would train a block's clients as one program, which is what keeps a GPU busy"
    ]
    run(small(tmp_path / "moon", **few, algorithm__name="moon", evaluation__every=6), silent := Noting())
    assert silent.notices == []


def test_of_models_without_convolutions_no_form_is_recorded(tmp_path):
    assert run(small(tmp_path, model__name="mlp")).runs["forms_version"].isna().all()
    assert (
        run(small(tmp_path, engine="fused", rounds=1, model__name="lenet5")).runs["forms_version"][0] == FORMS_VERSION
    )


# Going on elsewhere.


def test_a_run_that_goes_on_elsewhere_says_so_and_keeps_what_was_before(tmp_path, gpu):
    stopped_after(tmp_path, 2, **MANY)
    gpu("cpu")
    job = Job(small(tmp_path, **MANY))
    tables = run(small(tmp_path, **MANY), watch := Noting())
    said = (
        f"continuing run {job.run} after round 2; it was trained on cpu:0, with engine = fused, in blocks = 1, and now "
        "is on cpu, with engine = plain, in blocks = 16, so the bits differ from an undisturbed run"
    )
    assert watch.notices == [said]
    assert tables.events.loc[tables.events["kind"] == "resumed", "detail"].tolist() == [said]
    assert tables.runs[["engine", "blocks", "device"]].to_numpy().tolist() == [["plain", 16, "cpu"]]
    assert json.loads(tables.runs["played_before"][0]) == [
        {"engine": "fused", "blocks": 1, "device": "cpu:0", "forms_version": FORMS_VERSION, "rounds": 2}
    ]


def test_a_run_that_goes_on_as_it_was_says_nothing_of_it(tmp_path, gpu):
    undisturbed = run(small(tmp_path / "whole", **MANY))
    stopped_after(tmp_path, 2, **MANY)
    tables = run(small(tmp_path, **MANY), watch := Noting())
    assert watch.notices[1:] == [f"continuing run {tables.runs['run'][0]} after round 2"]
    assert_same_tables(tables, undisturbed)


def test_a_run_that_goes_on_across_forms_of_convolutions_says_so(tmp_path, monkeypatch):
    settings = {"engine": "fused", "model__name": "lenet5"}
    monkeypatch.setattr(played, "FORMS_VERSION", FORMS_VERSION + 1)
    stopped_after(tmp_path, 2, **settings)
    before = Job(small(tmp_path, **settings)).run
    monkeypatch.undo()
    tables = run(small(tmp_path, **settings), watch := Noting())
    assert tables.runs["run"].tolist() == [before]  # not in the id
    assert watch.notices == [
        f"continuing run {before} after round 2; it was trained by version {FORMS_VERSION + 1} of the fused engine's "
        f"convolutions and now is by version {FORMS_VERSION} of the fused engine's convolutions, so the bits differ "
        "from an undisturbed run"
    ]
    assert tables.runs["forms_version"][0] == FORMS_VERSION
    assert [each["forms_version"] for each in json.loads(tables.runs["played_before"][0])] == [FORMS_VERSION + 1]


def without_columns(job):
    """Make the checkpoints of a run those of a version that did not record what trained it."""
    for path in (job.checkpoint, job.checkpoint_before):
        if path.exists():
            arrays, meta, memories = checkpoint.load(path)
            kept = list(memories)
            old = {name: value for name, value in meta.items() if name not in (*HERE, "played_before")}
            checkpoint.save(path, arrays, old | {"device": "cpu"}, kept, len(kept))


def test_a_checkpoint_without_the_columns_was_trained_as_its_settings_say(tmp_path):
    """By forms of version 1, which on a CPU are those of version 2."""
    settings = {"engine": "fused", "model__name": "lenet5", "blocks": 2}
    stopped_after(tmp_path, 2, **settings)
    job = Job(small(tmp_path, **settings))
    without_columns(job)
    tables = run(small(tmp_path, **settings), watch := Noting())
    assert watch.notices == [f"continuing run {job.run} after round 2"]
    assert tables.runs["played_before"].isna().all()
    then, now = (Played("fused", 2, "cuda", version) for version in (1, 2))
    assert played.differing(then, now) == ["forms_version"]


def test_what_was_before_is_kept_through_several_changes():
    one, two = Played("plain", 16, "cpu"), Played("fused", 1, "cuda", 2)
    assert followed((), 0, one) == []
    assert followed((one,), 3, one) == []
    once = followed((one,), 3, two)
    assert once == [Played("plain", 16, "cpu", rounds=3)]
    assert followed((*once, two), 5, two) == once
    assert followed((*once, two), 5, one) == [*once, Played("fused", 1, "cuda", 2, 5)]
    assert followed((Played("plain", 16, ""),), 3, one) == []  # of an old checkpoint the device may not be known
    assert describe_change(Played("plain", 16, ""), one) == ""


# Nothing that was asked for takes over what auto played otherwise.


def refused(tmp_path, **changes):
    with pytest.raises(BadInputError) as error:
        run(small(tmp_path, **MANY, **changes))
    return str(error.value)


ASKED = [
    ({"engine": "plain"}, "engine = fused on cpu:0", "engine = plain", "engine"),
    ({"blocks": 16}, "blocks = 1 on cpu:0", "blocks = 16", "blocks"),
    (
        {"engine": "plain", "blocks": 16},
        "engine = fused and blocks = 1 on cpu:0", "engine = plain and blocks = 16", "engine and blocks",
    ),
]  # fmt: skip


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("device", ["cpu:0", "cpu"])
@pytest.mark.parametrize(("asked", "there", "here", "names"), ASKED)
def test_what_is_asked_for_never_takes_over_what_auto_played_otherwise(
    tmp_path, gpu, asked, there, here, names, device, ended
):
    """Whether it has ended or left a checkpoint, and wherever it is asked for."""
    run(small(tmp_path, **MANY)) if ended else stopped_after(tmp_path, 3, **MANY)
    job = Job(small(tmp_path, **MANY))
    assert Job(small(tmp_path, **MANY, **asked)).run == job.run
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    gpu(device)
    assert refused(tmp_path, **asked) == (
        f"run {job.run} in {job.folder}/ was trained with {there}, which auto chose there, and {here} has the same id; "
        f"set another output.name, or leave {names} on auto to take it as it is"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_both_ways_out_of_the_refusal_lead_out(tmp_path, gpu):
    stopped_after(tmp_path, 3, **MANY)
    another = run(small(tmp_path, **MANY, engine="plain", output__name="another"))
    assert another.runs["engine"].tolist() == ["plain"]
    assert run(small(tmp_path, **MANY)).runs["engine"].tolist() == ["fused"]


def test_started_over_it_is_what_was_asked_for(tmp_path, gpu):
    run(small(tmp_path, **MANY))
    assert run(small(tmp_path, **MANY, engine="plain"), fresh=True).runs["engine"].tolist() == ["plain"]


def test_a_part_that_auto_played_otherwise_is_refused_too(tmp_path, gpu):
    stopped_after(tmp_path, 2, **MANY)
    gpu("cpu")
    run(small(tmp_path, **MANY))
    assert "was trained with engine = fused on cpu:0" in refused(tmp_path, engine="plain")


def test_what_is_asked_for_takes_over_what_auto_played_alike(tmp_path):
    auto = run(small(tmp_path, **MANY))
    again = run(small(tmp_path, **MANY, engine="plain", blocks=16), watch := Noting())
    assert_same_tables(auto, again)
    assert watch.notices == []


def test_auto_takes_what_was_asked_for_as_it_is(tmp_path, gpu):
    asked = run(small(tmp_path, **MANY, engine="plain"))
    auto = run(small(tmp_path, **MANY))
    assert_same_tables(asked, auto)
    assert auto.runs["engine"].tolist() == ["plain"]


def test_a_damaged_record_of_what_trained_a_run_is_one_sentence(tmp_path):
    job = Job(small(tmp_path))
    for record in ("[", '[{"engine": 1}]', "{}x", "[3]"):
        with pytest.raises(DamagedError, match=f"the record of what trained run {job.run} in .* is damaged"):
            played.read_played(job, {"played_before": record}, {})


# Sweeps, the report, comparisons.

GRID = """
rounds = 2
clients = 101
cohort = 3
[data]
dataset = "synthetic"
train_examples = 202
test_examples = 20
[model]
name = "lenet5"
[cluster]
backend = "in-process"
[output]
root = "{root}"
[grid]
seed = [0, 1]
"""


def start_sweep(tmp_path, *words):
    file = tmp_path / "lr.toml"
    file.write_text(GRID.format(root=tmp_path / "results"))
    return report_errors(lambda: sweep([str(file), *words]))


def test_a_sweep_is_on_auto_as_a_run_is_and_is_refused_as_it_is(tmp_path, gpu, capsys):
    assert start_sweep(tmp_path) == 0
    assert results.load("lr", tmp_path / "results").runs["engine"].tolist() == ["fused"] * 2
    assert start_sweep(tmp_path) == 0  # all of it had ended
    capsys.readouterr()
    assert start_sweep(tmp_path, "--engine", "plain") == 2
    assert "set another output.name, or leave engine on auto to take it as it is" in capsys.readouterr().err
    assert start_sweep(tmp_path, "--engine", "plain", "--output.name", "other") == 0
    assert results.load("other", tmp_path / "results").runs["engine"].tolist() == ["plain"] * 2


def test_of_points_with_one_id_that_which_asks_has_its_way(tmp_path, gpu):
    assert start_sweep(tmp_path, "--grid", "engine=auto,plain", "seed=0") == 0
    assert results.load("lr", tmp_path / "results").runs["engine"].tolist() == ["plain"]


def test_comparisons_and_the_report_go_by_the_engine_that_ran(tmp_path, gpu):
    assert start_sweep(tmp_path) == 0
    gpu("cpu")
    assert start_sweep(tmp_path, "--grid", "seed=2,3") == 0
    found = results.load("lr", tmp_path / "results")
    assert found.runs.set_index("seed")["engine"].to_dict() == {0: "fused", 1: "fused", 2: "plain", 3: "plain"}
    assert results.varied(found) == ["engine"]
    assert report([str(tmp_path / "results" / "lr")]) == 0
    page = (tmp_path / "results" / "lr" / "report.html").read_text()
    assert "fused" in page and "cpu:0, cpu" in page and "fused convolutions" in page
    assert "Trained in two ways" not in page


def test_the_report_says_which_runs_were_trained_in_two_ways(tmp_path, gpu):
    stopped_after(tmp_path, 2, **MANY)
    gpu("cpu")
    run(small(tmp_path, **MANY))
    assert report([str(tmp_path / "small")]) == 0
    assert "Trained in two ways" in (tmp_path / "small" / "report.html").read_text()


def test_in_files_that_lack_the_columns_they_are_null_and_load_fills_in_the_settings(tmp_path):
    tables = run(small(tmp_path, rounds=1, blocks=7, model__name="lenet5"))
    path = tmp_path / "small" / "runs" / f"{tables.runs['run'][0]}.parquet"
    pq.write_table(pq.ParquetFile(path).read().drop_columns([*HERE[:2], *HERE[3:], "played_before"]), path)
    loaded = results.load("small", tmp_path).runs
    assert loaded[["engine", "blocks"]].to_numpy().tolist() == [["plain", 7]]
    assert loaded[["forms_version", "played_before"]].isna().all(axis=None)


def test_the_device_of_actors_that_may_get_a_gpu_is_that_of_their_plan():
    from fedray.cluster.capacity import Capacity
    from fedray.cluster.needs import Needs
    from fedray.cluster.plan import plan, reserves_gpus

    for gpus, held in ((0, 0), (2, 0), (0, 2)):
        capacity = Capacity((4.0,), float(gpus), 2.0**34, held_gpus=float(held))
        for clients in (1, 10, 101):
            for settings in ({}, {"gpus_per_client": 0.0}, {"clients_per_actor": 200}):
                planned = plan(Cluster(**settings), clients, capacity, Needs(1000))
                assert reserves_gpus(Cluster(**settings), capacity) == (planned.num_gpus > 0)


def test_the_driver_reads_the_version_of_the_forms_without_torch():
    import subprocess
    import sys

    code = "import sys, fedray.run.played; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
