"""Settings files and command lines of all kinds: a run, or one sentence and an untouched disk."""

import tempfile
import time
from datetime import date
from pathlib import Path

import pytest
from fuzzing import FEW_AND_MANY, NASTY, ODD_FILES, damaged, end_of, fuzz, on_disk, put_odd
from hypothesis import example, given
from hypothesis import strategies as st

from fedray import __main__ as one
from fedray.algorithms import ALGORITHMS
from fedray.cli.command_line import kind, options
from fedray.data.partitions import PARTITIONS
from fedray.experiment.experiment import CHOSEN
from fedray.partition import main as data_main
from fedray.report.__main__ import main as report_main
from fedray.sweep import __main__ as sweep
from fedray.sweep.__main__ import FLAGS, LISTS, VALUES

ROOT = Path(__file__).parents[2]
FILES = [path.read_bytes() for path in sorted((ROOT / "experiments").rglob("*.toml"))]
TINY = {
    "data.dataset": "synthetic", "data.train_examples": 160, "data.test_examples": 40, "rounds": 1, "clients": 2,
    "cohort": 1, "algorithm.epochs": 1, "model.name": "logistic", "model.projection": 0,
    "model.resize": 0,
    "cluster.backend": "in-process", "output.name": "tiny",
}  # fmt: skip
"""What makes any other settings run here, and at once."""


def words(settings):
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def tiny(root):
    return [*words(TINY), "--output.root", root]


def listed(root, content):
    """Whether a file, put in root, is a sweep's or a run's; nothing may be written either way."""
    file = root / "settings.toml"
    file.write_bytes(content)
    before = on_disk(root)
    end = end_of(sweep.main, file, "--dry-run", "--grid", "seed=0,1", *tiny(root))
    assert end.status in (0, 2), end
    assert on_disk(root) == before
    return end


@FEW_AND_MANY
def test_damaged_settings_files(times):
    @fuzz(150 * times)
    @example(b"a = " + b"[" * 3000 + b"]" * 3000)  # the parser's recursion
    @example(b"seed" + b".a" * 20_000 + b" = 1")  # minutes in the parser, then the recursion of repr
    @example(b'[seed."a b" . ' + b"c." * 3000 + b"c]\n[grid]\nseed = 1")
    @example(b"seed = " + b"1" * 5000)  # Python's limit on digits, reading ...
    @example(b"seed = 0x" + b"f" * 9000)  # ... and writing them
    @example(b"[grid]\nseed = [0x" + b"f" * 9000 + b"]")
    @example(b"\xef\xbb\xbfseed = 3")  # the mark that an editor of Windows leaves
    @example(b"# " + b"x" * 200_000)
    @given(st.sampled_from(FILES).flatmap(damaged) | st.binary(max_size=200))
    def holds(content):
        with tempfile.TemporaryDirectory() as folder:
            listed(Path(folder), content)

    holds()


def test_a_settings_file_that_is_none_is_refused_at_once(tmp_path):
    for kind_ in ODD_FILES:
        path = tmp_path / f"{kind_}.toml"
        put_odd(path, kind_)
        began = time.monotonic()
        end = end_of(sweep.main, path, "--dry-run", *tiny(tmp_path))
        assert (end.status, time.monotonic() - began < 2) == (2, True), kind_
    for path in ("", "/", "\0.toml", "x" * 5000, "\udcff.toml", "~/x.toml", tmp_path / "pipe.toml" / "x"):
        assert end_of(one.main, path, *tiny(tmp_path)).status == 2


def test_a_mark_of_windows_is_no_error(tmp_path):
    assert "--algorithm.lr 0.25" in listed(tmp_path, b"\xef\xbb\xbf[grid]\r\nalgorithm.lr = [0.25, 0.5]\r\n").out


VALUES_OF_ALL_KINDS = [
    *(True, False, 0, -1, 1, 2, 3, 7, 100, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1e-300, 1e300, -1e-9, 0.999, float("inf"), float("-inf"), float("nan")),
    *("", "auto", "none", "0", "1_000", "0x10", "true", "nan", "1e400", " 1 ", "٣", "é", "a" * 3000, "../x", "/", "\0"),
    *([], [1], [[]], [1, "a"], {}, {"name": 1}, {"low": 0, "high": 1}, date(2020, 1, 1)),
]


def literal(value):
    """A value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\u{ord(c):04x}" for c in value) + '"'
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            return "{" + ", ".join(f"{key} = {literal(each)}" for key, each in value.items()) + "}"
    return str(value)


def fitting(name):
    """Values of the setting's own kind, at its bounds and just beyond."""
    if name.partition(".")[2] == "name" and name.partition(".")[0] in CHOSEN:
        return [*CHOSEN[name.partition(".")[0]], "fedavgg", "nowhere_at_all:Class"]
    field = options()[name][1]
    bounds = [getattr(m, key) for m in field.metadata for key in ("gt", "ge", "lt", "le") if hasattr(m, key)]
    near = [bound + step for bound in bounds for step in (-1, -1e-9, 0, 1e-9, 1)]
    return [
        *near,
        *(kind(field).split("|") if "|" in kind(field) else []),
        field.default if field.default is not None else "auto",
    ]


