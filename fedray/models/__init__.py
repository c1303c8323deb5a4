"""Models: described without torch, built with it, as flat vectors."""
