"""Models: their settings and blueprints, which need no torch, the networks, and models as flat vectors."""
