"""The server: the rounds, participation, and the protocol of a population. It does not import Ray."""
