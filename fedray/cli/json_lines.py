"""--json: each event of a run as a JSON object on a line of its own, for scripts.

    {"event": "start", "run": ..., "folder": ..., "where": ..., "data": {...}, "model": {...}, "settings": {...}}
    {"event": "round", "run": ..., ...}         the row of the table `rounds`
    {"event": "notice", "run": ..., "text": ...}
    {"event": "end", "run": ..., "status": ..., ...}      the row of the table `runs`, without its settings

A value that is missing or not finite is null, since JSON has no NaN. A time is text, in UTC. A run that had ended
before has only its end, with "repeated": true; in a sweep so does one that had failed before.
"""

import json
import math
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fedray import results
from fedray.core.errors import BadInputError
from fedray.results.schema import OWN, TIME
from fedray.run.prepared import Job
from fedray.run.watch import Watch


class JsonWatch(Watch):
    """Writes the lines to the stdout that is there when it is made, and flushes each at once."""

    def __init__(self) -> None:
        self.stream = sys.stdout
        self.lock, self.here = threading.Lock(), threading.local()
        self.playing: dict[str, Job] = {}

    def write(self, event: str, run: str | None, content: Mapping[str, Any]) -> None:
        line = json.dumps({"event": event, "run": run, **writable(content)}, allow_nan=False)
        with self.lock:
            self.stream.write(line + "\n")
            self.stream.flush()

    def prepare(self, job: Job) -> None:
        self.here.run = job.run  # by thread: a sweep plays each run in one

    def begin(self, job: Job, where: str) -> None:
        d, (params, buffers) = job.dataset, job.vectors
        self.playing[job.run] = job
        data = {"dataset": d.name, "format": d.format, "train_examples": len(d.train_labels)}
        data |= {"validation_examples": len(d.validation_labels), "test_examples": len(d.test_labels)}
        model = {"name": job.experiment.model.name, "num_params": params.size, "num_buffers": buffers.size}
        start = {"folder": str(job.folder), "where": where, "data": data, "model": model}
        self.write("start", job.run, {**start, "settings": job.experiment.settings()})

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        self.write("round", job.run, {name: value_of("rounds", name, value) for name, value in row.items()})

    def notice(self, text: str) -> None:
        self.write("notice", getattr(self.here, "run", None), {"text": text})

    def detail(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def end(self, job: Job, status: str, repeated: bool) -> None:
        self.playing.pop(job.run, None)
        output = job.experiment.output
        (row,) = results.load(output.name, output.root, job.run, tables=()).runs.astype(object).to_dict("records")
        known = {name: value_of("runs", name, row[name]) for name in OWN["runs"] if name != "settings"}
        paths = {"folder": str(job.folder), "model_file": str(job.model) if job.model.exists() else None}
        self.write("end", job.run, {"repeated": repeated, **known, **paths})
        self.here.run = None

    def fail(self, job: Job, why: str, how: str = "failed") -> None:
        """A run of a sweep failed, or another process plays it; `how` is written as its status."""
        self.playing.pop(job.run, None)
        self.write("end", job.run, {"repeated": False, "status": how, "error": why, "folder": str(job.folder)})

    def close(self) -> None:
        """Write the end of each run that an error or an interrupt ended; its row has the status."""
        for job in list(self.playing.values()):
            with suppress(BadInputError):  # its tables cannot be read; that was reported already
                self.end(job, str(job.status), repeated=False)


def value_of(table: str, name: str, value: Any) -> Any:
    """A value of this column as JSON has it. A time comes as milliseconds since 1970 or as pandas's Timestamp."""
    if OWN[table][name] != TIME or value is None or value != value:
        return value
    moment = datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int) else value.to_pydatetime()
    return str(moment.isoformat(timespec="milliseconds"))


def writable(value: Any) -> Any:
    """A value as JSON has it: NaN and infinite numbers become None, NumPy's and pandas's values become Python's."""
    if isinstance(value, Mapping):
        return {name: writable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [writable(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    if value != value or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
