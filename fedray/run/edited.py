"""The earlier run of the same settings and data whose code, or whose file of weights, was edited since."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fedray.core.errors import BadInputError
from fedray.core.newer import with_neutral
from fedray.core.own_classes import address_of
from fedray.experiment.experiment import OWN_LOSS
from fedray.models.model import AND
from fedray.results.files import read_row
from fedray.run.own_metric import OWN_METRIC
from fedray.run.prepared import Job
from fedray.run.resume import identifying, identity


class Known(NamedTuple):
    """What a run was: its settings and data as one text, the sources of its code, and when it began."""

    identity: str
    sources: dict[str, str]
    began: str


def edited_since(job: Job) -> tuple[str, str] | None:
    """The user's code that was edited since an earlier run, by its addresses, and the last such run; None if none.

    It is looked for among the runs of the same algorithm and seed beside this one.
    """
    named = {name: address_of(kind) for name, kind in job.experiment.own_classes.items()}
    if not job.experiment.model.is_known:
        named["model.name"] = job.experiment.model.name
    if job.experiment.loss.is_own:
        named[OWN_LOSS] = job.experiment.loss.name
    if own := job.experiment.evaluation.own_metric:
        named[OWN_METRIC] = own
    if job.experiment.model.init:
        named["model.init"] = job.experiment.model.init
    if not named:
        return None
    mine, now = as_text(identity(job)), {**job.own_code, **sources_of_model(job.model_source)}
    found: list[tuple[str, str, dict[str, str]]] = []
    for path in job.folder.glob(f"runs/{job.run.rpartition('-')[0]}-*.parquet"):
        if path.stem != job.run and (known := known_run(path)) and known.identity == mine:
            found.append((known.began, path.stem, known.sources))
    if not found:
        return None
    _, run, then = max(found, key=lambda each: each[:2])
    edited = [address for name, address in named.items() if then.get(name, now[name]) != now[name]]
    return (" and ".join(dict.fromkeys(edited)), run) if edited else None


@lru_cache(maxsize=100_000)
def read_known(path: Path) -> Known:
    """What a run was by its row, of which this never changes."""
    (row,) = read_row(path).to_pylist()
    settings = identifying(json.loads(row["settings"] or "{}"))
    sources = json.loads(row["own_code"] or "{}")
    if row["algorithm_source_fingerprint"]:
        sources["algorithm"] = row["algorithm_source_fingerprint"]
    sources |= sources_of_model(row["model_source_fingerprint"] or "")
    return Known(as_text({"settings": settings, "data": row["data_fingerprint"]}), sources, str(row["started_at"]))


def sources_of_model(fingerprint: str) -> dict[str, str]:
    """The sources that a Model.fingerprint is of, by the settings that name them."""
    source, _, start = fingerprint.partition(AND)
    return {"model.name": source, "model.init": start}


def known_run(path: Path) -> Known | None:
    """What a run was; None where its row cannot be read."""
    try:
        return read_known(path)
    except (BadInputError, ValueError, TypeError, AttributeError):
        return None


def as_text(identity: Mapping[str, Any]) -> str:
    """An identity of a run as text that compares."""
    return json.dumps({**identity, "settings": with_neutral(identity["settings"])}, sort_keys=True)
