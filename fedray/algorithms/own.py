"""The user's own algorithms: classes below FedAvg, by the address package.module:Class or handed over as they are."""

import inspect
import json
from contextlib import suppress
from hashlib import blake2b
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from fedray.algorithms.fedavg import FedAvg
from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.settings import nearest, undeclared

SETTING = "algorithm.name"
_contents: "WeakKeyDictionary[type, str]" = WeakKeyDictionary()  # as it was when the class was first seen


def find(address: str) -> type[FedAvg]:
    """The class at an address; BadInputError where there is none, or it is no algorithm."""
    module_name, _, name = address.partition(":")
    module = own_code.load(address, SETTING)
    kind = getattr(module, name, None)
    here = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, FedAvg)]
    if kind is None:
        raise BadInputError(f"{SETTING} = {address}: {module_name} has no class {name}{nearest(name, here)}")
    if not (isinstance(kind, type) and issubclass(kind, FedAvg)):
        raise BadInputError(f"{SETTING} = {address} is no class below fedray's FedAvg{nearest(name, here)}")
    if why := undeclared(kind):
        raise BadInputError(f"{SETTING} = {address}: {why}")
    content(kind)  # seen now, as it was just imported
    return kind


def address_of(kind: type) -> str:
    """The address of a class, which is also its name in the tables."""
    return f"{kind.__module__}:{kind.__qualname__}"


def content(kind: type) -> str:
    """A digest of a class's content, 32 hex digits, as it was when fedray first saw the class.

    That of a module is its file. In `__main__`, or in a cell, it is the source text of the class. Classes that it
    inherits from count, too, but for fedray's.
    """
    digest = blake2b(digest_size=16)
    for each in _own_classes(kind):
        digest.update(blake2b(_seen(each).encode(), digest_size=16).digest())
    return digest.hexdigest()


def files_of(kind: type) -> tuple[tuple[str, str], ...]:
    """The addresses of a class and of those that it inherits from, those first, with their modules' fingerprints.

    They are for processes that import the modules. Classes of `__main__` and of cells travel as they are.
    """
    found = [(address_of(each), _seen(each)) for each in _own_classes(kind) if _in_file(each)]
    return tuple(dict.fromkeys(found))


def _own_classes(kind: type) -> list[type]:
    """A class and those that it inherits from, those first, without fedray's and Python's."""
    foreign = ("fedray", "builtins", "abc", "typing")
    return [each for each in reversed(kind.__mro__) if each.__module__.partition(".")[0] not in foreign]


def _seen(kind: type) -> str:
    """The fingerprint of a class's module, or of its text, when fedray first saw the class."""
    if kind not in _contents:
        if _in_file(kind):
            _contents[kind] = own_code.fingerprint(address_of(kind), SETTING)
            # What the user imported is taken to be as its file is now.
            own_code.loaded[kind.__module__] = _contents[kind]
        else:
            _contents[kind] = blake2b(_text(kind), digest_size=16).hexdigest()
    return _contents[kind]


def _in_file(kind: type) -> bool:
    """Whether a class is of a module with a file that another process can import."""
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        return False
    try:
        return bool(own_code.find(address_of(kind), SETTING))
    except BadInputError:
        return False


def _text(kind: type) -> bytes:
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):  # a cell, whose functions alone know where they stand, or a Python that keeps no text
        written = {name: value for name, value in vars(kind).items() if callable(value) or not name.startswith("__")}
        members = ((name, _said(value)) for name, value in sorted(written.items()))
        return repr([(name, said) for name, said in members if said is not None]).encode()


def _said(value: Any) -> Any:
    """What a member of a class says: a function's text, or else what it does; a plain value; None of anything else."""
    inner = [getattr(value, name, None) for name in ("__func__", "fget", "fset", "func")]
    if inside := [each for each in inner if each is not None]:
        return [_said(each) for each in inside]
    code = value if isinstance(value, CodeType) else getattr(value, "__code__", None)
    if code is None:
        with suppress(TypeError, ValueError):
            return json.dumps(value, sort_keys=True)
        return None
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        constants = [sorted(map(repr, each)) if isinstance(each, frozenset) else _said(each) for each in code.co_consts]
        defaults = [_said(getattr(value, name, None)) for name in ("__defaults__", "__kwdefaults__")]
        return [code.co_code, code.co_names, constants, defaults]
