"""FedAvg with a breakpoint at one client, by address, as a user who looks into a client has it."""

import pdb
from typing import ClassVar, Literal

from fedray import FedAvg, section, setting


@section
class Breaking(FedAvg):
    """FedAvg that stops at one client in one round."""

    name: ClassVar[str] = "breaking"
    how: Literal["builtin", "pdb"] = setting("builtin", "Whether by breakpoint() or by pdb.set_trace().")
    at: int = setting(2, "The client, and the round.")

    def local_round(self, client, message, memory, lr):
        if (client.number, client.t) == (self.at, self.at):
            if self.how == "builtin":
                breakpoint()
            else:
                pdb.set_trace()
        return super().local_round(client, message, memory, lr)


@section
class Everywhere(FedAvg):
    """FedAvg that stops at every client."""

    name: ClassVar[str] = "everywhere"

    def finish(self, start, end, steps, lr, message, memory):
        breakpoint()
        return super().finish(start, end, steps, lr, message, memory)