NAMES = sorted(options())
VALUED = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from([*fitting(name), *VALUES_OF_ALL_KINDS]))
)


@FEW_AND_MANY
def test_settings_with_any_values(times):
    """In the file, as they are, as a section, as an axis and a range; nothing is written before a run is found good."""

    @fuzz(150 * times)
    @example({"output.root": "a\0b"}, "plain")
    @example({"output.root": "a" * 3000}, "plain")
    @given(
        st.lists(VALUED, min_size=1, max_size=4).map(dict),
        st.sampled_from(["plain", "quoted", "grid", "grids", "zip", "search"]),
    )
    def holds(settings, form):
        lines = [f"{name} = {literal(value)}" for name, value in settings.items()]
        if form == "quoted":
            lines = [f'"{name}" = {literal(value)}' for name, value in settings.items()]
        head = {"grid": "[grid]", "grids": "[[grid]]", "zip": "[grid.zip]", "search": "[search]\nn = 3"}.get(form, "")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "settings.toml").write_text("\n".join([head, *lines]))
            before = on_disk(root)
            kept = [] if form in ("plain", "quoted") else tiny(root)
            end = end_of(sweep.main, root / "settings.toml", "--dry-run", "--grid", "seed=0,1", *kept)
            assert end.status in (0, 2), end
            assert on_disk(root) == before

    holds()


COMBINED = {
    "clients": [1, 2, 3, 7, 40, 160, 161], "cohort": [1, 2, 7], "rounds": [1, 2, 3], "blocks": ["auto", 1, 5],
    "engine": ["auto", "plain", "fused"], "chunk_size": ["auto", 1, 3], "sampling": ["uniform", "size"], "seed": [0, 2**63 - 1],
    "data.train_examples": [1, 10, 160], "data.test_examples": [1, 40], "data.validation_examples": [0, 1, 9, 159, 160],
    "data.augment": ["none", "crop-flip", "cutout", "crop-flip-cutout"], "data.cutout": [1, 16, 31, 32], "partition.name": list(PARTITIONS), "partition.alpha": [1e-300, 0.1, 1e300],
    "partition.min_size": [1, 5, 80], "partition.balanced": ["true", "false"], "partition.classes": [1, 2, 10, 11],
    "partition.examples": [1, 50, 160, 161], "partition.shards_per_client": [1, 2, 80, 81],
    "partition.distribution": ["lognormal", "power_law"], "partition.sigma": [0, 1, 1000],
    "partition.exponent": [0, 1, 1000], "skew.noise": [0, 1e-300, 0.1, 1], "skew.rotation": [0, 45, 180],
    "skew.colour": [0, 1e-300, 1], "model.name": ["logistic", "mlp", "lenet5"], "model.projection": [0, 1, 8],
    "model.freeze": ["none", "backbone"], "model.resize": [0, 16, 33], "model.norm": ["own", "group"], "model.groups": [1, 3],
    "model.stem": ["own", "cifar"], "model.aux_weight": [0, 0.3], "model.pretrained": ["false", "true"],
    "algorithm.norms": ["averaged", "local"], "model.precision": ["float32", "tf32", "bfloat16", "float32_3xtf32"], "model.channels_last": ["auto", "true"],
    "algorithm.name": list(ALGORITHMS), "algorithm.lr": [1e-300, 0.1, 1e6], "algorithm.batch_size": [0, 1, 7, 2**31 - 1],
    "algorithm.lr_schedule": ["constant", "cosine", "step", "exponential"], "algorithm.lr_decay": [1e-300, 1],
    "algorithm.drop_last": ["true", "false"], "algorithm.steps": ["none", 1, 3], "algorithm.momentum": [0, 0.999999],
    "algorithm.optimizer": ["sgd", "adam", "Rprop", "muon", "lbfgs", "adm"], "algorithm.epochs_min": ["none", 1, 2],
    "algorithm.optimizer_options": ["", "eps=1e-3", "nesterov=True", "betas=(2, 0)", "lr=1", "eps"],
    "algorithm.steps_min": ["none", 1, 3, 4], "algorithm.clip_norm": ["none", 1e-300, 1, 1e6],
    "algorithm.label_smoothing": [0, 0.5, 0.999999], "algorithm.weight_decay": [0, 1e6], "algorithm.weighting": ["num_examples", "uniform", "sum"],
    "algorithm.server_optimizer": ["sgd", "adagrad", "adam", "yogi"], "algorithm.server_momentum": [0, 0.9],
    "algorithm.server_nesterov": ["true", "false"], "algorithm.server_beta2": [0, 1], "algorithm.server_tau": [1e-300, 1e6],
    "algorithm.server_lr": [1e-300, 1, 1e6], "algorithm.mu": [0, 1e6], "algorithm.alpha": [1e-9, 1e6],
    "algorithm.tau": [1e-9, 0.5, 1e6], "algorithm.lam": [0, 1e6], "algorithm.personal_layers": [1, 2, 99],
    "algorithm.fine_tune_epochs": [1, 2], "algorithm.personal_epochs": [1, 2], "algorithm.option": [1, 2, "I", "II"],
    "evaluation.every": [1, 2, 2**31 - 1], "evaluation.clients_every": ["auto", 0, 1, 5],
    "evaluation.client_examples": ["auto", 1, 10_000], "evaluation.target_accuracy": ["none", 1e-9, 1],
    "evaluation.patience": ["none", 1], "evaluation.top_k": ["none", 1, 9, 10], "output.checkpoint_every": [1, 2**31 - 1], "output.save_model": ["true", "false"],
    "output.save_best": ["true", "false"], "cluster.gpus_per_client": ["auto", 0, 0.25, 1.5, 2], "cluster.gpu_memory": [1, 24_000],
    "output.flush_seconds": [1e-300, 1e300], "faults.dropout": [0, 0.5, 0.999], "faults.over_selection": [0, 1, 5],
    "faults.min_survivors": [0, 1, 2, 5],
}  # fmt: skip


