"""How many clients engine = fused trains as one program: by a fixed rule, since their bits depend on it."""

PARAMS_AT_ONCE = 16 << 20  # bytes, on a CPU; beyond that clients push one another's params out of the cache
SHARDS_AT_ONCE = 64 << 20  # bytes, on a CPU
ON_GPU_AT_ONCE = 8 << 30  # bytes, as `bytes_of_client` counts them, unmeasured: no GPU was at hand
VECTORS = 8  # as long as the model: params, gradients twice, velocity, direction, update, memory, what is summed
WINDOWS = 20  # a 3 x 3 kernel's of an input, and those of its gradient


def bytes_of_client(model: int, images: int, kept: int, widest: int) -> int:
    """What a client takes of a GPU while it is trained beside others, in batches of so many images.

    `model` is the size of its params, `kept` and `widest` are bytes of an image as measure_activations gives them.
    """
    return VECTORS * model + images * (2 * kept + WINDOWS * widest)


def most_at_once(chunk_size: int | None, of_client: int, on_gpu: bool) -> int:
    """How many clients are trained at once, at most, that count so many bytes each: on a CPU those of its params."""
    return chunk_size or max(1, (ON_GPU_AT_ONCE if on_gpu else PARAMS_AT_ONCE) // max(1, of_client))
