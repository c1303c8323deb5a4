"""The golden files, made once by fedray 0.3.0 and kept for good; tests/test_golden.py holds later versions to them.

    unshare --uts sh -c 'hostname golden && python tests/golden/make.py'

Results have the name of the machine, hence the first two words, which need root. With any other version, and where the
files are there, it refuses: what 0.3.0 wrote cannot be made again, since seconds, process ids and the bits of a model
are those of one machine and one moment.
"""

import importlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fedray.job import Job
from golden_summary import summary
from PIL import Image

import fedray
from fedray import results
from fedray.algorithms import ALGORITHMS
from fedray.data.partitions import PARTITIONS
from fedray.experiment import read_experiment

HERE = Path(__file__).parent
VERSION = "0.3.0"
OWN_DATA, OWN_MODEL = "golden_data:corners", "golden_model:build"
PARQUET = {"data.dataset": "parquet", "data.user_column": "writer"}
TESTED = {"data.validation_examples": 50, "evaluation.every": 5}

OTHERS = {
    "nothing but the data": {},
    "a seed of 64 bits": {"seed": 2**63 - 1},
    "a large cohort": {"clients": 1000, "cohort": 100, "rounds": 500},
    "sampling by size": {"sampling": "size", "algorithm.weighting": "uniform"},
    "blocks": {"blocks": 3},
    "fused mlp": {"model.name": "mlp", "cohort": 8},
    "fused logistic in chunks": {"model.name": "logistic", "engine": "fused", "chunk_size": 4, "cohort": 10},
    "fused cnn": {"model.name": "cnn", "engine": "fused"},
    "plain logistic": {"model.name": "logistic", "engine": "plain"},
    "faults": {"faults.dropout": 0.2, "faults.over_selection": 2, "faults.lost": "drop", "faults.min_survivors": 2},
    "rejected updates": {"faults.non_finite": "reject", "faults.min_survivors": 3},
    "skew": {"skew.noise": 0.05, "skew.rotation": 30.0, "skew.colour": 0.25},
    "evaluation": {**TESTED, "evaluation.target_accuracy": 0.9, "evaluation.patience": 7, "evaluation.top_k": 3},
    "evaluation of clients": {"evaluation.clients_every": 2, "evaluation.client_examples": 40},
    "few examples": {"data.train_examples": 1000, "data.test_examples": 500},
    "cutout": {"data.augment": "crop-flip-cutout", "data.cutout": 8},
    "a small floating-point number": {"algorithm.lr": 1e-05, "algorithm.weight_decay": 1e-05, "algorithm.server_tau": 1e-09},
    "a large floating-point number": {"algorithm.lr": 123456.789, "algorithm.clip_norm": 1e6},
    "a whole number where a float stands": {"algorithm.lr": 1, "algorithm.server_lr": 2},
    "a third": {"algorithm.lr": 1 / 3},
    "cosine schedule": {"algorithm.lr_schedule": "cosine", "algorithm.momentum": 0.9},
    "step schedule": {"algorithm.lr_schedule": "step", "algorithm.lr_decay": 0.5, "algorithm.lr_decay_every": 3},
    "exponential schedule": {"algorithm.lr_schedule": "exponential", "algorithm.lr_decay": 0.995},
    "drawn steps": {"algorithm.steps": 20, "algorithm.steps_min": 5, "algorithm.drop_last": True},
    "drawn epochs": {"algorithm.epochs": 5, "algorithm.epochs_min": 2, "algorithm.label_smoothing": 0.1},
    "an optimizer with a tuple": {"algorithm.optimizer": "Adam", "algorithm.optimizer_options": "betas=(0.9, 0.95), eps=1e-05"},
    "server optimizer": {"algorithm.server_optimizer": "adam", "algorithm.server_beta2": 0.999, "algorithm.server_lr": 0.03},
    "nesterov": {"algorithm.server_momentum": 0.9, "algorithm.server_nesterov": True},
    "sum of updates": {"algorithm.weighting": "sum", "algorithm.server_lr": 0.2},
    "a resnet with GroupNorm": {"model.name": "resnet20", "model.norm": "group", "model.groups": 4},
    "a torchvision resnet": {"model.name": "resnet18", "model.stem": "cifar", "algorithm.norms": "local"},
    "auxiliary classifiers": {"model.name": "googlenet", "model.aux_weight": 0.3, "model.resize": 64},
    "bfloat16": {"model.name": "cnn", "model.precision": "bfloat16", "model.channels_last": False},
    "a projection head": {"model.projection": 256, "algorithm.name": "moon", "algorithm.mu": 5.0, "algorithm.tau": 0.1},
    "scaffold's option I": {"algorithm.name": "scaffold", "algorithm.option": "I", "seed": 7},
    "personal layers": {"algorithm.name": "fedper", "algorithm.personal_layers": "fc.*,conv1.bias"},
    "ditto's own epochs": {"algorithm.name": "ditto", "algorithm.lam": 0.5, "algorithm.personal_epochs": 2},
    "fine-tuning, on several clients": {"algorithm.name": "finetune", "algorithm.fine_tune_epochs": 3, "evaluation.clients_every": 4},
    "balanced dirichlet": {"partition.name": "dirichlet", "partition.alpha": 0.05, "partition.balanced": True},
    "dirichlet of a least size": {"partition.name": "dirichlet", "partition.alpha": 100, "partition.min_size": 20},
    "power law": {"partition.name": "quantity_skew", "partition.distribution": "power_law", "partition.exponent": 1.5},
    "three classes each": {"partition.name": "classes_per_client", "partition.classes": 3},
    "sampled shards": {"partition.name": "sampled", "partition.examples": 20, "clients": 5000, "cohort": 50},
    "images in Parquet": {**PARQUET, "partition.name": "natural", "partition.min_size": 2, "clients": 6, "model.name": "mlp"},
    "resized images in Parquet": {"data.dataset": "parquet", "data.image_size": 16, "data.label_column": "label"},
    "an own model": {"model.name": OWN_MODEL},
    "own data": {"data.dataset": OWN_DATA, "model.name": "logistic"},
    "own data and an own model, frozen": {"data.dataset": OWN_DATA, "model.name": OWN_MODEL, "model.freeze": "backbone"},
    "own data of users": {"data.dataset": OWN_DATA, "partition.name": "natural", "clients": 8, "algorithm.name": "fedbn"},
}  # fmt: skip

