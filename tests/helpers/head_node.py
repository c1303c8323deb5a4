"""The head of a cluster of several raylets on this machine, without the processes that no test asks."""

LEAN = {"include_dashboard": False, "no_monitor": True}
