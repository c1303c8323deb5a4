"""Partitions of the user's own, by address: in TOML, on the command line, in the help; checked before anything is written."""

import sys

import numpy as np
import pytest
from small_runs import small

from fedray.cli.command_line import options, read_command_line
from fedray.core.errors import BadInputError
from fedray.data.partitions.even import Contiguous
from fedray.run import run
from fedray.run.prepared import Job
from fedray.sweep.__main__ import experiments

TEXT = '''
from typing import ClassVar

import numpy as np

from fedray import section, setting


@section
class Pieces:
    """Consecutive examples."""

    name: ClassVar[str] = "pieces"
    skip: int = setting(0, "Examples that nobody holds.", ge=0)

    def split(self, labels, clients, seed):
        return np.array_split(np.arange(self.skip, len(labels)), clients)


@section
class Wrong:
    name: ClassVar[str] = "wrong"

    def split(self, labels, clients, seed):
        rows = np.arange(len(labels))
        return WRONG


class Undeclared:
    name: ClassVar[str] = "undeclared"
    skip: int = setting(0, "Examples that nobody holds.", ge=0)

    def split(self, labels, clients, seed):
        return np.array_split(np.arange(len(labels)), clients)


@section
class Splitless:
    name: ClassVar[str] = "splitless"
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the module with a result for Wrong; gives the module's name, which is a new one."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def module(wrong="[]"):
        write.made = getattr(write, "made", 0) + 1
        names.append(f"own_partition_{write.made}")
        (tmp_path / f"{names[-1]}.py").write_text(TEXT.replace("WRONG", wrong))
        return names[-1]

    yield module
    for name in names:
        sys.modules.pop(name, None)


def test_it_is_chosen_as_any_other_and_its_rows_are_used(tmp_path, write):
    name = write()
    chosen = small(tmp_path, partition={"name": f"{name}:Pieces", "skip": "40"}, rounds=1)
    assert [rows.tolist() for rows in Job(chosen).shards] == np.arange(40, 160).reshape(4, 30).tolist()
    tables = run(chosen)
    assert tables.population["num_examples"].tolist() == [30] * 4
    assert (tables.runs["partition"][0], tables.runs["partition.skip"][0]) == (f"{name}:Pieces", 40)
    whole = run(small(tmp_path / "own", partition={"name": f"{name}:Pieces"}, rounds=1))
    same = run(small(tmp_path / "fedrays", partition={"name": Contiguous.name}, rounds=1))
    assert whole.runs["model_fingerprint"][0] == same.runs["model_fingerprint"][0]


def test_its_settings_are_options_of_the_command_line_of_the_help_and_of_sweeps(tmp_path, write, capsys):
    name = write()
    words = [f"--partition.name={name}:Pieces", "--partition.skip", "10"]
    assert read_command_line(words, "fedray", "").overrides["partition.skip"] == "10"
    with pytest.raises(SystemExit):
        read_command_line([*words, "--help"], "fedray", "")
    assert "Examples that nobody holds." in capsys.readouterr().out
    file = tmp_path / "s.toml"
    file.write_text(
        f'data.dataset = "synthetic"\n[partition]\nname = "{name}:Pieces"\n[grid]\npartition.skip = [1, 2]\n'
    )
    found = experiments(read_command_line([str(file)], "fedray.sweep", ""))
    assert sorted(each.partition.skip for _, each in found) == [1, 2]
    with pytest.raises(BadInputError, match="partition.skip"):
        read_command_line(["--partition.skip", "10"], "fedray", "")
    assert "partition.skip" not in options()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere_at_all:Pieces", "there is no module nowhere_at_all"),
        ("MODULE:Piece", "has no class Piece; did you mean Pieces\\?"),
        ("MODULE:Splitless", "is no partition, which is a class with @section above it, a `name` and a method `split"),
        ("MODULE:Undeclared", "class Undeclared of MODULE declares skip without @section above it"),
        ("piecess", "partition.name = 'piecess' is not one of iid"),
    ],
)
def test_a_wrong_address_is_one_sentence(tmp_path, write, address, said):
    name = write()
    with pytest.raises(BadInputError, match=said.replace("MODULE", name)) as error:
        small(tmp_path, partition={"name": address.replace("MODULE", name)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[rows]", "makes 1 shards for 4 clients"),
        ("[rows, rows, rows[:0], rows]", "gives client 2 no example"),
        ("[rows, rows + 1, rows, rows]", "gives client 1 row 160 of 160 rows, counted from 0"),
        ("[rows, rows, rows, rows - 1]", "gives client 3 row -1 of 160 rows"),
        ("[rows * 1.0] * 4", r"gives client 0 no list of row numbers, but float64\[160\]"),
        ("rows", r"makes 160 shards for 4 clients"),
        ("rows[labels.nothing]", r"fails: AttributeError: .*'nothing', in own_partition_\d+.py line"),
    ],
)
def test_shards_that_cannot_be_are_refused_before_anything_is_written(tmp_path, write, wrong, said):
    name = write(wrong)
    with pytest.raises(BadInputError, match=f"partition.name = {name}:Wrong {said}") as error:
        run(small(tmp_path / "results", partition={"name": f"{name}:Wrong"}))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
