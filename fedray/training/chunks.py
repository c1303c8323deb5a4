"""How many clients engine = fused trains as one program. The rule is fixed, since the clients' bits depend on it."""

PARAMS_AT_ONCE = 16 << 20  # bytes, on a CPU; more clients push one another's params out of the cache
SHARDS_AT_ONCE = 64 << 20  # bytes, on a CPU
ON_GPU_AT_ONCE = 8 << 30  # bytes, as `bytes_of_client` counts them; unmeasured, since no GPU was at hand
VECTORS = 8  # as long as the model: params, gradients twice, velocity, direction, update, memory, the sum
WINDOWS = 20  # those of a 3 x 3 kernel over an input, and their gradient


def bytes_of_client(model: int, images: int, kept: int, widest: int) -> int:
    """The GPU memory that a client takes while it is trained beside others, in batches of `images`.

    `model` is the size of its params. `kept` and `widest` are bytes of an image, as measure_activations gives them.
    """
    return VECTORS * model + images * (2 * kept + WINDOWS * widest)


def most_at_once(chunk_size: int | None, of_client: int, on_gpu: bool) -> int:
    """The most clients that are trained at once, each of `of_client` bytes; on a CPU those are its params' bytes."""
    return chunk_size or max(1, (ON_GPU_AT_ONCE if on_gpu else PARAMS_AT_ONCE) // max(1, of_client))
