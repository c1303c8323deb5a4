"""What fuzz tests share: how many examples there are, how a program ended, and what was on disk before and after.

A program that is given anything at all ends in time, with a status of its own and no traceback; where it refuses what
it was given, with one sentence and a disk on which nothing changed.
"""

import contextlib
import io
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from fedray.cli.command_line import report_errors

MANY = [pytest.mark.slow, pytest.mark.timeout(3600)]
FEW_AND_MANY = pytest.mark.parametrize("times", [pytest.param(0.3, id="few"), pytest.param(20, id="many", marks=MANY)])
"""A test with a few examples, the same at every run, and a slow one with many times as many."""


def fuzz(examples: float) -> Any:
    """Hypothesis with so many examples, that keeps none and waits for slow ones."""
    return settings(
        max_examples=round(examples),
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),  # what failed says how it was changed, and is short enough
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class End:
    """How a program ended: its exit status, and what it said on the two streams."""

    status: int
    out: str
    err: str


def end_of(main: Callable[[list[str]], int], *argv: Any, seconds: int = 20) -> End:
    """Run a program in this process; it must end in time, with one of its statuses and, if that is 2, one sentence."""
    end = any_end_of(main, *argv, seconds=seconds)
    assert "Traceback" not in end.out + end.err, end
    if end.status == 2 and argv:  # without a word it prints its short help
        assert end.err.startswith("fedray: "), end
        assert end.err.count("\n") == 1, end
        assert len(end.err) < 2100, end
    return end


def any_end_of(main: Callable[[list[str]], int], *argv: Any, seconds: int = 20) -> End:
    """The same where it may print a traceback of the user's code, or its short help."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_longer_than(seconds):
        try:
            status = report_errors(lambda: main([str(word) for word in argv]))
        except SystemExit as end:  # of --help
            status = end.code
    end = End(status, out.getvalue(), err.getvalue())
    assert status in (0, 1, 2, 3, 130), end
    return end


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """AssertionError in the midst of whatever is still going on."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"it was still at it after {seconds} seconds")

    handler, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # of the test's own limit
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, left - time.monotonic() + began) if left else 0)


def on_disk(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder by its path: a file's bytes, or what else it is."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else "no file"
        for path in folder.rglob("*")
    }


NASTY = [
    *(b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b"[", b"]", b"{", b"}", b"=", b".", b",", b"#"),
    *(b"nan", b"-inf", b"1e400", b"-0", b"null", b"true", b"[" * 3000, b"9" * 5000, b"0x" + b"f" * 9000),
    *("é\u202e\U0001f600".encode(), b"\x80\x04\x95", b"\xc3\x28", b"a." * 5000),
]


DAMAGES = ["flip", "cut", "insert", "remove", "zero", "swap lines", "repeat a line", "drop a line"]


class Changed(bytes):
    """Content that says how it was changed, rather than all of it."""

    how: str

    def __repr__(self) -> str:
        return f"<{len(self):,} bytes: {self.how}>"


def changed(content: bytes, how: str) -> Changed:
    made = Changed(content)
    made.how = how
    return made


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> Changed:
    """The content with up to four of its bytes, lines or ends changed."""
    how = []
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(content) - 1)
        at = draw(st.integers(0, last) | st.integers(0, min(last, 600)) | st.integers(max(0, last - 600), last))
        end = min(len(content), at + draw(st.sampled_from([1, 2, 3, 8, 40, 1000])))
        lines = content.split(b"\n")
        i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        what = draw(st.sampled_from(DAMAGES))
        how.append(f"{what} at {(i, j) if 'line' in what else at}")
        match what:
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
            case "cut":
                content = content[:at]
            case "insert":
                content = content[:at] + draw(st.sampled_from(NASTY) | st.binary(max_size=8)) + content[at:]
            case "remove":
                content = content[:at] + content[end:]
            case "zero":
                content = content[:at] + bytes(end - at) + content[end:]
            case "swap lines":
                lines[i], lines[j] = lines[j], lines[i]
                content = b"\n".join(lines)
            case "repeat a line":
                content = b"\n".join([*lines[:i], lines[j], *lines[i:]])
            case "drop a line":
                content = b"\n".join([*lines[:i], *lines[i + 1 :]])
    return changed(content, ", ".join(how))


ODD_FILES = ("folder", "pipe", "endless", "dangling", "empty", "gone", "unreadable")


def put_odd(path: Path, kind: str) -> None:
    """Something else, or nothing, in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to(path.with_name("nowhere"))
        case "empty" | "unreadable":
            path.touch(0o000 if kind == "unreadable" else 0o644)
