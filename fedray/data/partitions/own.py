"""The user's own partitions: sections with a method `split`, by the address package.module:Class."""

from typing import Any

import numpy as np

from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.settings import nearest, undeclared
from fedray.data.partitions.scheme import Partition, Shards

SETTING = "partition.name"


def find(address: str) -> type[Partition]:
    """The class at an address; BadInputError where there is none, or it is no partition."""
    module_name, _, name = address.partition(":")
    module = own_code.load(address, SETTING)
    kind = getattr(module, name, None)
    here = [key for key, value in vars(module).items() if is_partition(value)]
    if kind is None:
        raise BadInputError(f"{SETTING} = {address}: {module_name} has no class {name}{nearest(name, here)}")
    if isinstance(kind, type) and (why := undeclared(kind)):
        raise BadInputError(f"{SETTING} = {address}: {why}")
    if not is_partition(kind):
        raise BadInputError(
            f"{SETTING} = {address} is no partition, which is a class with @section above it, a `name` and a method "
            f"`split(labels, clients, seed)`{nearest(name, here)}"
        )
    return kind


def is_partition(kind: Any) -> bool:
    is_section = isinstance(kind, type) and hasattr(kind, "__pydantic_fields__")
    return is_section and callable(getattr(kind, "split", None)) and isinstance(getattr(kind, "name", None), str)


def split(scheme: Partition, named: str, labels: np.ndarray, clients: int, seed: int) -> Shards:
    """The shards that a user's scheme makes, checked; BadInputError, which begins with its name, where it fails."""
    said = f"{SETTING} = {named}"
    try:
        shards = [np.asarray(rows) for rows in scheme.split(labels, clients, seed)]
    except BadInputError:
        raise
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{said} fails: {own_code.describe(error)}") from error
    if len(shards) != clients:
        raise BadInputError(f"{said} makes {len(shards)} shards for {clients} clients")
    for client, rows in enumerate(shards):
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise BadInputError(f"{said} gives client {client} no list of row numbers, but {rows.dtype}{[*rows.shape]}")
        if not rows.size:
            raise BadInputError(f"{said} gives client {client} no example")
        if rows.min() < 0 or rows.max() >= len(labels):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise BadInputError(f"{said} gives client {client} row {wrong} of {len(labels)} rows, counted from 0")
    return [rows.astype(np.int64, copy=False) for rows in shards]
