"""The user's own classes, which a run knows by their source: the file of a module, or else a class's own text.

A class is read when it is made, since its file may be edited while the process goes on with the old class.
"""

import ast
import json
import linecache
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from fedray.core import own_code
from fedray.core.errors import BadInputError

FOREIGN = frozenset({"fedray", *sys.stdlib_module_names})
"""The packages whose classes have no content of their own: fedray's and Python's."""


class Seen(NamedTuple):
    """The fingerprint of a class's source, and the code of its methods at that time."""

    codes: tuple[CodeType, ...]
    fingerprint: str


_seen: "WeakKeyDictionary[type, Seen]" = WeakKeyDictionary()


def is_own(kind: type) -> bool:
    """Whether a class is the user's, not fedray's nor Python's."""
    return kind.__module__.partition(".")[0] not in FOREIGN


def address_of(kind: type) -> str:
    """The address of a class, which is also its name in the tables."""
    return f"{kind.__module__}:{kind.__qualname__}"


def see(kind: type) -> None:
    """Read the source of a class that was just made. One without a source is refused when a run names it."""
    with suppress(BadInputError, OSError):
        for each in _own_classes(kind):
            _fingerprint(each, "")


def content(kind: type, setting: str) -> str:
    """A digest of a class's source and of that of its bases, 32 hex digits, as it was when the class was made.

    The source of a module is its file. In `__main__`, or in a cell, it is the text of the class. Classes of fedray and
    of Python do not count, nor does what else a class uses. BadInputError, which names `setting`, without a source.
    """
    digest = blake2b(digest_size=16)
    for each in _own_classes(kind):
        digest.update(blake2b(_fingerprint(each, setting).encode(), digest_size=16).digest())
    return digest.hexdigest()


def files_of(kind: type, setting: str) -> list[tuple[str, str, str]]:
    """The setting, the address and the module's fingerprint of a class and of those that it inherits from, those first.

    They are for processes that import the modules. Classes of `__main__` and of cells travel as they are.
    """
    return [
        (setting, address_of(each), _fingerprint(each, setting)) for each in _own_classes(kind) if _is_imported(each)
    ]


def _own_classes(kind: type) -> list[type]:
    """A class and those that it inherits from, those first, without fedray's and Python's."""
    return [each for each in reversed(kind.__mro__) if is_own(each)]


def _fingerprint(kind: type, setting: str) -> str:
    """The fingerprint of a class's source when the class was made, or when its methods were replaced in place."""
    codes = tuple(_codes(kind))
    known = _seen.get(kind)
    if known is None or known.codes != codes:  # IPython's autoreload replaces methods of the class that is there
        known = _seen[kind] = Seen(codes, _read(kind, setting))
    return known.fingerprint


def _read(kind: type, setting: str) -> str:
    if _has_file(kind):
        found = own_code.fingerprint(address_of(kind), setting)
        own_code.loaded[kind.__module__] = found
        if _is_imported(kind):
            return found
    else:
        text = _text(kind)
        if not text:
            raise BadInputError(
                f"{setting} = {address_of(kind)}: Python keeps no source text of this class, by which its run would be "
                "known; write it into a file or a notebook's cell"
            )
        found = text
    return blake2b(repr((found, _given(kind))).encode(), digest_size=16).hexdigest()


def _has_file(kind: type) -> bool:
    """Whether a class is of a module with a file."""
    if kind.__module__ in ("__main__", "__mp_main__"):
        return False
    try:
        return bool(own_code.find(address_of(kind), ""))
    except BadInputError:
        return False


def _is_imported(kind: type) -> bool:
    """Whether another process can import a class, from a module with a file."""
    return "<locals>" not in kind.__qualname__ and _has_file(kind)


def _codes(kind: type) -> Iterator[CodeType]:
    """The code of the methods that are written in a class."""
    for name, member in vars(kind).items():
        inner = [member, *(getattr(member, each, None) for each in ("__func__", "fget", "func"))]
        for code in [getattr(each, "__code__", None) for each in inner]:
            if isinstance(code, CodeType) and (name == "__post_init__" or not name.startswith("__")):
                yield code


def _text(kind: type) -> str:
    """The source text of a class, decorators included; empty where Python keeps none.

    Of several definitions with its name it is the one with the class's methods, or else all of them.
    """
    named = kind.__qualname__.split(".")
    for code in _codes(kind):
        linecache.checkcache(code.co_filename)
        for first, last, text in _definitions(linecache.getlines(code.co_filename), named):
            if first <= code.co_firstlineno <= last:
                return text
    for path in _places(kind):
        if found := [text for _, _, text in _definitions(linecache.getlines(path), named)]:
            return "".join(found)
    return ""


def _places(kind: type) -> list[str]:
    """The names of files in which a class without methods may be defined, as `linecache` has them."""
    cells = [path for path, entry in linecache.cache.items() if len(entry) == 4 and entry[1] is None]
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if path:
        linecache.checkcache(path)
    return [*([path] if path else []), *reversed(cells)]  # of cells the last one first


def _definitions(lines: list[str], named: list[str]) -> Iterator[tuple[int, int, str]]:
    """The first and the last line of each definition of a class, by the parts of its qualified name, and its text."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Python has shown them when it compiled the text
            tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in _inside(tree, named):
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        yield first, node.end_lineno or first, "".join(lines[first - 1 : node.end_lineno])


def _inside(node: ast.AST, named: list[str]) -> Iterator[ast.ClassDef]:
    """The class definitions with this qualified name, its parts in order, inside a node of the same scope."""
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _inside(inner, named)
        elif inner.name == named[0]:
            if len(named) == 1:
                yield from [inner] if isinstance(inner, ast.ClassDef) else ()
            else:
                yield from _inside(inner, named[1 + (named[1] == "<locals>") :])


def _given(kind: type) -> list[tuple[str, str]]:
    """What a function that makes a class gives it, where that is plain: class attributes and variables of methods."""
    if "<locals>" not in kind.__qualname__:
        return []
    found: list[tuple[str, Any]] = [(name, value) for name, value in vars(kind).items() if not name.startswith("__")]
    for member in vars(kind).values():
        names, cells = getattr(getattr(member, "__code__", None), "co_freevars", ()), getattr(member, "__closure__", ())
        for name, cell in zip(names, cells or (), strict=False):
            with suppress(ValueError):  # it has no value yet
                found.append((name, cell.cell_contents))
    return sorted({(name, said) for name, value in found if (said := _plain(value)) is not None})


def _plain(value: Any) -> str | None:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None
