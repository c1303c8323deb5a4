"""Models: their settings and blueprints, which need no torch, the networks, and models as flat vectors."""

from fedray.core.mkl import steady_products

steady_products()  # before anything here multiplies with torch
