"""What clients remember, when that is a model each: SCAFFOLD on torchvision's resnet18 with 100 clients.

    python experiments/speed/memories.py [--SETTING VALUE ...]

Forty rounds of 10 clients, a local step each, after which nearly all of the 100 have a control variate of 45 MB. The
memory of the driver is looked at all the time: its own (RssAnon) and, with the pages of the object store that it has
mapped, its resident set; growth is from the fifth round on, checkpoints included. Then the same run is killed (-9)
after round 30, continued from its checkpoint of round 20, and must end in the same model.

2026-11-22, 2 cores, 24 GB, beside other work: the driver grew by 0 MiB of its own, by 2.1 GiB with the pages of the
object store that it has mapped, which are the store's; the checkpoint of round 20 is 3.87 GiB; continued, the driver
grew by 43 MiB, and the final model was the same to the bit.

First, forty rounds of cnn, each with a checkpoint, which writes the memories that changed. 2026-11-27, 2 cores: 74 MiB
(median), of 10 memories of 6.2 MiB and the server's state, and 620 MiB where all are written anew.
"""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from settings import experiment

from fedray.run import run
from fedray.run.watch import Watch

BASE: dict[str, Any] = {
    "rounds": 40,
    "clients": 100,
    "cohort": 10,
    "partition": {"name": "sampled", "examples": 20},
    "model": {"name": "resnet18"},
    "algorithm": {"name": "scaffold", "steps": 1, "batch_size": 4},
    "evaluation": {"every": 10**6},
    "data": {"test_examples": 100, "train_examples": 5000},
    "cluster": {"clients_per_actor": 50},
}


class Tell(Watch):
    """Prints each round when it is recorded, and the bytes of the checkpoint's files that are new since the last."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, int], int] = {}

    def round(self, job: Any, row: Any) -> None:
        there = {path: path.stat() for path in job.checkpoint.parent.glob("[!.]*.safetensors")}
        files = {
            (path.name, stat.st_mtime_ns): stat.st_size for path, stat in there.items() if "previous" not in path.name
        }
        written = sum(size for file, size in files.items() if file not in self.files)
        self.files = files
        print("round", row["round"], row["seconds"], written, flush=True)

    def notice(self, text: str) -> None:
        print(text, flush=True)


def one(words: list[str]) -> None:
    settings = experiment(BASE, words)
    print("model", run(settings, Tell()).runs["model_fingerprint"].iloc[0], flush=True)


def memory(pid: int) -> tuple[int, int]:
    """A process's own memory and its resident set, in bytes."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(rows["RssAnon"].split()[0]) * 1024, int(rows["VmRSS"].split()[0]) * 1024


def watched(words: list[str], kill_after: int | None = None) -> dict[str, Any]:
    """Run the driver as a program of its own; its last fingerprint, the growth of its memory, the size on disk."""
    program = subprocess.Popen(
        [sys.executable, __file__, "--one", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert program.stdout
    found: dict[str, Any] = {"notices": [], "seconds": [], "written": []}
    over = threading.Event()
    peaks: list[tuple[int, int]] = []

    def look() -> None:
        while not over.wait(0.02):
            try:
                peaks.append(memory(program.pid))
            except (OSError, KeyError):
                return

    for line in program.stdout:
        kind, *rest = line.split()
        if kind == "round":
            t = int(rest[0])
            found["seconds"].append(float(rest[1]))
            found["written"].append(int(rest[2]))
            if len(found["seconds"]) == 5:
                found["before"] = memory(program.pid)
                threading.Thread(target=look, daemon=True).start()
            if t == kill_after:
                program.send_signal(signal.SIGKILL)
                break
        elif kind == "model":
            found["model"] = rest[0]
        else:
            found["notices"].append(line.strip())
    program.wait()
    over.set()
    found["growth"] = [max(peak[i] for peak in peaks) - found["before"][i] for i in (0, 1)]
    return found


def show_written(words: list[str]) -> None:
    """What each of many checkpoints writes, of a smaller model."""
    with tempfile.TemporaryDirectory() as root:
        kept = ["--model.name", "cnn", "--output.checkpoint_every", "1", *words, "--output.root", root]
        written = sorted(size / 2**20 for size in watched(kept)["written"][5:] if size)
        middle, mean = written[len(written) // 2], sum(written) / len(written)
        print(f"cnn, a checkpoint after each round: it writes {middle:.0f} MiB (median; mean {mean:.0f}),")
        print(f"  and {written[-1]:.0f} MiB where all memories are written anew")


def main(words: list[str]) -> None:
    show_written(words)
    with tempfile.TemporaryDirectory() as root:
        kept = ["--output.checkpoint_every", "20", *words]
        whole = watched([*kept, "--output.root", f"{root}/whole"])
        own, resident = (f"{size / 2**20:.0f} MiB" for size in whole["growth"])
        seconds = sorted(whole["seconds"])[len(whole["seconds"]) // 2]
        print(
            f"resnet18, scaffold, 100 clients: {seconds:.2f} s a round (median); the driver grew by {own} of its own,"
        )
        print(f"  by {resident} with the pages of the object store that it has mapped (a control variate is 43 MiB)")
        watched([*kept, "--output.root", f"{root}/killed"], kill_after=30)
        time.sleep(5)
        files = Path(root).glob("killed/*/checkpoints/*.safetensors")
        print(f"  its last checkpoint takes {sum(file.stat().st_size for file in files) / 2**30:.2f} GiB")
        rest = watched([*kept, "--output.root", f"{root}/killed"])
        own, resident = (f"{size / 2**20:.0f} MiB" for size in rest["growth"])
        print(f"  killed after round 30: {'; '.join(rest['notices'])};")
        print(f"  {len(rest['seconds'])} rounds, the driver grew by {own}, {resident}; the final model is ", end="")
        print("the same to the bit" if rest["model"] == whole["model"] else "ANOTHER ONE")


if __name__ == "__main__":
    one(sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main(sys.argv[1:])
