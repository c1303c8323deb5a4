"""The points of a sweep: products, zips, unions and random samples; what is wrong with them, in one sentence."""

import math
import re
import time
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedray.cli.command_line import read_command_line
from fedray.core.errors import BadInputError
from fedray.experiment.composition import read_toml
from fedray.sweep.grid import points, read_grid, varying
from fedray.sweep.search import Range, draw


def grid(text, *words, overrides=()):
    return read_grid(tomllib.loads(text), words, overrides)


def product(text, *words, overrides=()):
    return grid(text, *words, overrides=overrides).points()


AXES = ("seed", "rounds", "clients", "cohort", "algorithm.lr", "partition.alpha")
LISTS = st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)
TABLES = st.dictionaries(st.sampled_from(AXES), LISTS, min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.integers(1, 3), st.integers(0, 3))
def test_without_repeats_the_count_is_the_number_of_points(table, length, zipped):
    names = list(table)[:zipped]
    lists = {name: list(range(length)) for name in names}
    plain = {name: values for name, values in table.items() if name not in names}
    tree = {**plain, "zip": lists} if names else plain
    described = read_grid({"grid": tree})
    listed = described.points()
    assert described.count == len(listed) == (length if names else 1) * math.prod(map(len, plain.values()))
    assert all(list(point) == [*names, *plain] for point in listed)
    assert all(len({point[name] for name in names}) <= 1 for point in listed)


@settings(max_examples=60, deadline=None)
@given(st.lists(TABLES, min_size=1, max_size=3))
def test_several_tables_are_a_union_in_their_order(tables):
    each = [point for table in tables for point in read_grid({"grid": table}).points()]
    union = read_grid({"grid": tables}).points()
    assert union == [point for i, point in enumerate(each) if point not in each[:i]]


def test_the_first_axis_is_the_slowest_and_a_value_is_a_list_of_one():
    assert product('[grid]\nseed = [1, 2]\n"model.name" = "cnn"\nalgorithm.lr = [3, 4]\n') == [
        {"seed": s, "model.name": "cnn", "algorithm.lr": lr} for s in (1, 2) for lr in (3, 4)
    ]


def test_zips_are_slower_than_the_other_axes_and_belong_to_their_table():
    text = """
    [[grid]]
    seed = [0, 1]
    [[grid.zip]]
    clients = [10, 100]
    cohort = [5, 10]
    [[grid.zip]]
    algorithm = {lr = [0.1, 0.2], momentum = [0.0, 0.9]}
    [[grid]]
    seed = 7
    """
    found = product(text)
    assert [tuple(point.values()) for point in found[:-1]] == [
        (n, m, lr, momentum, s)
        for n, m in ((10, 5), (100, 10))
        for lr, momentum in ((0.1, 0.0), (0.2, 0.9))
        for s in (0, 1)
    ]
    assert found[-1] == {"seed": 7}


SEARCH = """
[search]
n = 30
seed = 3
rounds = [5, 7]
clients = {low = 10, high = 99}
algorithm.lr = {low = 1e-4, high = 1.0, log = true}
"""


def test_a_larger_search_extends_a_smaller_one():
    longer = product(SEARCH.replace("n = 30", "n = 50"))
    assert len(longer) == 50
    assert product(SEARCH) == longer[:30]


def test_samples_are_the_same_for_ever():
    """A command that was written down names a run that is found again."""
    assert product(SEARCH)[:3] == [
        {"rounds": 5, "clients": 21, "algorithm.lr": 0.000123594},
        {"rounds": 7, "clients": 68, "algorithm.lr": 0.00124038},
        {"rounds": 7, "clients": 20, "algorithm.lr": 0.00022108},
    ]


@pytest.mark.parametrize("more", ["algorithm.momentum = [0.0, 0.9]", "algorithm.batch_size = {low = 1, high = 64}"])
def test_another_axis_of_the_search_changes_no_value_of_the_others(more):
    wider = product(SEARCH + more)
    assert [{name: point[name] for name in point if name not in more} for point in wider] == product(SEARCH)


def test_another_seed_of_the_search_gives_other_samples():
    first, second = (product(SEARCH.replace("seed = 3", seed)) for seed in ("seed = 4", ""))
    assert all(a["algorithm.lr"] != b["algorithm.lr"] for a, b in zip(first, second, strict=True))
    assert second == product(SEARCH.replace("seed = 3", "seed = 0"))


