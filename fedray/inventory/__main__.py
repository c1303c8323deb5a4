"""python -m fedray.results list lr status=failed      lists, shows, removes and archives the runs on disk"""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedray.cli.command_line import Parser, add_options, report_errors
from fedray.core.errors import BadInputError, BusyError
from fedray.core.settings import nearest
from fedray.inventory.choice import Shelf, choose
from fedray.inventory.views import as_json, details, print_details, print_table
from fedray.report.wording import count, enumerate_words, size
from fedray.results.frames import DamagedResultsWarning, NewerResultsWarning
from fedray.run.archive import archive, check_archive, check_unchanged
from fedray.run.removal import alone, check_idle, freed, remove
from fedray.run.stored import StoredRun, named

PROGRAM = "python -m fedray.results"
DESCRIPTION = (
    "List, show, remove or archive runs on disk. WORDS choose them: results by their name or folder, runs by their id, "
    "and settings, as in lr=0.1 status=failed 'accuracy<0.5'. rm and archive first say what they would do, and ask."
)
USAGE = f"{PROGRAM} COMMAND [WORD ...] [--OPTION ...]"
COMMANDS = {
    "list": "one line for each run",
    "show": "the settings, events and files of one run",
    "rm": "remove runs",
    "archive": "pack runs into a file",
}
FLAGS = {
    "json": "list, show: print each run as a line of JSON",
    "yes": "rm, archive: do it without asking",
    "remove": "archive: remove the runs once the archive was read back and compared with them",
}
VALUES = {
    "root": ("DIR", "folder of all results (default: results)"),
    "to": ("FILE", "archive: the file, which ends in .tar.gz or .tar.zst (default: NAME.tar.gz, here)"),
}
ONLY = {"json": ("list", "show"), "yes": ("rm", "archive"), "remove": ("archive",), "to": ("archive",)}
"""The commands that have an option; `root` is for all."""


@dataclass(frozen=True)
class Words:
    """A parsed command line."""

    command: str
    words: list[str]
    root: Path
    to: Path | None
    json: bool
    yes: bool
    remove: bool


def read_words(argv: Sequence[str]) -> Words:
    """Parse a command line; BadInputError for an unknown command, or an option that it does not have."""
    known = ", ".join(f"{name} ({text})" for name, text in COMMANDS.items())
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, allow_abbrev=False, usage=USAGE)
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=known)
    parser.add_argument("words", nargs="*", metavar="WORD", help="results, runs and settings")
    add_options(parser, FLAGS, VALUES, {})
    given = parser.parse_intermixed_args(argv)
    if given.command not in COMMANDS:
        said = f"there is no command {given.command!r}{nearest(given.command, COMMANDS)}" if given.command else "which?"
        raise BadInputError(f"{said}; the commands are {', '.join(COMMANDS)}")
    for name, commands in ONLY.items():
        if getattr(given, name) and given.command not in commands:
            raise BadInputError(f"--{name} is for {enumerate_words(commands)}, not for {given.command}")
    to = Path(given.to) if given.to else None
    return Words(given.command, given.words, Path(given.root or "results"), to, given.json, given.yes, given.remove)


def main(argv: Sequence[str]) -> int:
    given = read_words(argv)
    with warnings.catch_warnings(record=True) as caught:
        for category in (DamagedResultsWarning, NewerResultsWarning):
            warnings.simplefilter("always", category)
        if given.command != "list" and not given.words:
            raise BadInputError(f"{given.command} needs to know which runs: ids, the name of results, or settings")
        chosen = choose(given.words, given.root, several=given.command == "list")
        for sentence in dict.fromkeys(str(warning.message) for warning in caught):
            print(f"fedray: {sentence}", file=sys.stderr)
    with warnings.catch_warnings():
        for category in (DamagedResultsWarning, NewerResultsWarning):
            warnings.simplefilter("ignore", category)  # they were told
        return {"list": list_runs, "show": show, "rm": rm, "archive": pack}[given.command](given, chosen)


