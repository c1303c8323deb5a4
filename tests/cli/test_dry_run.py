"""python -m fedray --dry-run: the plan of one run, without a Ray and without a file."""

import re
import sys

import pytest

from fedray.__main__ import main
from fedray.cli.command_line import report_errors
from fedray.results import load

SETTINGS = ["--rounds=4", "--clients=12", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=160"]
SETTINGS += ["--data.test_examples=120", "--model.name=logistic", "--algorithm.name=scaffold", "--output.name=plan"]
SETTINGS += ["--partition.name=dirichlet", "--output.checkpoint_every=1"]


def said(capsys, *words):
    """The lines of a program that came to a good end, by their labels."""
    assert report_errors(lambda: main(list(map(str, words)))) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {line[:10].strip(): line[10:] for line in out.splitlines()}


def test_the_plan_of_a_run_is_what_the_run_then_takes(tmp_path, capsys):
    words = [*SETTINGS, "--output.root", tmp_path, "--cluster.backend=in-process"]
    lines = said(capsys, *words, "--dry-run")
    assert not list(tmp_path.iterdir())
    assert list(lines) == ["run", "data", "clients", "model", "actors", "memory", "disk", "traffic", "time"]
    assert lines["time"] == "no run of these results is known to estimate the time by"
    main(list(map(str, words)))
    capsys.readouterr()
    found = load("plan", tmp_path)
    sizes = found.population["num_examples"]
    spread = f"12, dirichlet shards of {sizes.min()} to {sizes.max()} images, {sizes.median():.0f} the median"
    assert lines["clients"] == f"{spread}; 3 take part in each of 4 rounds"
    down, up = (found.rounds[name] for name in ("bytes_down", "bytes_up"))
    assert (down.nunique(), up.nunique()) == (1, 1)
    whole = f"{(down + up).sum() / 1e6:.4g} MB in all"
    assert lines["traffic"] == f"{down[0] / 1e6:.3g} MB down and {up[0] / 1e6:.3g} MB up a round, {whole}"
    assert lines["run"].startswith(f"{found.runs['run'][0]} in {tmp_path}/plan/")
    assert lines["disk"].startswith("checkpoints of 2 MiB (3 x 1 MiB of the server's state, and of ")
    again = said(capsys, *words, "--dry-run")
    assert again["run"].endswith(", finished before and not repeated")
    assert again["time"] == "no round is left"
    more = said(capsys, *words, "--dry-run", "--seed=1")
    assert re.fullmatch(r"about \d+ seconds? for 4 rounds, by 1 known run", more["time"])
    assert said(capsys, *words, "--dry-run", "--model.name=mlp")["time"].startswith("no run of mlp is known")


def test_no_ray_is_started_for_the_plan_of_its_actors(tmp_path, capsys):
    lines = said(capsys, *SETTINGS, "--output.root", tmp_path, "--cluster.cpus=2", "--dry-run")
    assert re.match(r"\d+ Ray actors, (one for each client|12 clients packed into them), ", lines["actors"])
    assert re.fullmatch(r"\d+ x \d+ MiB and \d+ MiB of shared memory; [\d,]+ MiB are free", lines["memory"])
    assert not ("ray" in sys.modules and sys.modules["ray"].is_initialized())
    assert not list(tmp_path.iterdir())
    joined = said(capsys, *SETTINGS, "--output.root", tmp_path, "--cluster.address=auto", "--dry-run")
    assert joined["actors"] == "as many as fit the cluster at auto, which a dry run does not ask"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--cluster.clients_per_actor=1", "--clients=5000", "--engine=plain"], "5000 actors x .* but there are"),
        (["--json"], "--json cannot go with --dry-run"),
        (["--algorithm.drop_last=true"], "fewer than algorithm.batch_size"),
    ],
)
def test_a_run_that_would_be_refused_is_refused_with_the_same_sentence(tmp_path, capsys, words, why):
    settings = [*SETTINGS, "--cluster.cpus=2", "--data.train_examples=6000", "--partition.name=iid"]
    settings += ["--cluster.cpus_per_actor=1", "--output.root", str(tmp_path), *words]
    if "drop_last" in words[0]:
        settings += ["--data.train_examples=160"]
    assert report_errors(lambda: main([*settings, "--dry-run"])) == 2
    assert re.search(why, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