def test_each_sample_is_played_at_each_point_of_the_union():
    both = product(SEARCH + "[[grid]]\nseed = [0, 1]\n[[grid]]\npartition.name = 'dirichlet'\n")
    union = [{"seed": 0}, {"seed": 1}, {"partition.name": "dirichlet"}]
    assert both == [{**sample, **point} for sample in product(SEARCH) for point in union]


def test_samples_that_are_the_same_are_one_point():
    found = product("[search]\nn = 40\nrounds = [5, 7]")
    assert sorted(point["rounds"] for point in found) == [5, 7]


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_drawn_with_both_ends_and_the_shares_of_their_scale(log):
    values = [draw(Range(1, 4, log, whole=True), 0, k, "clients") for k in range(4000)]
    share = {v: values.count(v) / 4000 for v in set(values)}
    edges = {v: math.log((v + 0.5) / (v - 0.5)) / math.log(9) if log else 1 / 4 for v in (1, 2, 3, 4)}
    assert share == pytest.approx(edges, abs=0.03)


def test_floats_have_six_digits_and_the_median_of_their_scale():
    for log, median in ((False, 0.50005), (True, 1e-2)):
        values = [draw(Range(1e-4, 1.0, log, whole=False), 0, k, "algorithm.lr") for k in range(2000)]
        assert all(1e-4 <= v <= 1 and float(f"{v:.6g}") == v for v in values)
        assert len(set(values)) > 1900
        assert abs(sum(v < median for v in values) / 2000 - 0.5) < 0.04


def test_a_range_of_whole_ends_is_whole_unless_the_setting_is_a_float():
    drawn = product("[search]\nn = 30\nalgorithm.momentum = {low = 0, high = 1}\nclients = {low = 1e2, high = 1e3}")
    assert all(isinstance(p["algorithm.momentum"], float) and 0 < p["algorithm.momentum"] < 1 for p in drawn)
    assert all(isinstance(p["clients"], int) for p in drawn)


def test_axes_of_the_command_line_multiply_every_table():
    found = product("[[grid]]\nrounds = [1, 2]\n[[grid]]\nclients = 3\n", "seed=0..2")
    assert found == [{**point, "seed": s} for point in ({"rounds": 1}, {"rounds": 2}, {"clients": 3}) for s in range(3)]
    assert product("", "seed=3..4") == [{"seed": 3}, {"seed": 4}]


def test_an_axis_of_the_command_line_replaces_that_of_the_file_where_it_is():
    assert product("[grid]\nseed = [0, 1]\nrounds = [2, 3]\n", "seed=7") == [{"seed": 7, "rounds": r} for r in (2, 3)]
    zipped = "[grid.zip]\nclients = [10, 20]\ncohort = [5, 6]\nrounds = [1, 2]\n"
    assert product(zipped, "cohort=1..3") == [
        {"clients": n, "rounds": r, "cohort": m} for n, r in ((10, 1), (20, 2)) for m in (1, 2, 3)
    ]
    assert product(SEARCH, "algorithm.lr=0.1", "clients=3") == [{"rounds": r, "algorithm.lr": 0.1, "clients": 3} for r in (5, 7)]  # fmt: skip
    assert product("[search]\nn = 9\nrounds = [5, 7]", "rounds=1") == [{"rounds": 1}]


def test_an_override_takes_its_axis_away():
    text = SEARCH + "[grid]\nseed = [0, 1]\n[grid.zip]\ncohort = [1, 2]\nalgorithm.batch_size = [3, 4]\n"
    found = product(text, overrides=["seed", "cohort", "algorithm.lr", "clients"])
    assert found == [{"rounds": r, "algorithm.batch_size": b} for r in (5, 7) for b in (3, 4)]
    assert product("[[grid]]\nseed = [0, 1]\n[[grid]]\nseed = 7\n", overrides=["seed"]) == [{}]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=-1..1", [-1, 0, 1]),
        ("rounds=5", [5]),
        ("algorithm.lr=0.01,1e-1,2", [0.01, 0.1, 2]),
        ("algorithm.drop_last=true,false", [True, False]),
        ("algorithm.steps=none,4", ["none", 4]),
        ('algorithm.personal_layers=["conv1,conv2", "fc3"]', ["conv1,conv2", "fc3"]),
        ('data.root=[""]', [""]),
    ],
)
def test_values_of_the_command_line_are_numbers_truths_or_text(word, values):
    found = [value for point in product("", word) for value in point.values()]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