@st.composite
def combinations(draw):
    """Settings that are each possible, and their algorithm's and partition's own."""
    chosen = {name: draw(st.sampled_from(COMBINED[name])) for name in ("algorithm.name", "partition.name")}
    names = draw(st.lists(st.sampled_from(sorted(COMBINED.keys() & options().keys())), max_size=8, unique=True))
    own = {
        "algorithm": set(ALGORITHMS[chosen["algorithm.name"]].__pydantic_fields__),
        "partition": set(PARTITIONS[chosen["partition.name"]].__pydantic_fields__),
    }
    for name in names:
        section, _, key = name.partition(".")
        if name not in chosen and (section not in own or key in own[section]):
            chosen[name] = draw(st.sampled_from(COMBINED[name]))
    return chosen


@FEW_AND_MANY
def test_settings_that_do_not_go_together(times):
    """Each is possible by itself: they run to an end, or are refused before anything is on disk."""

    @fuzz(15 * times)
    @example({"algorithm.name": "fednova", "faults.dropout": 0.999, "faults.min_survivors": 1})  # nobody answers
    @given(combinations())
    def holds(settings):
        with tempfile.TemporaryDirectory() as folder:
            end = end_of(one.main, *words({**TINY, **settings}), "--output.root", folder, seconds=60)
            assert end.status in (0, 2), end
            assert end.status == 0 or on_disk(Path(folder)) == {}

    holds()


WORDS = st.one_of(
    st.sampled_from([f"--{name}" for name in (*NAMES, *FLAGS, *VALUES, *LISTS, "fresh", "help", "grid", "figures", "figure", "images")]),
    st.sampled_from(NAMES).flatmap(
        lambda name: st.sampled_from([*fitting(name), *VALUES_OF_ALL_KINDS]).map(lambda value: f"--{name}={value}")
    ),
    st.sampled_from(VALUES_OF_ALL_KINDS).map(str),
    st.sampled_from([word.decode("utf-8", "surrogateescape") for word in NASTY]),
    st.sampled_from(["-", "--", "---", "-h", "-5", "--=", "--grid=", "--output.name=", "@x", "%s", "%(prog)s", "a\nb"]),
    st.tuples(st.sampled_from([*NAMES, "seed", "x"]), st.sampled_from([
        "", "1", "1,2", ",", "0..4", "4..0", "-3..3", "0..99999999999999999999", "[1, 2]", "[[1]]", "[", "[{a=1}]",
        "true,false", "1e400", "nan,inf", "0..9223372036854775807", "['a', 1979-05-27]", "[0x" + "f" * 9000 + "]",
    ])).map("=".join),
    st.text(max_size=20),
)  # fmt: skip


@FEW_AND_MANY
@pytest.mark.parametrize("program", ["run", "sweep", "report", "data"])
def test_command_lines(times, program, tmp_path):
    (tmp_path / "sweep.toml").write_text("[grid]\nseed = [0, 1]\n")
    main = {"run": one.main, "sweep": sweep.main, "report": report_main, "data": data_main}[program]

    @fuzz((20 if program == "run" else 60) * times)
    @example(["--max-concurrent", "5" * 5000])
    @example(["--halve", "1\n2"])
    @example(["\0"])
    @example(["x" * 5000])
    @given(st.lists(WORDS, max_size=6))
    def holds(argv):
        root = tmp_path / "results"
        before = on_disk(root)
        last = tiny(root) if program != "report" else []
        file = [tmp_path / "sweep.toml", "--dry-run", "--grid", "algorithm.lr=0.1,0.2"] if program == "sweep" else []
        end = end_of(main, *argv, *file, *last)
        assert end.status in (0, 2), end
        assert (program == "run" and end.status == 0) or on_disk(root) == before

    holds()
