"""A run on the terminal: the data set, the actors and their shares; live progress; then a summary and the path."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fedray import results
from fedray.cli.cell import Cell, bar
from fedray.core.metrics import sign
from fedray.core.notebook import in_kernel
from fedray.core.updates import HAPPENED
from fedray.experiment.experiment import Experiment
from fedray.results.frames import Results
from fedray.run.prepared import Job
from fedray.run.stopping import recorded_judge
from fedray.run.watch import Watch


class NoticeWatch(Watch):
    """Prints notices and nothing else."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)

    def say(self, label: str, text: str) -> None:
        self.console.print(f"{label:<10}{text}", markup=False)

    def notice(self, text: str) -> None:
        self.say("note", text)


class ConsoleWatch(NoticeWatch):
    """Prints a run: a live bar on a terminal, one display in a notebook's cell, plain lines elsewhere."""

    def __init__(self, console: Console | None = None):
        self.cell = Cell() if console is None and in_kernel() else None
        if self.cell:
            out = cast(IO[str], self.cell)
            plain: Any = {"force_jupyter": False, "force_terminal": False, "no_color": True}
            console = Console(
                file=out, highlight=False, soft_wrap=True, **plain
            )  # a kernel asks for a terminal's colours
        super().__init__(console)
        self.progress: Progress | None = None
        self.task: Any = None
        self.began = 0.0
        self.first = 0

    def prepare(self, job: Job) -> None:
        self.say_setting(job)
        self.say("run", f"{job.run} in {job.folder}/")
        if job.experiment.cluster.backend == "ray":
            self.say("actors", "starting")

    def detail(self, text: str) -> None:
        self.say("debug", text)

    def say_setting(self, job: Job) -> None:
        """Print the data set and its partition among the clients."""
        e = job.experiment
        sizes = sorted(len(shard) for shard in job.shards)
        spread = f"{sizes[0]:,}" if sizes[0] == sizes[-1] else f"{sizes[0]:,} to {sizes[-1]:,}"
        self.say("data", describe_data(job))
        unused = f"; {job.unused:,} {job.dataset.unit} are in no shard" if job.unused else ""
        drawn = ", drawn by size" if e.sampling == "size" else ""
        shards = f"{e.clients}, {e.partition.name} shards of {spread} {job.dataset.unit}{unused}"
        self.say("clients", f"{shards}; {e.cohort} take part in a round{drawn}{describe_splits(job)}")

    def begin(self, job: Job, where: str) -> None:
        self.say_model(job)
        self.say("actors", where)
        self.start_bar(job)

    def say_model(self, job: Job) -> None:
        self.say("model", describe_network(job))

    def start_bar(self, job: Job) -> None:
        self.began, self.first = time.perf_counter(), 0
        if self.console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.progress.start()
            self.task = self.progress.add_task("starting", total=job.experiment.rounds)

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        t, rounds = row["round"], job.experiment.rounds
        self.first = self.first or t
        pace = (time.perf_counter() - self.began) / (t - self.first + 1)
        line = f"round {t:>{len(str(rounds))}}/{rounds}"
        if row["test_loss"] is not None:
            line += f"{accuracy_and_judge(job, row)}  loss {row['test_loss']:.4f}"
        if row["answered"] < row["cohort_size"]:
            line += f"  {row['answered']} of {row['cohort_size']} clients"
        if row["client_accuracy"] is not None:
            line += f"  clients {row['client_accuracy']:.4f}"
        elif row["client_loss"] is not None:
            line += f"  clients' loss {row['client_loss']:.4f}"
        if row["unseen_accuracy"] is not None:
            line += f"  unseen {row['unseen_accuracy']:.4f}"
        left = f"  ETA {clock(pace * (rounds - t))}"
        if self.progress:
            self.progress.update(self.task, completed=t, description=line + left)
        elif self.cell:
            self.cell.show(f"{bar(t, rounds)} {line}{left}")
        else:
            if row["train_loss"] is not None:
                line += f"  train loss {row['train_loss']:.4f}"
            line += f"  {row['seconds']:.2f} s"
            self.console.print(line + left, markup=False)

    def close(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None
        if self.cell:
            self.cell.show("")

    def end(self, job: Job, status: str, repeated: bool) -> None:
        self.close()
        if repeated:
            self.say("run", f"{job.run} was {status} before and is not repeated")
        output = job.experiment.output
        tables = results.load(output.name, output.root, job.run)
        row = tables.runs.iloc[0]
        self.console.print()
        self.say("status", f"{row['status']} after {row['rounds_done']} rounds in {row['seconds']:.1f} s")
        self.say("data", describe_format(row["dataset"], row["data_format"]))
        for label, sentence in describe_model(job.experiment, tables):
            self.say(label, sentence)
        evaluated = tables.rounds.dropna(subset="client_loss")
        if len(evaluated):
            self.say("clients", describe_clients(evaluated.iloc[-1].to_dict(), job.dataset.unit))
        self.say("time", describe_time(tables.rounds.sum(numeric_only=True).to_dict()))
        for label, sentence in describe_absences(tables.rounds.sum(numeric_only=True).to_dict(), tables.events["kind"]):
            self.say(label, sentence)
        self.say("results", f'{job.folder}/, for example pandas.read_parquet("{job.folder}/rounds")')
        if job.model.exists():
            self.say("model", str(job.model))
        if job.best_model.exists():
            self.say("model", f"{job.best_model}, the best round's")


def describe_data(job: Job) -> str:
    """The data set, its format and its numbers of examples; for synthetic data also how to get CIFAR-10."""
    d = job.dataset
    held_out = f", {len(d.validation_labels):,} validation" if len(d.validation_labels) else ""
    counts = f"{len(d.train_labels):,} training{held_out} and {len(d.test_labels):,} test {d.unit}"
    hint = "; `make data` downloads CIFAR-10" if d.name == "synthetic" else ""
    return f"{describe_format(d.name, d.format)}, {counts}{f' ({d.note})' if d.note else ''}{hint}"


def describe_splits(job: Job) -> str:
    """The examples and the clients that are kept out of training, as the end of a sentence."""
    e = job.experiment
    held = sum(map(len, job.own_split[1])) if e.evaluation.client_holdout else 0
    said = f"; {held:,} {job.dataset.unit} are held out at their clients" if held else ""
    return said + (f"; {e.unseen:,} client{'s' * (e.unseen != 1)} never train" if e.unseen else "")


def describe_network(job: Job) -> str:
    """The model, its size, the algorithm that trains it, and the loss, unless that is the plain cross-entropy."""
    e = job.experiment
    side = e.model.side(job.recipe.shape)
    resized = f", images resized to {side} x {side}" if side else ""
    frozen = "the backbone is" if e.model.freeze == "backbone" else "all others are" if e.model.freezes else ""
    size = f"{job.vectors[0].size:,} parameters{f' ({frozen} frozen)' if frozen else ''}{resized}"
    loss = e.loss.chosen(job.dataset.kind)
    weights = " with class weights" if e.loss.is_weighted else ""
    to = f" to minimise {loss}{weights}" if weights or loss != "cross_entropy" else ""
    return f"{e.model.name}, {size}, trained by {e.algorithm.name}{to}"


def describe_format(name: str, stored_as: str) -> str:
    """The data set's name with the format that numbers must be quoted with: cifar10 (jpeg) is not quite cifar10."""
    return f"{name} ({stored_as})" if stored_as in ("jpeg", "generated") else name


def describe_model(e: Experiment, tables: Results) -> list[tuple[str, str]]:
    """Labelled sentences on the server's model after the last evaluation; none if it was never evaluated.

    The best round gets a sentence of its own if it is not the last evaluated one.
    """
    evaluated = tables.rounds.dropna(subset="test_loss")
    if evaluated.empty:
        return []
    final, judge = evaluated.iloc[-1], recorded_judge(tables.runs["judged_by"].iloc[0], e)
    measure = judge.partition("_")[2]
    sentences = [(measure.replace("_", " "), f"{final[f'test_{measure}']:.4f}")] if measure != "loss" else []
    if measure != "accuracy" and not math.isnan(final["test_accuracy"]):
        sentences.append(("accuracy", f"{final['test_accuracy']:.4f}"))
    sentences.append(("loss", f"{final['test_loss']:.4f}"))
    if e.evaluation.top_k:
        sentences.append((f"top {e.evaluation.top_k}", f"{final['test_top_k_accuracy']:.4f}"))
    classes = results.per_class(tables).dropna(subset="recall").sort_values("recall", kind="stable")
    if len(classes) > 1:
        weakest, strongest = (f"{row.label_name} {row.recall:.4f}" for row in classes.iloc[[0, -1]].itertuples())
        sentences.append(("classes", f"{weakest} (the weakest) to {strongest} (the strongest)"))
    best = evaluated.iloc[int((sign(judge) * evaluated[judge]).argmax())]
    if best["round"] != final["round"]:
        chosen = "the validation split" if judge.startswith("validation_") else "the test set"
        sentences.append(("best", f"{best[f'test_{measure}']:.4f} in round {best['round']}, chosen on {chosen}"))
    return sentences


def accuracy_and_judge(job: Job, row: Mapping[str, Any]) -> str:
    """The accuracy on the test set, where there is one, and the measure that judges the run where it is another."""
    measure = job.judged.partition("_")[2]
    names = dict.fromkeys(["accuracy", *([] if measure == "loss" else [measure])])
    found = {name: row[f"test_{name}"] for name in names}
    return "".join(f"  {name.replace('_', ' ')} {value:.4f}" for name, value in found.items() if value is not None)


def describe_clients(row: Mapping[Any, float], unit: str = "images") -> str:
    """The clients' accuracy on test examples of their own, or their loss, from a row of the rounds table."""
    if math.isnan(row["client_accuracy"]):
        unseen = "" if math.isnan(row["unseen_loss"]) else f"; {row['unseen_loss']:.4f} of those that never train"
        return f"loss {row['client_loss']:.4f} on test {unit} of their own{unseen}"
    unseen = "" if math.isnan(row["unseen_accuracy"]) else f"; {row['unseen_accuracy']:.4f} of those that never train"
    spread = f"10th percentile {row['client_accuracy_p10']:.4f}, standard deviation {row['client_accuracy_std']:.4f}"
    return f"{row['client_accuracy']:.4f} on test {unit} of their own ({spread}){unseen}"


def describe_time(sums: Mapping[Any, float]) -> str:
    """The parts of the time of all rounds, in percent. All but training and evaluation is overhead."""
    total = sums["seconds"] or 1.0
    share = {part: sums[f"seconds_{part}"] / total for part in ("train", "evaluate", *OVERHEAD)}
    overhead = ", ".join(f"{part} {share[part]:.1%}" for part in OVERHEAD)
    return (
        f"train {share['train']:.1%}, evaluate {share['evaluate']:.1%}, "
        f"overhead {sum(share[part] for part in OVERHEAD):.1%} ({overhead})"
    )


def describe_absences(sums: Mapping[Any, float], kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Labelled sentences on clients that did not count and on events of actors, over all rounds.

    `sums` are the sums of the rounds table's columns, `kinds` the events table's column of that name.
    """
    absent = {"dropped out": sums["dropouts"], "came too late to count": sums["surplus"]}
    simulated = [f"{count:.0f} {words}" for words, count in absent.items() if count]
    happened = Counter(kinds)
    counts: dict[str, float] = {words: happened[kind] for kind, words in HAPPENED.items()}
    counts |= {"call made again": sums["retries"], "client lost": sums["lost"], "update not finite": sums["non_finite"]}
    faults = [f"{count:.0f} x {words}" for words, count in counts.items() if count]
    sentences = [("simulated", f"of those asked, {', '.join(simulated)}" if simulated else "")]
    sentences.append(("faults", ", ".join(faults)))
    return [(label, sentence) for label, sentence in sentences if sentence]


OVERHEAD = ("transfer", "aggregate", "idle", "record")


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds, or hours:minutes:seconds."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