def test_the_axes_that_vary_are_named_in_order_of_appearance():
    text = """
    [[grid]]
    algorithm.name = "fedavg"
    rounds = 3
    seed = [0, 1]
    [[grid]]
    algorithm = {name = "fedprox", mu = 0.1}
    rounds = 3
    """
    assert varying(product(text)) == ["algorithm.name", "seed", "algorithm.mu"]
    assert varying([{}]) == varying([]) == []


def test_a_settings_file_may_follow_the_axes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("rounds = 7\n[grid]\nseed = [0, 1]\n")
    lists = {"grid": ("AXIS", "further axes")}
    for argv in (
        ["--grid", "seed=0..2", "clients=10", str(path)],
        ["--grid", "seed=0..2", str(path), "--grid=clients=10"],
    ):
        line = read_command_line(argv, "sweep", "", lists=lists)
        assert line.file == path
        assert line.tree["rounds"] == 7
        assert points(line) == [{"seed": s, "clients": 10} for s in range(3)]
    with pytest.raises(BadInputError, match="one settings file at a time"):
        read_command_line([str(path), "--grid", "seed=1", "other.toml"], "sweep", "", lists=lists)


def test_own_options_with_a_value_are_read_and_explained(tmp_path, capsys):
    own = {"values": {"max-concurrent": ("N", "runs in flight")}, "flags": {"yes": "sure"}}
    line = read_command_line(["--max-concurrent", "3", "--rounds", "2"], "sweep", "", **own)
    assert (line.values, line.flags, line.overrides) == ({"max-concurrent": "3"}, {"yes": False}, {"rounds": "2"})
    assert read_command_line([], "sweep", "", **own).values == {}
    with pytest.raises(BadInputError, match="did you mean max-concurrent"):
        read_command_line(["--max-concurent", "3"], "sweep", "", **own)
    with pytest.raises(SystemExit):
        read_command_line(["--help"], "sweep", "", **own)
    assert re.search(r"--max-concurrent N +runs in flight\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[grid]", ["[grid] is empty"]),
        ("[[grid]]\nseed = 1\n[[grid]]", ["[[grid]] number 2 is empty"]),
        ("[grid]\nseed = [0]\n[grid.zip]", ["the zip of [grid] is empty"]),
        ("[grid]\nseed = []", ["seed in [grid]", "at least one value"]),
        ("[grid]\nalgorithm.lrr = [1]", ["'algorithm.lrr' in [grid]", "did you mean algorithm.lr?"]),
        ("[grid]\nseed = 1\n[grid.algorithm]", ["'algorithm' in [grid] is no setting"]),
        ("[grid]\nalgorithm = [{lr = 0.1}]", ["'algorithm' in [grid] is no setting"]),
        ("[[grid]]\nseed = 1\n[[grid]]\ncluster.cpus = [1, 2]", ["cluster.cpus in [[grid]] number 2", "no result"]),
        ("[grid.zip]\noutput.name = ['a', 'b']", ["output.name in the zip of [grid]", "no result"]),
        ("[grid]\n'algorithm.lr' = [1]\nalgorithm.lr = [2]", ["algorithm.lr is named twice in [grid]"]),
        ("[grid]\nseed = [0, 1]\n[grid.zip]\nseed = [0, 1]\nrounds = [1, 2]", ["seed is named twice in [grid]"]),
        ("[[grid]]\n[[grid.zip]]\nseed = [1]\n[[grid.zip]]\nseed = [1]", ["seed is named twice in [[grid]] number 1"]),
        ("[grid.zip]\nclients = [1, 2]\ncohort = [1, 2, 3]", ["clients has 2", "cohort 3"]),
        ("[grid.zip]\nclients = [1, 2]\ncohort = 1", ["clients has 2", "cohort 1"]),
        ("[grid]\nzip = [1, 2]", ["the zip of [grid]", "table"]),
        ("[grid]\nalgorithm.lr = {low = 1, high = 2}", ["algorithm.lr in [grid]", "list", "[search]"]),
        ("[search]\nrounds = [1]", ["[search] needs n"]),
        ("[search]\nn = 0\nrounds = [1]", ["[search] needs n", "0"]),
        ("[search]\nn = true\nrounds = [1]", ["[search] needs n", "True"]),
        ("[search]\nn = 1", ["[search] has no axis"]),
        ("[search]\nn = 1\nseed = [0, 1]\nrounds = [1]", ["seed in [search]", "[grid]"]),
        ("[search]\nn = 1\nseed = -1\nrounds = [1]", ["seed in [search]", "-1"]),
        ("[search]\nn = 1\nrounds = []", ["rounds in [search]", "at least one value"]),
        ("[search]\nn = 1\nround = [1]", ["'round' in [search]", "did you mean rounds?"]),
        ("[search]\nn = 1\nalgorithm.lrr = {low = 1, high = 2}", ["'algorithm.lrr' in", "did you mean algorithm.lr?"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = 1, hihg = 2}", ["algorithm.lr in", "'hihg'", "did you mean high?"]),
        ("[search]\nn = 1\nalgorithm.lr = {lo = 1, hi = 2}", ["algorithm.lr in", "'lo'", "did you mean low?"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = 1}", ["algorithm.lr in", "two numbers", "1 and None"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = '1', high = 2}", ["algorithm.lr in", "two numbers"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = 1, high = inf}", ["algorithm.lr in", "two numbers"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = 2, high = 2}", ["algorithm.lr in", "a low below its high"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = 0, high = 2, log = true}", ["algorithm.lr in", "above 0"]),
        ("[search]\nn = 1\nalgorithm.lr = {low = 1, high = 2, log = 'yes'}", ["log of algorithm.lr", "'yes'"]),
        ("[search]\nn = 1\nrounds = [1]\n[grid]\nrounds = [1]", ["rounds is an axis of [search] and of [grid]"]),
        ("[search]\nn = 1\noutput.name = ['a']", ["output.name in [search]", "no result"]),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_sentence(text, parts):
    with pytest.raises(BadInputError) as error:
        grid(text)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["seed"], ["NAME=VALUES", "'seed'"]),
        (["sed=1"], ["'sed' in --grid", "did you mean seed?"]),
        (["=1"], ["'' in --grid is no setting"]),
        (["cluster.cpus=1"], ["cluster.cpus in --grid", "no result"]),
        (["seed=1", "seed=2"], ["seed is named twice in --grid"]),
        (["seed="], ["seed= in --grid lacks a value"]),
        (["seed=1,,2"], ["seed=1,,2 in --grid lacks a value"]),
        (["seed=4..0"], ["backwards", "seed=0..4"]),
        (["seed=[1, 2"], ["seed=[1, 2 in --grid is no TOML list"]),
        (["seed=[]"], ["seed in --grid", "at least one value"]),
        (["rounds=3"], ["rounds is both an axis of --grid and given as --rounds"]),
    ],
)
def test_a_wrong_axis_of_the_command_line_is_one_sentence(words, parts):
    with pytest.raises(BadInputError) as error:
        grid("", *words, overrides=["rounds"])
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["grid = 3", "grid = []", "grid = [1]", "search = 3", "[[search]]\nn = 1"])
def test_a_table_that_is_none_is_refused_with_its_file(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadInputError, match=r"\[(grid|search)\] in .*mine.toml must be"):
        read_toml(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    "text", ["[search]\nn = 1000000000\nrounds = [1, 2]\n", "[grid]\nrounds = [1, 2]\n"], ids=["samples", "product"]
)
def test_more_than_ten_thousand_runs_are_refused_at_once_but_for_yes(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text)

    def line(*argv):
        words = [str(tmp_path / "mine.toml"), *argv]
        return read_command_line(words, "", "", {"yes": ""}, lists={"grid": ("AXIS", "")})

    began = time.perf_counter()
    with pytest.raises(BadInputError, match=r"the sweep has [0-9,]{12,} runs; add --yes"):
        points(line("--grid", "seed=0..9223372036854775807", "clients=1..4000"))
    assert time.perf_counter() - began < 1
    if "grid" in text:
        assert len(points(line("--grid", "seed=1..5000"))) == 10_000
        with pytest.raises(BadInputError, match="the sweep has 10,002 runs"):
            points(line("--grid", "seed=0..5000"))
        assert len(points(line("--grid", "seed=0..5000", "--yes"))) == 10_002
