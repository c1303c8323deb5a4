"""Networks of the user's own, by the name package.module:function; no torch is imported here but by their module."""

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
STARTED = time.time()  # a file that is older is what was imported, if anybody but us did that
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
    except (Exception, SystemExit) as error:
        raise BadInputError(f"model.name = {name}: {module} cannot be looked for ({describe(error)})") from error
    path = Path(spec.origin) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BadInputError(f"model.name = {name}: there is no module {module}, looked for where Python does")
    return path


def fingerprint(name: str) -> str:
    """A digest of the module's file, 32 hex digits; what else it imports is not part of it."""
    return blake2b(find(name).read_bytes(), digest_size=16).hexdigest()


def load(name: str, wanted: str = "") -> ModuleType:
    """The module as its file is, or as the file was whose fingerprint is `wanted`, if that was imported; BadInputError.

    It is imported anew where its file has changed since it was imported in this process, and only there: what the user
    has of it is not replaced for nothing.
    """
    module = name.partition(":")[0]
    if wanted and module in sys.modules and loaded.get(module) == wanted:
        return sys.modules[module]
    path, found = find(name), fingerprint(name)
    if wanted and found != wanted:
        raise BadInputError(
            f"model.name = {name}: {path} is not the file that this run is named by: it was changed meanwhile, or this "
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
    """What the function gives, `wanted` being as in `load`; BadInputError in one sentence where that fails."""
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
    """What was raised, and the innermost line that raised it, if that is not fedray's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, in {Path(error.filename).name} line {error.lineno}"
    here = Path(__file__).parents[1]
    trace = [at for at in traceback.extract_tb(error.__traceback__) if not at.filename.startswith("<")]
    lines = [at for at in trace if not Path(at.filename).is_relative_to(here)]
    said = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    return f"{said}, in {Path(lines[-1].filename).name} line {lines[-1].lineno}" if lines else said
