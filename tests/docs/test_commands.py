"""Every command on a page is one that its program takes, and every option is one that there is."""

import re
import shlex
import sys
from collections.abc import Iterator
from itertools import takewhile

import pytest
from pages import PAGES, README, ROOT, Page
from pages import page as page_of

from fedray import __main__ as one
from fedray import partition
from fedray.cli import short_help
from fedray.cli.command_line import options, read_command_line
from fedray.experiment.composition import compose, set_default_name
from fedray.inventory import __main__ as inventory
from fedray.report import __main__ as report
from fedray.sweep import __main__ as sweep

FOREIGN = {"address", "head", "working-dir", "logdir", "help", "version", "gpus", "shm-size", "network", "entrypoint"}
"""Options of other programs: Ray's, TensorBoard's, Docker's; and --help and --version."""


def commands(page: Page) -> list[str]:
    """The lines of its blocks of sh, those after a $ in its blocks of output, and the whole commands in its prose."""
    lines = [line for code in page.blocks("sh") for line in code.splitlines()]
    lines += [line.removeprefix("$ ") for code in page.blocks("") for line in code.splitlines() if line[:2] == "$ "]
    lines += [span for span in page.spans if re.match(r"(make|python) ", span)]
    return [line for line in lines if line.strip()]


OWN = {
    "fedcm": (README, "FedCM"),
    "sam": (page_of("algorithms"), "SAM"),
    "stripes": (page_of("models-and-data"), "Stripes"),
}


@pytest.fixture(scope="module", autouse=True)
def own_classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The classes on the pages, saved as these say."""
    folder = tmp_path_factory.mktemp("own")
    for module, (where, name) in OWN.items():
        (folder / f"{module}.py").write_text(where.block(f"class {name}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    for module in OWN:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("line", dict.fromkeys(line for page in PAGES for line in commands(page)))
def test_every_command_is_one(line: str) -> None:
    words = list(takewhile(lambda word: word not in ("|", ">", "&&"), shlex.split(line, comments=True)))
    while words[:2] in (["python", "-m"], ["ray", "job"]) and words[2] in ("pdb", "submit"):
        words = words[words.index("--") + 1 :] if words[1] == "job" else ["python", *words[3:]]
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ["python", "-m"]:
        check(words[2], [word.replace("FILE.toml", "experiments/quickstart.toml") for word in words[3:]])
    elif words[0] in ("docker", "sbatch"):
        files = [word for word in words if word.startswith("experiments/")]
        assert files
        assert all((ROOT / file).is_file() for file in files)
        if words[0] == "sbatch":
            check("fedray", words[words.index("experiments/cluster/slurm.sh") + 1 :])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[:2] == ["ray", "start"], line


SHOWN = [line.split() for text in short_help.TEXTS.values() for line in text.splitlines() if line[:10] == "  python -"]


@pytest.mark.parametrize("words", [*SHOWN, short_help.FILE.split(), short_help.NO_FILE.split()], ids=" ".join)
def test_every_command_of_a_short_help_is_one(words: list[str]) -> None:
    sweep_of = {"fedray.sweep": "experiments/lr.toml"}
    file = sweep_of.get(words[2], "experiments/quickstart.toml")
    check(words[2], [word.replace("FILE.toml", file) for word in words[3:] if word != "--help"])


def check(program: str, words: list[str]) -> None:
    """Hold a fedray program's words to what it takes, as it would itself, without running anything."""
    if program == "fedray":
        line = read_command_line([word for word in words if word != "--help"], "", "", one.FLAGS, one.VALUES)
        set_default_name(line.tree, "name")
        compose(line.tree)
    elif program == "fedray.sweep" and words:
        line = read_command_line(words, "", "", sweep.FLAGS, sweep.VALUES, sweep.LISTS)
        assert sweep.experiments(line)
    elif program in ("fedray.data", "fedray.partition"):
        line = read_command_line(words, "", "", {}, partition.VALUES, partition.LISTS)
        set_default_name(line.tree, "name")
        compose(line.tree)
    elif program == "fedray.report":
        known = {f"--{name}" for name in (*report.FLAGS, *report.VALUES)}
        assert {word for word in words if word.startswith("-")} <= known
    elif program == "fedray.results" and words:
        assert inventory.read_words(words).words == [word for word in words[1:] if not word.startswith("--")]
    else:
        assert (program, words) in (("fedray.data.download", ["NAME"]), ("fedray.sweep", []), ("fedray.results", []))


def test_every_option_in_the_prose_is_one() -> None:
    known = {*options(), *one.FLAGS, *one.VALUES, *sweep.FLAGS, *sweep.VALUES, *sweep.LISTS}
    known |= {*partition.VALUES, *partition.LISTS, *report.FLAGS, *report.VALUES, *FOREIGN}
    known |= {*inventory.FLAGS, *inventory.VALUES}
    for page in PAGES:
        for span in page.spans:
            assert set(re.findall(r"(?:^| )--([\w.-]+)", span)) <= known, f"{span} in {page.name}"


def test_every_extra_that_is_named_is_one() -> None:
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().partition("optional-")[2], re.M))
    for page in PAGES:
        assert set(re.findall(r"fedray\[(\w+)\]", page.text)) <= extras, page.name
