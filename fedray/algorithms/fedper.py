"""FedPer: Arivazhagan, Aggarwal, Singh, Choudhary 2019, "Federated Learning with Personalization Layers", arXiv
1912.00818. It is FedAvg of the base layers. The personalisation layers, the last ones, stay at the clients. Both are
trained together, as in the paper.
"""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import ClassVar

from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import BadInputError
from fedray.core.settings import section, setting


@section
class FedPer(FedAvg):
    """FedAvg with personal layers (Arivazhagan et al. 2019)."""

    name: ClassVar[str] = "fedper"

    personal_layers: str = setting(
        "last",
        "The parameters and buffers that stay at the clients, by name: patterns separated by commas, for example "
        "'fc.*,layer4.*'; last is the model's last layer.",
    )

    def personal(self, names: Sequence[str], norms: Collection[str]) -> Collection[str]:
        patterns = [pattern.strip() for pattern in self.personal_layers.split(",")]
        patterns = [names_of_last_layer(names) if pattern == "last" else pattern for pattern in patterns]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise BadInputError(
                    f"algorithm.personal_layers: nothing in the model is called {pattern!r}; it has {', '.join(names)}"
                )
        kept = super().personal(names, norms)
        return [name for name in names if name in kept or any(fnmatchcase(name, pattern) for pattern in patterns)]


def names_of_last_layer(names: Sequence[str]) -> str:
    """The pattern of the last layer's names, in the model's order; a last parameter outside any layer stands alone."""
    layer = names[-1].rpartition(".")[0]
    return f"{layer}.*" if layer else names[-1]
