"""One process at a time, and no lock outlives its process."""

import fcntl
import os
import subprocess
import sys
import textwrap

import pytest

from fedray.core import lock
from fedray.core.errors import BusyError
from fedray.core.lock import hold, is_held


def test_a_lock_that_is_held_is_refused_with_who_holds_it(tmp_path):
    path = tmp_path / "folder" / ".lock"
    with hold(path, "first"):
        with pytest.raises(BusyError, match=f"^process {os.getpid()} is here$"), hold(path, "{process} is here"):
            raise AssertionError
        assert path.exists()
    assert not path.exists()
    with hold(path, "again"):
        pass


def test_a_reader_sees_whether_a_lock_is_held_and_stops_nobody(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    assert not is_held(path) and not path.exists()
    with hold(path, "held"):
        assert is_held(path)
    path.touch()  # as a kill leaves it
    assert not is_held(path)
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        monkeypatch.setattr(lock.time, "sleep", lambda seconds: fcntl.flock(reader, fcntl.LOCK_UN))
        with hold(path, "not while a reader looks"):
            assert is_held(path)


def test_folders_made_for_the_lock_alone_go_with_it_when_the_block_raises(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path / "a" / "b" / ".lock", ""):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), hold(tmp_path / "a" / "b" / ".lock", ""):
        (tmp_path / "a" / "kept").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


def test_a_lock_ends_with_its_process_and_not_with_what_that_started(tmp_path):
    """Killed while a child of it goes on: the child holds nothing."""
    path = tmp_path / ".lock"
    program = f"""
        import os, pathlib, signal, subprocess, sys
        from fedray.core.lock import hold
        with hold(pathlib.Path({str(path)!r}), ""):
            child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            print(child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    child = int(killed.stdout)
    try:
        assert path.exists()
        with hold(path, "it is held"):
            assert path.read_text() == str(os.getpid())
    finally:
        os.kill(child, 9)
