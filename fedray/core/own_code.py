"""The user's own code, a network or a class, by the address package.module:name. The module's file is its content."""

import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from fedray.core.errors import BadInputError

ADDRESS = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*")
LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(__file__).parents[1],
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)
"""The folders of fedray's code and of libraries."""
STARTED = time.time()  # a module that others imported is up to date where its file is older
loaded: dict[str, str] = {}  # the modules imported here, and the fingerprints of their files at that time


def is_address(name: str) -> bool:
    """Whether `name` has the form package.module:name."""
    return bool(ADDRESS.fullmatch(name))


def find(address: str, setting: str) -> Path:
    """The source file of the module; BadInputError where there is none. The packages around it are imported.

    `setting` is the one that names the address, as messages say it.
    """
    module = address.partition(":")[0]
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{setting} = {address}: {module} cannot be searched for ({describe(error)})") from error
    path = Path(spec.origin) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BadInputError(f"{setting} = {address}: there is no module {module} in the folders that Python searches")
    return path


def fingerprint(address: str, setting: str) -> str:
    """A digest of the module's file alone, 32 hex digits. The modules that it imports do not count."""
    return blake2b(find(address, setting).read_bytes(), digest_size=16).hexdigest()


def load(address: str, setting: str, wanted: str = "") -> ModuleType:
    """The module as its file is now; or as imported before, if the file then had the fingerprint `wanted`.

    The module is imported anew only where its file has changed since this process imported it, so that the user's
    objects from it stay valid. BadInputError where the file has not the fingerprint `wanted`, or fails to import.
    """
    module = address.partition(":")[0]
    if wanted and module in sys.modules and loaded.get(module) == wanted:
        return sys.modules[module]
    path, found = find(address, setting), fingerprint(address, setting)
    if wanted and found != wanted:
        raise BadInputError(
            f"{setting} = {address}: {path} is not the file that this run began with: it has changed since, or this "
            "machine has another"
        )
    try:
        if module in sys.modules:
            known = loaded.get(module)
            if found != known if known else path.stat().st_mtime > STARTED:
                importlib.reload(sys.modules[module])
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{setting} = {address}: {module} cannot be imported ({describe(error)})") from error
    loaded[module] = found
    return imported


def load_all(files: Sequence[tuple[str, str, str]]) -> None:
    """The modules of these settings and addresses, each with this fingerprint, as `load` has them.

    One that builds on a module before it is imported anew where that one was.
    """
    anew = False
    for setting, address, wanted in files:
        module = address.partition(":")[0]
        if module in sys.modules:
            anew = anew or loaded.get(module, wanted) != wanted
            if anew:
                loaded[module] = "built on a file that has changed"
        load(address, setting, wanted)


def edited(since: float) -> list[str]:
    """The modules that this process has of the user's and whose files are newer than `since`, seconds since 1970.

    Those that `load` imports are not among them: it imports them anew itself.
    """
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and name not in loaded and not file.startswith(LIBRARIES):
            with suppress(OSError):
                if Path(file).stat().st_mtime > since:
                    found.append(name)
    return sorted(found)


def describe(error: BaseException) -> str:
    """An error's type and message, and the innermost line that raised it outside fedray and outside libraries."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, in {Path(error.filename).name} line {error.lineno}"
    trace = [at for at in traceback.extract_tb(error.__traceback__) if not at.filename.startswith("<")]
    lines = [at for at in trace if not at.filename.startswith(LIBRARIES)]
    said = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    return f"{said}, in {Path(lines[-1].filename).name} line {lines[-1].lineno}" if lines else said
