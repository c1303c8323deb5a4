"""fedray: a federated-learning simulator on Ray."""

__version__ = "0.2.0"
