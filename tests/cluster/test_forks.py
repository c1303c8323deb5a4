"""What is forked from the fork server, and that it leaves nothing behind."""

import contextlib
import importlib
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from fedray.cluster.forks import SHIM, ForkServer, Nursery, fork_server
from fedray.cluster.needs import will_fork
from fedray.cluster.plan import Plan
from fedray.cluster.settings import Cluster
from fedray.cluster.tickets import Traffic
from fedray.core.errors import BadInputError
from fedray.models import describe
from fedray.models.model import Model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux")

QUICK = ["--data.dataset", "synthetic", "--data.train_examples", "400", "--data.test_examples", "100", "--rounds", "1"]
QUICK += ["--clients", "2", "--cohort", "2"]


@pytest.fixture
def server():
    server = ForkServer()
    yield server
    server.close()


def test_the_driver_never_imports_torch(tmp_path):
    """It takes seconds and 200 MB; a run with its actors, evaluation and final model does without it."""
    code = (
        "import sys\n"
        "from fedray.__main__ import main\n"
        f"main({[*QUICK, '--output.root', str(tmp_path)]!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("unnamed/models/*"))) == 1


def test_a_blueprint_from_there_is_the_one_made_here(server):
    wanted = (Model(name="lenet5"), (3, 32, 32), 10, 3)
    there, here = server.ask("fedray.models.describe:blueprint", *wanted).result(), describe.blueprint(*wanted)
    assert (there.params == here.params).all()
    assert (there.places, there.torch) == (here.places, here.torch)


def test_an_error_there_is_raised_here_and_what_is_printed_is_no_output_of_the_program(capfd):
    with contextlib.closing(ForkServer()) as server:  # no fixture, since pytest captures elsewhere what that starts
        with pytest.raises(BadInputError, match="Linux") as caught:
            server.ask(will_fork, Cluster(forked=True, address="elsewhere:1")).result()
        assert "Traceback" in caught.value.__notes__[0]
        with pytest.raises(RuntimeError, match="ended without an answer"):
            server.ask(os._exit, 1).result()
        assert server.ask(will_fork, Cluster()).result()  # and it goes on
        server.ask(print, "said").result()
    assert capfd.readouterr() == ("", "said\n")


def test_it_ends_with_its_driver_however_that_ends():
    code = (
        "from fedray.cluster.forks import fork_server\n"
        "import time\n"
        "print(fork_server().process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        child = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
    assert not psutil.wait_procs([child], timeout=20)[1]


def test_one_that_has_died_is_replaced():
    first = fork_server()
    assert fork_server() is first
    first.process.kill()
    first.process.wait()
    second = fork_server()
    assert second is not first
    assert second.ask(will_fork, Cluster()).result()


def test_what_is_guarded_is_ended_with_its_driver_and_nothing_else_is(tmp_path):
    """A process whose id was told with another time of creation is somebody else's, as is a folder of another time."""
    code = (
        "import os, subprocess, sys, time\n"
        "import psutil\n"
        "from fedray.cluster.forks import ForkServer\n"
        "from fedray.cluster.forkserver import LocalRay, guard\n"
        "server = ForkServer()\n"
        "sleepers = [subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL) for _ in range(2)]\n"
        "created = [psutil.Process(sleeper.pid).create_time() for sleeper in sleepers]\n"
        "told = ((sleepers[0].pid, created[0]), (sleepers[1].pid, created[1] - 100))\n"
        "root, me = sys.argv[1], os.getpid()\n"
        "for name, age in ((f'session_1_{me}', 0), (f'session_2_{me}', 100), ('session_3_1', 0)):\n"
        "    os.mkdir(f'{root}/{name}')\n"
        "    os.utime(f'{root}/{name}', (time.time() - age,) * 2)\n"
        "ray = LocalRay(root, me, time.time() - 10, told)\n"
        "server.ask(guard, ray).connection.close()\n"
        "if sys.argv[2] == 'taken back':\n"
        "    server.ask(guard, None).connection.close()\n"
        "print(me, server.process.pid, *(sleeper.pid for sleeper in sleepers), flush=True)\n"
        "time.sleep(60)\n"
    )
    for word in ("guarded", "taken back"):
        root = tmp_path / word
        root.mkdir()
        with subprocess.Popen([sys.executable, "-c", code, root, word], stdout=subprocess.PIPE, text=True) as driver:
            pid, *pids = map(int, driver.stdout.readline().split())
            server, ours, other = map(psutil.Process, pids)
            driver.kill()
        psutil.wait_procs([server], timeout=20)
        assert other.is_running()
        assert ours.is_running() == (word == "taken back")
        left = {f"session_2_{pid}", "session_3_1"} | ({f"session_1_{pid}"} if word == "taken back" else set())
        assert {path.name for path in root.iterdir()} == left
        for process in (ours, other):
            if process.is_running():
                process.kill()


def test_no_workers_from_a_process_with_threads(tmp_path, monkeypatch):
    """What a thread has locked when its process is forked stays locked in the child."""
    Path(tmp_path, "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    server = ForkServer()
    server.preload(["starts_a_thread"])
    nursery = Nursery(server, "01000000", os.getpid())
    assert nursery.trouble() == "the fork server runs 2 threads"
    nursery.close()
    server.close()


def test_without_a_nursery_the_shim_becomes_the_worker(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import sys, numpy\nprint(sys.argv[1:])\n")
    command = [sys.executable, "-S", "-E", str(SHIM), str(tmp_path / "nowhere"), str(worker), "--id", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("['--id', '7']\n", "")


WORKER = Path(ray.__file__).parent / "_private" / "workers" / "default_worker.py"


def set_up(path, context, monkeypatch):
    """How setup_worker.py would go on: the nursery and the worker's words, or the program with which Ray does it."""
    program = SHIM.with_name("setup_worker.py")
    monkeypatch.setattr(sys, "path", [str(program.parent), *sys.path])
    words = [str(path), "--id=7", f"--serialized-runtime-env-context={json.dumps(context)}", "--language=PYTHON"]
    monkeypatch.setattr(sys, "argv", [str(program), *words])
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("shim"), "become_worker", lambda *how: found.append(how))
        patch.setattr(os, "execv", lambda program, command: found.append(tuple(command)))
        runpy.run_path(str(program), run_name="__main__")
    return words, found


def test_a_worker_is_set_up_by_the_shim_alone_where_nothing_else_is_asked_for(monkeypatch):
    nothing = {"command_prefix": [], "env_vars": {}, "override_worker_entrypoint": None, "java_jars": []}
    ours = {**nothing, "py_executable": shlex.join([sys.executable, "-S", "-E", str(SHIM), "/a nursery"])}
    assert set_up(WORKER, ours, monkeypatch)[1] == [("/a nursery", [str(WORKER), "--id=7"])]
    others = [
        {**nothing, "py_executable": sys.executable},
        {**nothing, "py_executable": None},
        {**ours, "env_vars": {"A": "1"}},
        {**ours, "command_prefix": ["nice"]},
        {**ours, "unknown": "to us"},
    ]
    for context in others:
        words, found = set_up(WORKER, context, monkeypatch)
        assert found == [(sys.executable, str(WORKER.with_name("setup_worker.py")), *words)]
    assert WORKER.with_name("setup_worker.py").exists()


def test_actors_of_a_session_are_set_up_so(session, dataset):
    """Ray knows the program by its name; that of Ray's would have imported Ray in the shim's process."""
    (raylet,) = [child for child in psutil.Process().children() if child.name() == "raylet"]
    assert any(str(SHIM.with_name("setup_worker.py")) in word for word in raylet.cmdline())
    started = {Path(word).name for child in psutil.Process().children(recursive=True) for word in child.cmdline()}
    assert not started & {"dashboard.py", "monitor.py", "log_monitor.py"}  # nobody here asks them
    assert len(set(pids(session, dataset))) == 2


def pids(session, dataset):
    """The processes of two actors, as a run would have them that ends at once."""
    planned = Plan(actors=2, clients_per_actor=2, num_cpus=1, num_gpus=0, room=2, most_lanes=2)
    slots, _ = session.pool.claim("a run", Traffic(0), planned, dataset)
    session.pool.leave("a run", slots)
    return [slot.where["pid"] for slot in slots]


def test_a_lost_worker_takes_no_other_with_it(session, dataset):
    """Ray ends the process group of a worker that it lost."""
    lost, other = (psutil.Process(pid) for pid in pids(session, dataset))
    nursery = psutil.Process(lost.ppid())
    assert nursery.ppid() == fork_server().process.pid
    os.kill(lost.pid, signal.SIGKILL)
    for _ in range(20):
        time.sleep(0.1)
        assert other.is_running()
        assert nursery.is_running()
    assert not lost.is_running()


def test_forking_is_refused_where_it_cannot_be():
    assert not will_fork(Cluster(address="auto"))
    assert not will_fork(Cluster(forked=False))
    with pytest.raises(BadInputError, match="cluster.address = local"):
        will_fork(Cluster(forked=True, address="auto"))


def test_a_shim_that_dies_or_talks_nonsense_does_no_harm(session, dataset):
    nursery = psutil.Process(psutil.Process(pids(session, dataset)[0]).ppid())
    path = session.pool.nursery.path
    for said in (None, b"nonsense"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as shim:
            shim.connect(path)
            if said:
                shim.sendall(said)
        time.sleep(0.5)
        assert nursery.is_running()
        assert Path(path).exists()
    lost = session.pool.slots[0].where["pid"]
    os.kill(lost, signal.SIGKILL)
    again = [psutil.Process(pid) for pid in pids(session, dataset)]
    assert lost not in [process.pid for process in again]
    assert {process.ppid() for process in again} == {nursery.pid}  # it goes on forking


def test_without_its_nursery_a_lost_actor_comes_back_as_a_plain_process(session, dataset):
    """The last test here: the session forks no more after it."""
    lost, other = (psutil.Process(pid) for pid in pids(session, dataset))
    nursery = psutil.Process(lost.ppid())
    for process in (nursery, lost):
        process.kill()
    again = set(pids(session, dataset))
    assert other.pid in again
    assert lost.pid not in again
    (new,) = again - {other.pid}
    assert psutil.Process(new).ppid() != fork_server().process.pid