def list_runs(given: Words, chosen: list[Shelf]) -> int:
    if given.json:
        for shelf in chosen:
            for each in shelf.runs:
                print(json.dumps(as_json(each), allow_nan=False))
    elif chosen:
        print_table(chosen)
    else:
        print(nothing(given))
    return 0


def nothing(given: Words) -> str:
    return "no run fits " + " ".join(given.words) if given.words else f"there are no runs in {given.root}"


def show(given: Words, chosen: list[Shelf]) -> int:
    runs = [each for shelf in chosen for each in shelf.runs]
    if not runs:
        raise BadInputError(nothing(given))
    if len(runs) > 1:
        raise BadInputError(f"show is for one run, and {len(runs)} fit {' '.join(given.words)}; give an id")
    if given.json:
        print(json.dumps(details(runs[0]), allow_nan=False))
    else:
        print_details(runs[0])
    return 0


def rm(given: Words, chosen: list[Shelf]) -> int:
    if not chosen:
        print(nothing(given))
        return 0
    runs = [each for shelf in chosen for each in shelf.runs]
    print_table(chosen)
    for shelf in chosen:
        if alone_theirs := freed(shelf.folder, shelf.runs, [each.run for each in shelf.runs]):
            print(f"and {count(len(alone_theirs), 'file')} in {shelf.folder}/partitions/ that no other run has")
    refuse_busy(runs, "removed")
    if not agreed(given, f"remove {what(runs)}", "removed"):
        return 1
    with alone([shelf.folder for shelf in chosen]):
        for shelf in chosen:
            remove(shelf.folder, shelf.runs)
    print(f"removed {what(runs)}")
    for shelf in chosen:
        if not any(named(shelf.folder)):
            print(f"{shelf.folder}/ has no run any more; whatever else is there was left")
    return 0


def pack(given: Words, chosen: list[Shelf]) -> int:
    runs = [each for shelf in chosen for each in shelf.runs]
    if not runs:
        raise BadInputError(nothing(given))
    name = chosen[0].folder.resolve().name if len(chosen) == 1 else given.root.resolve().name
    path = given.to or Path(f"{name}.tar.gz")
    check_archive(path, runs)
    print_table(chosen)
    refuse_busy(runs, "archived")
    wish = f"archive {what(runs)} in {path}" + (", and remove them" if given.remove else "")
    if not agreed(given, wish, "archived"):
        return 1
    if given.remove:
        with alone([shelf.folder for shelf in chosen]):
            stamps = archive(path, runs)
            for shelf in chosen:
                remove(shelf.folder, shelf.runs, partial(check_unchanged, stamps=stamps))
    else:
        archive(path, runs)
    print(f"{path} has {what(runs)} in {size(path.stat().st_size)}; each file was read back and compared")
    print(f"removed {what(runs)}" if given.remove else "nothing was removed")
    print(f"it is unpacked by: tar -xf {path} -C {given.root}")
    return 0


def what(runs: Sequence[StoredRun]) -> str:
    files = sum(len(each.files) for each in runs)
    return f"{count(len(runs), 'run')} ({count(files, 'file')}, {size(sum(each.size for each in runs))})"


def refuse_busy(runs: Sequence[StoredRun], done: str) -> None:
    try:
        check_idle(runs)
    except BusyError as error:
        raise BusyError(f"{error}; nothing was {done}") from None


def agreed(given: Words, wish: str, done: str) -> bool:
    """Ask on the terminal, unless --yes was given; BadInputError where there is no terminal."""
    if given.yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise BadInputError(f"would {wish}; nothing was {done}, since nobody can be asked here: --yes does it")
    try:
        answer = input(f"{wish}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    print(f"nothing was {done}")
    return False


def program() -> int:
    """The console script fedray-results; returns the exit status."""
    try:
        status = report_errors(lambda: main(sys.argv[1:]))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as `| head -1` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(program())
