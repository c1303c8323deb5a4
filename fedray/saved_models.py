"""The models that a run leaves, as safetensors."""

from hashlib import blake2b
from pathlib import Path

import numpy as np

from fedray import checkpoint
from fedray.atomic import writing
from fedray.job import Job
from fedray.updates import Vectors


def save_model(job: Job, path: Path, state: Vectors) -> None:
    """Write the state's model, under the names that torch knows its tensors by."""
    tensors = job.blueprint.state_dict(state["params"], state["buffers"])
    with writing(job.folder):
        checkpoint.save_model(path, tensors, {"run": job.run, "settings": job.settings_json})


def fingerprint(state: Vectors) -> str:
    """A digest of the model's bits."""
    digest = blake2b(digest_size=16)
    for name in ("params", "buffers"):
        digest.update(np.ascontiguousarray(state[name]).data)
    return digest.hexdigest()