KEPT = ("round", "round_lr", "cohort_size", "answered", "num_examples", "images", "bytes_down", "bytes_up")
KEPT_FLOATS = ("train_loss", "update_norm")


def main() -> None:
    if fedray.__version__ != VERSION:
        sys.exit(f"the golden files are those of fedray {VERSION}, and this is {fedray.__version__}")
    if socket.gethostname() != "golden":
        sys.exit("results have the machine's name; run it as the head of this file says")
    if (HERE / "run_ids.json").exists():
        sys.exit(f"{HERE}/run_ids.json is there, and golden files are not made twice")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(Path(fedray.__file__).parents[1])])
    sys.path.insert(0, str(HERE))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores, and its children
    write_parquet(HERE / "parquet")
    write_ids(HERE / "run_ids.json")
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder))
        shutil.copytree(Path(folder, "results"), HERE / f"results-{VERSION}")
    write_tables(HERE / "tables.json")


def write_parquet(folder: Path) -> None:
    """Sixty and twenty grey images of 8 x 8 pixels, with a label and a writer."""
    data = importlib.import_module("golden_data")
    folder.mkdir()
    for split, count, first in (("train", 60, 2000), ("test", 20, 3000)):
        images, labels = data.draw(count, first)
        writers = [f"writer {i * 5 % 9}" for i in range(count)]
        columns = {"image": [{"bytes": png(image[0])} for image in images], "label": labels.tolist(), "writer": writers}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def png(pixels: "object") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")  # type: ignore[arg-type]
    return stream.getvalue()


def write_ids(path: Path) -> None:
    """Every algorithm, every partition, and OTHERS: a line each."""
    names = {f"algorithm {name}": {"algorithm.name": name} for name in ALGORITHMS}
    names |= {f"partition {name}": {"partition.name": name} for name in PARTITIONS if name != "natural"}
    entries = [entry(name, given) for name, given in {**names, **OTHERS}.items()]
    entries.append(
        entry("an own class", {"algorithm.lr": 0.02, "algorithm.factor": 0.25}, "golden_algorithm:Shrinking")
    )
    assert {each["settings"].get("partition.name", "iid") for each in entries} == set(PARTITIONS)
    first = read_experiment(empty_file(), {"data.dataset": "synthetic"}).resolved().settings()
    lines = ",\n".join("  " + json.dumps(each) for each in entries)
    hashed = json.dumps({name: value for name, value in first.items() if name not in ("cluster", "output")})
    path.write_text(f'{{"version": "{VERSION}",\n"settings_of_the_first": {hashed},\n"ids": [\n{lines}\n]}}\n')


