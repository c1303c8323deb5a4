"""fedray: a federated-learning simulator on Ray."""

__version__ = "0.3.0"
