"""The user's own algorithms: classes below FedAvg, by the address package.module:Class."""

from fedray.algorithms.fedavg import FedAvg
from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.settings import nearest, undeclared

SETTING = "algorithm.name"


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
    return kind
