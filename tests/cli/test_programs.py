"""The console scripts, and --version."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import fedray
from fedray.cli.command_line import find_modules_here

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
