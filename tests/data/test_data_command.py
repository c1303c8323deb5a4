"""python -m fedray.data: what it prints, what it writes, and what it refuses."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzzing import end_of, on_disk
from PIL import Image

from fedray.partition import main
from fedray.report.look import PAPER
from fedray.report.shard_figures import CLIENTS, shards_figure

SMALL = ["--data.dataset", "synthetic", "--data.train_examples", "600", "--data.test_examples", "20"]


def said(*argv):
    end = end_of(main, *SMALL, *argv)
    assert (end.status, end.err) == (0, ""), end
    return end.out


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_the_partition_and_writes_nothing(here):
    out = said("--partition.name", "shards", "--partition.shards_per_client", "1", "--clients", "10")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line and not line.startswith(" "))
    assert lines["data"].startswith("synthetic (generated), 600 training and 20 test images")
    assert lines["clients"] == "10, shards shards of 60 images; 5 take part in a round"
    assert re.fullmatch("[0-9a-f]{16}", lines["partition"])
    assert lines["examples"] == "0 in no shard, 0 in several"
    assert lines["sizes"] == "60 to 60, median 60; coefficient of variation 0.000, Gini coefficient 0.000"
    assert re.search(r"^ +60  █{40} 10$", out, re.MULTILINE)
    rows = re.findall(r"^ +(\d) ((?: +[\d·]+){10}) +60$", out, re.MULTILINE)
    assert [int(client) for client, _ in rows] == list(range(10))
    assert all(sum(int(count) for count in cells.split() if count != "·") == 60 for _, cells in rows)
    assert on_disk(here) == {}


def test_it_needs_no_place_for_results_and_no_cohort(here):
    """A run does: what it takes part in and writes is nothing to a partition."""
    (here / "file").write_text("")
    assert "4, iid shards of 150 images; 4 take part in a round" in said("--clients", "4", "--output.root", "file")
    (here / "few.toml").write_text("clients = 2\n")
    assert "2 take part in a round" in said("few.toml")
    assert "2 take part in a round" in said("--clients", "4", "--cohort", "2")
    assert "5 take part in a round" in said("--clients", "5")
    end = end_of(main, *SMALL, "--clients", "4", "--cohort", "5")
    assert (end.status, "cohort = 5 is larger than the population, clients = 4" in end.err) == (2, True)


def test_images_of_other_channels_than_grey_and_colour_are_not_drawn(here, monkeypatch):
    (here / "two.py").write_text(
        "import numpy as np\ndef channels():\n    x = np.zeros((9, 2, 4, 4), np.uint8)\n    return x, [0] * 9, x, [0] * 9\n"
    )
    monkeypatch.syspath_prepend(here)
    words = ["--data.dataset", "two:channels", "--clients", "3", "--skew.noise", "0.1"]
    end = end_of(main, *words, "--images", "seen.png", "--figure", "drawn.png")
    assert (end.status, end.out) == (2, "")
    assert "--images can draw grey images and coloured ones, not 2 channels" in end.err
    assert [path.name for path in here.glob("*.png")] == []
    assert end_of(main, *words, "--figure", "drawn.png").status == 0


def test_it_is_the_partition_of_a_run_with_the_same_settings(here):
    from fedray.experiment import read_experiment
    from fedray.run.prepared import Job
    from fedray.run.run_columns import run_row

    (here / "mine.toml").write_text(
        "clients = 7\n[partition]\nname = 'dirichlet'\nalpha = 0.2\n[grid]\nseed = [1, 2]\n"
    )
    out = said("mine.toml", "--seed", "3")
    settings = {"data.dataset": "synthetic", "data.train_examples": 600, "data.test_examples": 20, "seed": 3}
    assert f"partition {run_row(Job(read_experiment(here / 'mine.toml', settings)))['partition_id']}" in out
    assert "only the base settings of mine.toml are drawn" in out


def test_examples_in_no_shard_and_in_several_are_counted():
    out = said("--partition.name", "sampled", "--partition.examples", "100")
    (unused, shared) = map(
        int, re.search(r"^examples +(\d+) in no shard, (\d+) in several", out, re.MULTILINE).groups()
    )
    assert 70 < unused < 125  # ten draws of a sixth: 600 (5/6)^10 = 97
    assert 270 < shared < 350  # 600 (1 - (5/6)^10 - 10/6 (5/6)^9) = 309
    assert f"{unused} images are in no shard; 5 take part" in out


def test_of_many_clients_the_first_are_in_the_table():
    out = said("--clients", "50")
    assert "the first 20 of 50 clients; --figure PATH.png draws more" in out
    assert len(re.findall(r"^ +\d+ (?: +[\d·]+){10} +12$", out, re.MULTILINE)) == 20


def test_figures_are_written_whole(here):
    out = said("--clients", "30", "--figure", "one.svg", "two.PNG", "--skew.noise", "0.1", "--images", "three.png")
    assert sorted(path.name for path in here.iterdir()) == ["one.svg", "three.png", "two.PNG"]
    assert out.splitlines()[-3:] == ["one.svg", "two.PNG", "three.png"]
    svg = (here / "one.svg").read_text()
    assert svg.startswith("<svg")
    assert "synthetic (generated), iid, seed 0; 30 clients" in svg
    assert all(word in svg for word in ("triangle", "examples of a client"))
    with Image.open(here / "two.PNG") as picture:
        assert picture.size[0] > 1000
        assert picture.size[1] > 500
    with Image.open(here / "three.png") as picture:
        cells = np.asarray(picture)
    assert cells.shape == (4 + 11 * 100, 90 + 8 * 100, 3)  # the images as they are, and ten clients
    of_each = [cells[4 + 100 * row : 100 + 100 * row, 90:186].astype(int) for row in range(11)]
    noise = [np.abs(seen - of_each[0]).mean() for seen in of_each]
    assert noise == sorted(noise)
    assert noise[0] == 0 < noise[1]


@pytest.mark.parametrize("clients", [1, 10, CLIENTS, CLIENTS + 1, 1000])
def test_the_figure_draws_as_many_clients_as_can_be_seen_and_says_which(clients):
    counts = np.random.default_rng(0).integers(1, 20_000, (clients, 3))
    figure = shards_figure("mine", counts, ["a", "b", "c"])
    drawn = [row for row in figure.rows if "client" in row]
    numbers = sorted({row["client"] for row in drawn})
    every = 1 if clients <= CLIENTS else 2 if clients == CLIENTS + 1 else 10
    assert numbers == list(range(0, clients, every))
    assert all(row["count"] == counts[row["client"], "abc".index(row["label_name"])] for row in drawn)
    bars = [row for row in figure.rows if "from" in row]
    assert sum(row["clients"] for row in bars) == clients
    assert (bars[0]["from"], bars[-1]["to"]) == (counts.sum(1).min() - 0.5, counts.sum(1).max() + 0.5)
    words = json.dumps(figure.specification(PAPER))
    shown = {1: "mine; 1 client", 101: "clients 0, 2, 4, ... of 101", 1000: "clients 0, 10, 20, ... of 1,000"}
    assert shown.get(clients, f"mine; {clients} clients") in words
    assert Image.open(io.BytesIO(figure.png())).size[0] > 1000


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--figure", "mine.pdf"], "--figure 'mine.pdf' must end in .svg or .png"),
        (["--figure", "mine"], "--figure 'mine' must end in .svg or .png"),
        (["--figure", "nowhere/mine.svg"], "--figure 'nowhere/mine.svg' cannot be written: No such file or directory"),
        (["--figure", "folder.svg"], "--figure 'folder.svg' cannot be written: it is a folder"),
        (["--figure", "fine.svg", "x" * 300 + ".png"], "cannot be written: File name too long"),
        (["--images", "mine.svg", "--skew.noise", "1"], "--images 'mine.svg' must end in .png"),
        (["--images", "mine.png"], "--images shows what [skew] does to images, and skew.noise, rotation and colour are 0"),
        (["--partition.name", "natural"], "data.user_column names the column of the users"),
        (["--clients", "601"], "601 clients with at least 1 example each need 601 examples"),
        (["--skew.rotation", "200"], "skew.rotation = '200' must be less than or equal to 180"),
        (["--skew.nois", "1"], "did you mean skew.noise?"),
        (["--fgure", "a.svg"], "did you mean figure?"),
        (["--partition.name", "quantity_skew", "--partition.sigma", "-1"], "partition.sigma = '-1' must be greater"),
        (["--partition.name", "quantity_skew", "--partition.distribution", "zipf"], "partition.distribution = 'zipf'"),
        (["--partition.name", "quantity_skew", "--partition.exponent", "many"], "partition.exponent = 'many'"),
        (["--partition.name", "shards", "--partition.shards_per_client", "0"], "partition.shards_per_client = '0'"),
        (["--partition.name", "natural", "--partition.min_size", "0"], "partition.min_size = '0'"),
        (["--partition.name", "shardss"], "did you mean shards?"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_a_sentence(here, argv, sentence):
    (here / "folder.svg").mkdir()
    end = end_of(main, *SMALL, *argv)
    assert (end.status, end.out) == (2, "")
    assert sentence in end.err
    assert [path.name for path in here.iterdir()] == ["folder.svg"]


def test_it_starts_from_the_shell_without_torch(here):
    """Its help too: torch takes seconds to import, and nothing here computes with it."""
    code = (
        "import sys, runpy; sys.argv[1:] = {!r}; runpy.run_module('fedray.data', run_name='__main__', alter_sys=True)"
    )
    finder = "class No:\n def find_spec(self, name, *_):\n  assert name.partition('.')[0] not in ('torch', 'ray')\nsys.meta_path.insert(0, No())\n"
    argv = [*SMALL, "--skew.rotation", "5", "--figure", "a.png", "--images", "b.png"]
    for words in (argv, ["--help"]):
        program = "import sys\n" + finder + code.format(words)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert "python -m fedray.data [FILE.toml] [--SETTING VALUE ...]" in done.stdout
    assert all(word in done.stdout for word in ("--figure PATH", "--images PATH.png", "--skew.noise FLOAT"))
