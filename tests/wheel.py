"""python tests/wheel.py      does what people install work? Builds it, installs it where no checkout is, and plays.

The sdist is built from a copy of the sources, and the wheel from the sdist. The wheel is installed without dependencies
into an environment of its own, which borrows the libraries of the one that runs this, but no fedray. There, in an empty
directory, a run with lenet5 (plain), one with logistic (fused), a sweep of two runs and its report are played on Ray by
the console scripts. Data are synthetic; only the build asks a package index, for setuptools.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
SOURCES = ("fedray", "pyproject.toml", "README.md", "LICENSE")
SMALL = """
rounds = 2
clients = 4
cohort = 4

[data]
dataset = "synthetic"
train_examples = 400
test_examples = 200

[cluster]
cpus = 2
"""
SWEEP = SMALL.replace("[cluster]", '[model]\nname = "mine:net"\n\n[cluster]') + "\n[grid]\nseed = [0, 1]\n"
MINE = """
import os
from math import prod
from pathlib import Path

from torch import nn

import fedray

def net(shape, classes):
    Path(__file__).with_name(f"process-{os.getpid()}").write_text(fedray.__file__)
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))
"""


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        place = Path(name)
        wheel = build(place)
        check_files(wheel)
        environment = Environment(place / "environment", place / "empty")
        environment.install(wheel)
        check_version(environment, wheel)
        play_runs(environment)
        play_sweep(environment)
    print(f"the wheel is whole, and plays what it should ({time.monotonic() - began:.0f} s)")
    return 0


def build(place: Path) -> Path:
    """The wheel that the sdist gives."""
    copy = place / "copy"
    copy.mkdir()
    for source in SOURCES:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, copy / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, copy / source)
    execute([sys.executable, "-m", "build", "--outdir", place / "dist", copy], place)
    (sdist,), (wheel,) = (list((place / "dist").glob(f"*{suffix}")) for suffix in (".tar.gz", ".whl"))
    print(f"built {sdist.name} and, from it, {wheel.name}")
    return wheel


def check_files(wheel: Path) -> None:
    """Every file of fedray/ is in the wheel, and nothing else is."""
    files = (path for path in (ROOT / "fedray").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    ensure(not wanted - found, f"the wheel lacks {', '.join(sorted(wanted - found))}")
    ensure(not found - wanted, f"the wheel holds more than fedray/ does: {', '.join(sorted(found - wanted))}")


class Environment:
    """A Python environment with the libraries of this one, in which no fedray is found, and an empty directory."""

    def __init__(self, folder: Path, directory: Path):
        venv.create(folder, with_pip=False, symlinks=True)
        self.python, self.directory = folder / "bin/python", directory
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.packages / "libraries.pth").write_text(
            "\n".join(sorted(libraries))
        )  # an editable fedray's own .pth is not read
        directory.mkdir()
        self.variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FEDRAY"))
        }

    def install(self, wheel: Path) -> None:
        spec = self.execute("-c", "import importlib.util as u; print(u.find_spec('fedray'))").strip()
        ensure(spec == "None", f"fedray is found without the wheel: {spec}")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            wheel,
        ]
        execute(pip, self.directory, self.variables)

    def execute(self, *words: object) -> str:
        """What `python words` says."""
        return execute([self.python, *words], self.directory, self.variables)

    def start(self, script: str, *words: object) -> str:
        """What a console script says."""
        return execute([self.python.with_name(script), *words], self.directory, self.variables)


def check_version(environment: Environment, wheel: Path) -> None:
    """The program and the wheel's file name tell the same version."""
    said, wanted = environment.start("fedray", "--version"), f"fedray {wheel.name.split('-')[1]}\n"
    ensure(said == wanted, f"fedray --version says {said!r}, and not {wanted!r}")


def play_runs(environment: Environment) -> None:
    """A plain run with lenet5 by the console script, a fused one with logistic by `python -m`."""
    (environment.directory / "small.toml").write_text(SMALL)
    lenet5, logistic = ("--model.name", "lenet5", "--output.name"), ("--model.name", "logistic", "--output.name")
    environment.start("fedray", "small.toml", *lenet5, "plain", "--engine", "plain")
    environment.execute("-m", "fedray", "small.toml", *logistic, "fused", "--engine", "fused")
    for name in ("plain", "fused"):
        run = pd.read_parquet(environment.directory / "results" / name / "runs").iloc[0]
        said = (run["status"], int(run["rounds_done"]), json.loads(run["settings"])["engine"])
        ensure(said == ("finished", 2, name), f"the {name} run ended with status, rounds and engine {said}")
        print(f"played a {name} run")


def play_sweep(environment: Environment) -> None:
    """Two runs of a model that lies in the working directory and notes which fedray each process has; a page of them."""
    (environment.directory / "mine.py").write_text(MINE)
    (environment.directory / "two.toml").write_text(SWEEP)
    environment.start("fedray-sweep", "two.toml")
    results = environment.directory / "results/two"
    statuses = list(pd.read_parquet(results / "runs")["status"])
    ensure(statuses == ["finished"] * 2, f"the sweep's runs ended as {statuses}")
    noted = {int(path.name.partition("-")[2]): path.read_text() for path in environment.directory.glob("process-*")}
    actors = set(pd.read_parquet(results / "population")["pid"])
    ensure(actors and actors < noted.keys(), f"of {len(actors)} actors and a fork server, {len(noted)} built the model")
    wrong = {file for file in noted.values() if not Path(file).is_relative_to(environment.packages)}
    ensure(not wrong, f"fedray came from {', '.join(sorted(wrong))}, not from the wheel")
    print(f"played a sweep; its {len(actors)} actors, and what was forked before them, had the wheel's fedray")
    page = Path(environment.directory, environment.start("fedray-report", "results/two").strip())
    ensure(page.is_file() and "</html>" in page.read_text(), f"{page} is no page")
    print("wrote its report")
    listed = environment.start("fedray-results", "list", "two", "--json").splitlines()
    ensure(len(listed) == 2, f"fedray-results lists {len(listed)} runs of the sweep")


def execute(command: list[object], directory: Path, variables: dict[str, str] | None = None) -> str:
    """What a command says; it has to end well and to complain of nothing."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=directory, env=variables, capture_output=True, text=True, check=False)
    ensure(done.returncode == 0, f"`{' '.join(words)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def ensure(holds: bool, sentence: str) -> None:
    if not holds:
        sys.exit(f"wheel: {sentence}")


if __name__ == "__main__":
    sys.exit(main())
