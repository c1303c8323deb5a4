"""BatchNorm layers at the clients, a setting of every algorithm. FedBN: Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN:
Federated Learning on Non-IID Features via Local Batch Normalization", arXiv 2102.07623."""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal

from fedray.core.errors import BadInputError
from fedray.core.settings import section, setting


def averaged_norms() -> Any:
    """The setting `norms` without "local", for algorithms whose corrections need every parameter to be shared."""
    return setting("averaged", "Always averaged, since the corrections are for parameters that all clients share.")


@section
class OwnNorms:
    """Whether BatchNorm layers stay at the clients."""

    name: ClassVar[str] = ""

    norms: Literal["averaged", "local"] = setting(
        "averaged",
        "BatchNorm layers: averaged like all others, or local, which keeps them and their statistics at each client "
        "(FedBN's rule for any algorithm).",
    )

    def personal(self, names: Sequence[str], norms: Collection[str]) -> Collection[str]:
        """The names of the parameters and buffers that stay at the client, out of all `names` in the model's order.

        `norms` are the names that belong to BatchNorm layers. In these places the client's own values replace the
        message's at the start of a round. The update is 0 there, and the bytes sent do not count them.
        """
        if self.norms == "averaged":
            return ()
        if not norms:
            raise BadInputError(
                f"algorithm.norms = local: {self.name} keeps BatchNorm layers at the clients, but the model has none "
                "that trains"
            )
        return norms
