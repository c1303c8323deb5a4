"""Networks of the user's own, by the name package.module:function; no torch is imported here but by their module."""

import importlib
import importlib.util
import re
import sys
import traceback
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fedray.errors import BadInputError
from fedray.settings import nearest

NAME = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*")
loaded: dict[str, str] = {}  # the modules that were imported here, and the fingerprint of what was


def is_name(name: str) -> bool:
    """Whether this is written as package.module:function."""
    return bool(NAME.fullmatch(name))


def find(name: str) -> Path:
    """The source file of the module, which is not imported, though the packages that it is in are; BadInputError."""
    module = name.partition(":")[0]
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except Exception as error:
        raise BadInputError(f"model.name = {name}: {module} cannot be looked for ({describe(error)})") from error
    path = Path(spec.origin) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BadInputError(f"model.name = {name}: there is no module {module}, looked for where Python does")
    return path


def fingerprint(name: str) -> str:
    """A digest of the module's file, 32 hex digits; what else it imports is not part of it."""
    return blake2b(find(name).read_bytes(), digest_size=16).hexdigest()


def call(name: str, shape: tuple[int, int, int], classes: int) -> Any:
    """What the function gives; BadInputError in one sentence where that fails.

    A module whose file has changed since it was imported in this process is imported anew.
    """
    module, _, function = name.partition(":")
    print_now = fingerprint(name)
    try:
        if module in sys.modules and loaded.get(module) != print_now:
            importlib.reload(sys.modules[module])
        found = importlib.import_module(module)
    except Exception as error:
        raise BadInputError(f"model.name = {name}: {module} cannot be imported ({describe(error)})") from error
    loaded[module] = print_now
    build = getattr(found, function, None)
    if not callable(build):
        raise BadInputError(f"model.name = {name}: {module} has no function {function}{nearest(function, vars(found))}")
    try:
        return build(shape, classes)
    except Exception as error:
        raise BadInputError(f"model.name = {name} failed for images {shape} ({describe(error)})") from error


def describe(error: Exception) -> str:
    """What was raised, and the innermost line that raised it."""
    lines = [at for at in traceback.extract_tb(error.__traceback__) if not at.filename.startswith("<")]
    return f"{type(error).__name__}: {error}, in {Path(lines[-1].filename).name} line {lines[-1].lineno}"
