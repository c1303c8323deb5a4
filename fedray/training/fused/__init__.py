"""The fused engine: a block of clients trained as one program."""
