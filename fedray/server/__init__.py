"""The server: rounds, who takes part, and the protocol of a population. No Ray in here."""