def entry(name: str, given: dict, own_class: str = "") -> dict:
    """What was given, what else the id rests on, and the id. The id of an own class has nothing of the class's content."""
    settings = {"data.dataset": "synthetic", **given}
    own = {key: settings.pop(key) for key in [*settings] if own_class and key.startswith("algorithm.")}
    there = {"data.root": str(HERE / "parquet")} if settings["data.dataset"] == "parquet" else {}
    experiment = read_experiment(empty_file(), settings | there)
    if own_class:
        module, _, kind = own_class.partition(":")
        of_section = {key.removeprefix("algorithm."): value for key, value in own.items()}
        algorithm = getattr(importlib.import_module(module), kind)(**of_section)
        experiment = fedray.experiment.dataclasses.replace(experiment, algorithm=algorithm)
    job = Job(experiment, writes=False)
    rests_on = {"data": job.fingerprint, "model_source": job.model_source}
    said = {"own_class": own_class, "content_of_the_class_is_in_the_id": False} if own_class else {}
    return {"id": job.run, "name": name, "settings": {**settings, **own}, **rests_on, **said}


def empty_file() -> Path:
    path = Path(tempfile.gettempdir(), "golden.toml")
    path.write_text("")
    return path


def write_results(folder: Path) -> None:
    """A sweep, a run with events, and three that were stopped, as their settings files say."""
    for path in HERE.glob("*.toml"):
        shutil.copy(path, folder)
    subprocess.run([sys.executable, "-m", "fedray.sweep", "study.toml"], cwd=folder, check=True)
    slow = ["--algorithm.name=fedprox", "--algorithm.steps=600", "--partition.name=contiguous"]
    play(folder, ["study.toml", *slow, "--cluster.backend=in-process"], {4: kill})
    play(folder, ["single.toml"], {2: kill_an_actor, 4: interrupt})
    play(folder, ["single.toml"], {})
    play(folder, ["stopped.toml"], {5: kill})
    play(folder, ["stopped.toml", "--algorithm.name=fedavgm"], {3: interrupt})
    stopped = results.load("stopped", folder / "results")
    of_rounds = stopped.rounds[["run", *KEPT, *KEPT_FLOATS]].to_dict("records")
    (HERE / "rounds.json").write_text("[\n" + ",\n".join(map(json.dumps, of_rounds)) + "\n]\n")


def write_tables(path: Path) -> None:
    """Of each column that `load` gives: the nulls, the different values and the sum of numbers."""
    tables = {}
    for name in ("single", "stopped", "study"):
        frames = vars(results.load(name, HERE / f"results-{VERSION}"))
        tables[name] = {
            table: {"rows": len(frame), "columns": {column: summary(frame[column]) for column in frame}}
            for table, frame in frames.items()
        }
    lines = [
        f'"{name}": {{\n' + ",\n".join(f'  "{table}": {json.dumps(each)}' for table, each in of_name.items()) + "\n}"
        for name, of_name in tables.items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def play(folder: Path, words: list[str], then: dict[int, Callable]) -> None:
    """Run the command, and do after each of these rounds what is to be done."""
    command = [sys.executable, "-m", "fedray", *words, "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            said = json.loads(line)
            print({key: said.get(key) for key in ("event", "run", "round", "text", "status")}, flush=True)
            if said["event"] == "round" and said["round"] in then:
                then[said["round"]](process, folder)


def kill(process: subprocess.Popen, folder: Path) -> None:
    process.kill()


def interrupt(process: subprocess.Popen, folder: Path) -> None:
    process.send_signal(signal.SIGINT)


def kill_an_actor(process: subprocess.Popen, folder: Path) -> None:
    os.kill(int(results.load("single", folder / "results").population["pid"][0]), signal.SIGKILL)


if __name__ == "__main__":
    main()
