"""Runs packed into one compressed file, which unpacks to a results folder that loads.

The archive appears once each file in it was read back and compared with the one on disk.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b, file_digest
from pathlib import Path

from fedray.core.atomic import replacing, sync, writing
from fedray.core.errors import BadInputError, RunError
from fedray.results.recorder import lock_of
from fedray.run.fresh import shared_files
from fedray.run.stored import StoredRun

MODES = {".tar.gz": "gz", ".tgz": "gz", ".tar.zst": "zst"}

NOTHING = "so that there is none, and nothing was removed"

Stamps = dict[Path, tuple[int, int]]
"""The size and the time of the last change, in ns, of each file that was verified."""


def compression(path: Path) -> str:
    """The compression that the archive's name asks for; BadInputError where there is none."""
    known = [mode for ending, mode in MODES.items() if path.name.endswith(ending)]
    if not known:
        raise BadInputError(f"the archive {path} must end in .tar.gz or .tar.zst")
    if known[0] not in tarfile.TarFile.OPEN_METH:
        raise BadInputError(f"this Python cannot write {path}: it has no {known[0]} (3.14 has); take .tar.gz")
    return known[0]


def check_archive(path: Path, runs: Sequence[StoredRun]) -> None:
    """BadInputError where the archive cannot be written, or where something in it would not load."""
    compression(path)
    if path.exists():
        raise BadInputError(f"{path} exists; take another name with --to")
    if not path.absolute().parent.is_dir():
        raise BadInputError(f"{path} cannot be written: there is no folder {path.parent}")
    folders = {each.folder.resolve() for each in runs}
    if len({folder.name for folder in folders}) < len(folders):
        raise BadInputError("two of the results have the same name, so that one archive cannot have both")
    for each in runs:
        if not each.row or each.removing:
            raise BadInputError(f"run {each.run} in {each.folder} is {each.status}, and cannot be archived")


def archive(path: Path, runs: Sequence[StoredRun]) -> Stamps:
    """Write these runs, with the files that they share, to `path`, and verify it; then `path` appears.

    Each run is a part of the folder NAME in it. BusyError where a run is being played, RunError where a file is another
    than in the archive. Nothing is at `path` then.
    """
    with writing(path.parent), replacing(path) as temporary:
        with tarfile.open(temporary, f"w:{compression(path)}", dereference=True) as tar:  # type: ignore[call-overload]
            packed: set[str] = set()
            for each in runs:
                with lock_of(each.folder, each.run):
                    for name, file in members(each):
                        if name not in packed:
                            tar.add(file, name, recursive=False)
                            packed.add(name)
        sync(temporary)
        return verified(temporary, runs)


def members(run: StoredRun) -> Iterator[tuple[str, Path]]:
    """The run's files, and those that it shares, each with its name in an archive."""
    for file in (*StoredRun(run.folder, run.run, run.row).files, *shared_files(run.folder, run.run)):
        if not file.is_file():
            raise BadInputError(f"{file} is no file, and cannot be archived")
        yield f"{run.folder.resolve().name}/{file.relative_to(run.folder)}", file


def verified(path: Path, runs: Sequence[StoredRun]) -> Stamps:
    """Read the archive and compare it with the runs' files; RunError where they differ."""
    try:
        found = dict(contents(path))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise RunError(f"the archive cannot be read back ({error}), {NOTHING}") from None
    stamps: Stamps = {}
    for each in runs:
        with lock_of(each.folder, each.run):
            for name, file in members(each):
                stamps[file] = stamp(file)
                with file.open("rb") as content:
                    if found.get(name) != file_digest(content, blake2b).digest():
                        raise RunError(f"{file} is not as in the archive, {NOTHING}")
    if len(stamps) < len(found):
        raise RunError(f"files went while they were archived, {NOTHING}")
    return stamps


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each file's name in an archive, and the digest of its content."""
    with tarfile.open(path) as tar:
        for member in tar:
            if content := tar.extractfile(member):
                with content:
                    digest = blake2b()
                    while piece := content.read(1 << 20):
                        digest.update(piece)
                    yield member.name, digest.digest()


def check_unchanged(run: StoredRun, stamps: Stamps) -> None:
    """RunError where one of the run's files is not the one that was verified."""
    for _, file in members(run):
        if stamps.get(file) != stamp(file):
            raise RunError(f"{file} changed since it was archived, so that its run was not removed")


def stamp(file: Path) -> tuple[int, int]:
    with suppress(FileNotFoundError):
        return file.stat().st_size, file.stat().st_mtime_ns
    return -1, -1
