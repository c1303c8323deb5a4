"""The user's own networks, by the name package.module:function. Only the user's module imports torch here."""

import importlib
import importlib.util
import re
import sys
import time
import traceback
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest

NAME = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*")
STARTED = time.time()  # a module that others imported is up to date where its file is older
loaded: dict[str, str] = {}  # the modules imported here, and the fingerprints of their files at that time


def is_name(name: str) -> bool:
    """Whether `name` has the form package.module:function."""
    return bool(NAME.fullmatch(name))


def find(name: str) -> Path:
    """The source file of the module; BadInputError where there is none. The packages around it are imported."""
    module = name.partition(":")[0]
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except (Exception, SystemExit) as error:
        raise BadInputError(f"model.name = {name}: {module} cannot be searched for ({describe(error)})") from error
    path = Path(spec.origin) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BadInputError(f"model.name = {name}: there is no module {module} in the folders that Python searches")
    return path


def fingerprint(name: str) -> str:
    """A digest of the module's file alone, 32 hex digits. The modules that it imports do not count."""
    return blake2b(find(name).read_bytes(), digest_size=16).hexdigest()


def load(name: str, wanted: str = "") -> ModuleType:
    """The module as its file is now; or as imported before, if the file then had the fingerprint `wanted`.

    The module is imported anew only where its file has changed since this process imported it, so that the user's
    objects from it stay valid. BadInputError where the file has not the fingerprint `wanted`, or fails to import.
    """
    module = name.partition(":")[0]
    if wanted and module in sys.modules and loaded.get(module) == wanted:
        return sys.modules[module]
    path, found = find(name), fingerprint(name)
    if wanted and found != wanted:
        raise BadInputError(
            f"model.name = {name}: {path} is not the file that this run began with: it has changed since, or this "
            "machine has another"
        )
    try:
        if module in sys.modules:
            known = loaded.get(module)
            if found != known if known else path.stat().st_mtime > STARTED:
                importlib.reload(sys.modules[module])
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise BadInputError(f"model.name = {name}: {module} cannot be imported ({describe(error)})") from error
    loaded[module] = found
    return imported


def call(name: str, shape: tuple[int, int, int], classes: int, wanted: str = "") -> Any:
    """The value that the function returns; BadInputError where the call fails. `wanted` is as in `load`."""
    (module, _, function), found = name.partition(":"), load(name, wanted)
    build = getattr(found, function, None)
    if not callable(build):
        near = nearest(function, [key for key, value in vars(found).items() if callable(value)])
        raise BadInputError(f"model.name = {name}: {module} has no function {function}{near}")
    try:
        return build(shape, classes)
    except (Exception, SystemExit) as error:
        raise BadInputError(f"model.name = {name} failed for images {shape} ({describe(error)})") from error


def describe(error: BaseException) -> str:
    """An error's type and message, and the innermost line outside fedray that raised it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, in {Path(error.filename).name} line {error.lineno}"
    here = Path(__file__).parents[1]
    trace = [at for at in traceback.extract_tb(error.__traceback__) if not at.filename.startswith("<")]
    lines = [at for at in trace if not Path(at.filename).is_relative_to(here)]
    said = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    return f"{said}, in {Path(lines[-1].filename).name} line {lines[-1].lineno}" if lines else said
