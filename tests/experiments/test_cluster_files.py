"""What a container and Slurm need: the Dockerfile copies and installs what there is, and the script asks Slurm right."""

import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from interruptible import heed_sigterm

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "cluster"
DOCKERFILE, SLURM = FOLDER / "Dockerfile", FOLDER / "slurm.sh"


def instructions():
    """The Dockerfile's instructions, each with what follows it; lines that a backslash continues are one."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def is_sent(name):
    """Whether .dockerignore lets a file of the checkout's top level through: its last line that fits decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    fits = [line for line in lines if fnmatch.fnmatch(name, line.removeprefix("!"))]
    return not fits or fits[-1].startswith("!")


def test_the_image_is_of_what_there_is():
    found = instructions()
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} == known
    copied = [word for name, rest in found if name == "COPY" for word in rest.split()[:-1]]
    assert {"fedray", "pyproject.toml"} <= set(copied)
    for each in copied:
        assert (ROOT / each).exists()
        assert is_sent(each)
    assert not any(map(is_sent, ("results", "data", ".git", ".venv", "tests")))
    assert ("FROM", "python:${PYTHON}-slim") in found
    assert dict(rest.split("=") for name, rest in found if name == "ARG") == {"PYTHON": "3.12", "TORCH": "cpu"}


def test_the_image_has_the_torch_that_fedray_asks_for():
    """Otherwise the second pip would put another one, with CUDA, in place of the first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {need for need in project["dependencies"] if need.startswith("torch")}
    (run,) = [rest for name, rest in instructions() if name == "RUN" and "--index-url" in rest]
    assert set(re.findall(r'"(torch[^"]*)"', run)) == wanted
    assert tuple(map(int, ["3", "12"])) >= tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))


@pytest.mark.parametrize(
    ("torch", "index"), [("cpu", "download.pytorch.org/whl/cpu"), ("cuda", "pypi.org"), ("rocm", "")]
)
def test_the_build_argument_chooses_the_index(torch, index, tmp_path):
    """The shell of the RUN runs, with a pip that prints its words."""
    (run,) = [rest for name, rest in instructions() if name == "RUN" and "--index-url" in rest]
    said = play(run, tmp_path, {"pip": 'echo "$@"'}, {"TORCH": torch})
    assert (said.returncode == 0) == bool(index)
    assert index in said.stdout
    if not index:
        assert "TORCH is cpu or cuda, not rocm" in said.stderr


@pytest.mark.parametrize(("linter", "path"), [("hadolint", DOCKERFILE), ("shellcheck", SLURM)])
def test_a_linter_has_nothing_to_say(linter, path):
    if not shutil.which(linter):
        pytest.skip(f"{linter} is not installed")
    said = subprocess.run([linter, path], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")


def test_both_say_what_was_never_done():
    for path in (DOCKERFILE, SLURM):
        assert re.search(r"^# What was never done: .* never ", path.read_text(), re.MULTILINE)


def play(script, folder, programs, variables=(), **how):
    """Run a shell script with programs that are scripts themselves in front of all others."""
    return subprocess.run(*command(script, folder, programs), env=env(folder, variables), cwd=folder, capture_output=True, text=True, **how)  # fmt: skip


def command(script, folder, programs):
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in programs.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return (["bash", "-c", script] if isinstance(script, str) else ["bash", *map(str, script)],)


def env(folder, variables):
    return {**os.environ, "HOME": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}", **dict(variables)}


LOG = 'echo "$(basename "$0") $*" >> log\n'
STANDINS = {
    "scontrol": 'printf "n1\\nn2\\nn3\\n"',
    # a step: it goes on until it is ended, as `ray start --block` does
    "srun": LOG + "echo $$ >> steps; exec sleep 60",
    "ray": 'for node in $(seq "$(grep -c "^srun" log)"); do echo " 1 node_$node"; done; grep -q address= log && echo " 1 node_3"; true',
    "hostname": "echo 10.0.0.1 192.168.0.1",
}
VARIABLES = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_ON_NODE": "8"}


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split(")")[-1].split()[0] != "Z"


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_is_one_ray_over_its_nodes_and_one_run(status, tmp_path):
    programs = {**STANDINS, "python": LOG + f"exit {status}"}
    said = play([SLURM, "a file.toml", "--rounds", "3"], tmp_path, programs, VARIABLES)
    assert (said.returncode, said.stderr) == (status, "")
    head, others, program = map(shlex.split, (tmp_path / "log").read_text().replace("a file", "a-file").splitlines())
    assert "--nodelist=n1" in head and {"--head", "--node-ip-address=10.0.0.1", "--port=6379"} <= set(head)
    assert {"--nodelist=n2,n3", "--nodes=2", "--ntasks=2", "--address=10.0.0.1:6379"} <= set(others)
    for step in (head, others):
        assert step[step.index("ray") :][:2] == ["ray", "start"]
        assert {"--num-cpus=8", "--cpus-per-task=8", "--block"} <= set(step)
    assert program == ["python", "-m", "fedray", "a-file.toml", "--rounds", "3", "--cluster.address", "10.0.0.1:6379"]
    steps = [int(line) for line in (tmp_path / "steps").read_text().split()]
    assert len(steps) == 2
    assert not any(map(is_alive, steps))


def test_a_job_whose_time_is_up_lets_the_run_end_its_round(tmp_path):
    """Slurm sends the script SIGTERM; it waits for the run, whose status is its own."""
    programs = {
        **STANDINS,
        "python": "trap 'echo saved > saved; exit 130' TERM; touch begun; while :; do sleep 0.05; done",
    }
    (words,) = command([SLURM, "x.toml"], tmp_path, programs)
    how = {"env": env(tmp_path, VARIABLES), "cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen(words, **how, preexec_fn=heed_sigterm)
    while not (tmp_path / "begun").exists():
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert (job.communicate(timeout=100)[1], job.returncode) == ("", 130)
    assert (tmp_path / "saved").exists()
    assert not any(is_alive(int(line)) for line in (tmp_path / "steps").read_text().split())


def test_a_job_without_a_file_is_refused(tmp_path):
    said = play([SLURM], tmp_path, STANDINS, VARIABLES)
    assert said.returncode == 2
    assert said.stderr.startswith("name the settings file")
    assert not (tmp_path / "log").exists()


def test_a_head_that_ends_ends_the_job(tmp_path):
    programs = {**STANDINS, "srun": LOG + "exit 1", "ray": "exit 1"}
    said = play([SLURM, "x.toml"], tmp_path, programs, VARIABLES)
    assert (said.returncode, said.stderr) == (1, "the head's Ray ended\n")
