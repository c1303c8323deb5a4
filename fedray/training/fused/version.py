"""The version of the fused engine's convolutions, for a driver, which does not import torch."""

FORMS_VERSION = 2
"""It rises whenever a convolution of `engine = fused` is computed in another form, whose results round otherwise.

It is a column of `runs` and in checkpoints, and in no run id. Version 1 is that of results without the column.
"""
