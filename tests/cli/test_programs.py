"""The console scripts, and --version."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from fuzzing import any_end_of

import fedray
from fedray import __main__ as one
from fedray import partition
from fedray.cli.command_line import find_modules_here, read_command_line
from fedray.cli.short_help import FILE, NO_FILE, TEXTS, show
from fedray.experiment.composition import compose
from fedray.report import __main__ as report
from fedray.sweep import __main__ as sweep

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def program(script):
    module, _, function = SCRIPTS[script].partition(":")
    return getattr(import_module(module), function)


def test_there_is_a_script_for_each_program_that_people_start():
    modules = {"fedray": "fedray", "fedray-sweep": "fedray.sweep", "fedray-report": "fedray.report"}
    modules["fedray-results"] = "fedray.inventory"
    assert {script: f"{module}.__main__:program" for script, module in modules.items()} == SCRIPTS


def test_the_version_is_told_without_torch_and_ray():
    code = """
import runpy, sys
for module in ("fedray", "fedray.sweep", "fedray.report", "fedray.partition", "fedray.results"):
    sys.argv = [module, "--version"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(end.code, *sorted({"torch", "ray"} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (said.stdout, said.stderr) == (f"fedray {fedray.__version__}\n0\n" * 5, "")


HEAVY = ("numpy", "pandas", "pyarrow", "pydantic", "ray", "rich", "torch")


def test_without_a_word_every_program_prints_its_short_help_at_once_and_does_nothing(tmp_path):
    """Status 2 on stderr, so that `python -m fedray $FILE` with an empty variable is no success. No library is there."""
    code = f"""
import runpy, sys
for module in ("fedray", "fedray.sweep", "fedray.report"):
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(end.code, *sorted(set({HEAVY}) & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert said.stdout == "2\n" * 3
    assert said.stderr == "".join(
        TEXTS[name].format(version=fedray.__version__, quickstart=NO_FILE, there="There are none in results/ yet.")
        for name in ("fedray", "fedray.sweep", "fedray.report")
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "name", "words"),
    [
        (one.main, "fedray", []),
        (one.main, "fedray", ["--fresh"]),
        (one.main, "fedray", ["--json"]),
        (sweep.main, "fedray.sweep", []),
        (report.main, "fedray.report", []),
        (partition.main, "fedray.data", []),
    ],
)
def test_without_a_file_or_a_setting_nothing_runs(tmp_path, monkeypatch, program, name, words):
    monkeypatch.chdir(tmp_path)
    end = any_end_of(program, *words)
    assert (end.status, end.out) == (2, "")
    assert end.err.startswith(f"fedray {fedray.__version__} ")
    assert f"\n  python -m {name} --help\n" in end.err
    assert not list(tmp_path.iterdir())


def test_settings_without_a_file_are_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ("--data.dataset=synthetic", "--data.train_examples=100", "--data.test_examples=50")
    end = any_end_of(one.main, "--rounds=1", "--model.name=logistic", "--cluster.backend=in-process", *few)
    assert end.status == 0
    assert len(fedray.load("unnamed").rounds) == 1


def test_the_short_help_gives_the_quick_start_where_its_file_is_and_where_it_is_not(tmp_path, monkeypatch, capsys):
    """With the same run in both cases."""
    monkeypatch.chdir(ROOT)
    show("fedray")
    assert f"\n  {FILE}\n" in capsys.readouterr().err
    with_file, without = (read_command_line(text.split()[3:], "", "").tree for text in (FILE, NO_FILE))
    assert compose(with_file) == compose(without)
    monkeypatch.chdir(tmp_path)
    show("fedray")
    assert f"\n  {NO_FILE}\n" in capsys.readouterr().err


def test_the_reports_short_help_names_the_newest_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["b", "a"]):
        (tmp_path / "results" / name / "runs").mkdir(parents=True)
        os.utime(tmp_path / "results" / name / "runs", (number, number))
    show("fedray.report")
    assert "no results were named. There are results/a, results/b.\n" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_returns_the_status_and_its_help_shows_the_version(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--versoin"])
    assert program(script)() == 2
    assert capsys.readouterr().err.startswith("fedray: ")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        program(script)()
    assert "  --version " in capsys.readouterr().out


def test_modules_are_found_in_the_working_directory_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/bin", "/lib"])
    find_modules_here()
    find_modules_here()
    assert sys.path == [str(tmp_path), "/bin", "/lib"]
    monkeypatch.setattr(sys, "path", ["", "/lib"])
    find_modules_here()
    assert sys.path == ["", "/lib"]
