"""The models that a run leaves, as safetensors: the final one, and, where that is wanted, the one of its best round.

The best one is written as soon as its round is recorded, before a checkpoint of that round or a later one. So whatever
ends the process, a round that the run does not play again has its model on disk, and one that it plays again is
written again, to the same bits.
"""

from hashlib import blake2b
from pathlib import Path

import numpy as np

from fedray.core.atomic import writing
from fedray.core.updates import Vectors
from fedray.run import checkpoint
from fedray.run.prepared import Job


def save_final(job: Job, state: Vectors, t: int) -> None:
    """Keep the run's final model, where that is wanted."""
    if job.experiment.output.save_model:
        _save(job, job.model, state, t)


def save_best(job: Job, state: Vectors, t: int) -> None:
    """Keep the model of round t, the best so far. Where that is not wanted, one of an earlier round goes.

    That can only be where the run was begun with another `output.save_best`.
    """
    if job.experiment.output.save_best:
        _save(job, job.best_model, state, t)
    else:
        with writing(job.folder):
            job.best_model.unlink(missing_ok=True)


def _save(job: Job, path: Path, state: Vectors, t: int) -> None:
    """Write the state's model, under the names that torch knows its tensors by."""
    tensors = job.blueprint.state_dict(state["params"], state["buffers"])
    with writing(job.folder):
        checkpoint.save_model(path, tensors, {"run": job.run, "round": str(t), "settings": job.settings_json})


def fingerprint(state: Vectors) -> str:
    """A digest of the model's bits."""
    digest = blake2b(digest_size=16)
    for name in ("params", "buffers"):
        digest.update(np.ascontiguousarray(state[name]).data)
    return digest.hexdigest()
