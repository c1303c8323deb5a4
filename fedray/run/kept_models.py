"""The models that a run leaves, as safetensors: the final one and, on request, that of the best round.

The best model is written as soon as its round is recorded, before any checkpoint of that round or a later one. A round
that is not played again therefore has its model on disk, whatever ended the process. A round that is played again
writes the same bits again.
"""

from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from fedray.core.atomic import writing
from fedray.core.errors import BadInputError
from fedray.core.updates import Vectors
from fedray.run import checkpoint
from fedray.run.prepared import Job


def save_final(job: Job, state: Vectors, t: int) -> None:
    """Write the run's final model, if output.save_model asks for it."""
    if job.experiment.output.save_model:
        _save(job, job.model, state, t)


def save_best(job: Job, state: Vectors, t: int) -> None:
    """Write the model of round t, the best so far, if output.save_best asks for it.

    Otherwise remove the one that an earlier part of the run wrote under another `output.save_best`.
    """
    if job.experiment.output.save_best:
        _save(job, job.best_model, state, t)
    else:
        with writing(job.folder):
            job.best_model.unlink(missing_ok=True)


def take_best(job: Job, shorter: str, t: int | None) -> None:
    """Make the best model of a shorter run, that of round t, this run's own, if output.save_best asks for it.

    Where the shorter run did not keep it, or its file is damaged, there is none until a better round.
    """
    theirs = job.best_model.with_name(f"{shorter}.best.safetensors")
    if not job.experiment.output.save_best or not theirs.exists():
        return
    with suppress(BadInputError):
        tensors, meta = checkpoint.load_model(theirs)
        if meta.get("round") == str(t):
            with writing(job.folder):
                checkpoint.save_model(job.best_model, tensors, _meta(job, str(t)))


def _meta(job: Job, t: str) -> dict[str, str]:
    return {"run": job.run, "round": t, "settings": job.settings_json}


def _save(job: Job, path: Path, state: Vectors, t: int) -> None:
    """Write the state's model under torch's names of its tensors."""
    tensors = job.blueprint.state_dict(**job.experiment.algorithm.global_model(state))
    with writing(job.folder):
        checkpoint.save_model(path, tensors, _meta(job, str(t)))


def fingerprint(job: Job, state: Vectors) -> str:
    """A digest of the bits of the state's model."""
    digest, model = blake2b(digest_size=16), job.experiment.algorithm.global_model(state)
    for name in ("params", "buffers"):
        digest.update(np.ascontiguousarray(model[name]).data)
    return digest.hexdigest()
