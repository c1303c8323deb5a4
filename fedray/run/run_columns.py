"""The columns that a run's tables have from its start: grouping, the row in `runs`, versions, partitions."""

import json
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from fedray.core.source import fedray_source
from fedray.core.version import __version__
from fedray.data.partitions import label_counts
from fedray.run.prepared import Job


def grouping_columns(job: Job) -> dict[str, Any]:
    """The settings that people group by. Every per-run table has these columns."""
    e, a, d = job.experiment, job.experiment.algorithm, job.dataset
    return {
        "algorithm": e.chosen_name("algorithm"),
        "dataset": d.name,
        "data_format": d.format,
        "model": e.model.name,
        "partition": e.chosen_name("partition"),
        "alpha": getattr(e.partition, "alpha", None),
        "clients": e.clients,
        "cohort": e.cohort,
        "epochs": None if a.steps else a.epochs,
        "local_steps": a.steps,
        "batch_size": a.batch_size,
        "lr": a.lr,
        "momentum": a.momentum,
        "server_lr": a.server_lr,
        "weighting": a.weighting,
        "seed": e.seed,
    }


def run_row(job: Job) -> dict[str, Any]:
    """The run's row of `runs`, as far as it is known before the population starts."""
    params, buffers = job.vectors
    return {
        "settings": job.settings_json,
        "rounds_planned": job.experiment.rounds,
        "judged_by": job.judged.removesuffix("_accuracy"),
        "num_params": params.size,
        "num_buffers": buffers.size,
        "partition_id": job.partition_id,
        "data_fingerprint": job.fingerprint,
        "model_source_fingerprint": job.model_source or None,
        "algorithm_source_fingerprint": job.algorithm_source or None,
        "own_code": json.dumps(job.own_code, sort_keys=True) if job.own_code else None,
        "fedray_source": fedray_source(),
        "cpu_capability": job.blueprint.torch.cpu_capability,
        **versions(job),
    }


def versions(job: Job) -> dict[str, str]:
    """The versions on which the bits of a result depend, besides the settings."""
    return {
        "fedray_version": __version__,
        "python_version": platform.python_version(),
        "torch_version": job.blueprint.torch.version,
        "ray_version": version("ray"),
        "numpy_version": np.__version__,
    }


def partition_columns(job: Job) -> dict[str, np.ndarray]:
    """The columns of `partitions`: a count for every client and label, client by client. A label is a stratum."""
    found = job.dataset.strata
    counts = label_counts(job.shards, found.train, len(found.names))
    clients, labels = np.indices(counts.shape).reshape(2, -1)
    names = np.array(found.names, dtype=object)
    return {"client": clients, "label": labels, "label_name": names[labels], "count": counts.ravel()}
