"""python -m fedray.data experiments/alpha.toml --clients 100      prints a partition, and draws it with --figure"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fedray.cli.command_line import read_command_line, report_errors
from fedray.cli.console import ConsoleWatch, describe_format
from fedray.cli.short_help import show
from fedray.core.atomic import replacing
from fedray.core.errors import BadInputError
from fedray.data.heterogeneity import Heterogeneity, count_sizes, measure
from fedray.data.partitions import label_counts
from fedray.experiment.composition import compose, set_default_name
from fedray.experiment.experiment import Experiment
from fedray.run.checks import check_split
from fedray.run.prepared import Job

PROGRAM = "python -m fedray.data"
LISTS = {"figure": ("PATH", "draw the clients' labels and numbers of examples, to .svg or .png files")}
VALUES = {"images": ("PATH.png", "draw some images as some clients see them under feature skew")}
BY_TARGETS = {"classes": "classes", "labels": "labels", "values": "bins"}
"""The word for the strata of each kind of targets. With several labels an example counts under its rarest one."""
CLIENTS, LABELS = 20, 12
"""The most rows and columns of the table."""
BINS, BAR = 10, 40
"""The most lines of the histogram, and the characters of its longest bar."""


def main(argv: list[str]) -> int:
    if not argv:
        return show("fedray.data")
    line = read_command_line(argv, PROGRAM, "Draw and print a partition, without training.", {}, VALUES, LISTS)
    set_default_name(line.tree, "unnamed")
    fit_cohort(line.tree)
    experiment = compose(line.tree)
    pictures = [Path(word) for word in line.lists.get("figure", [])]
    samples = Path(line.values["images"]) if "images" in line.values else None
    for path in pictures:
        check_place("figure", path, (".svg", ".png"))
    if samples:
        check_place("images", samples, (".png",))
        if experiment.skew.is_off:
            raise BadInputError("--images shows what [skew] does to images, and skew.noise, rotation and colour are 0")
    job, watch = Job(experiment, writes=False), ConsoleWatch()
    check_split(job)
    if samples and (channels := job.dataset.train_images.shape[1]) not in (1, 3):
        raise BadInputError(f"--images can draw grey images and coloured ones, not {channels} channels")
    if line.sweep:
        watch.notice(f"only the base settings of {line.file} are drawn, none of its sweep")
    found = job.dataset.strata
    counts = label_counts(job.shards, found.train, len(found.names))
    say(watch, job, counts)
    if pictures:
        from fedray.report.shard_figures import shards_figure

        figure = shards_figure(title_of(job), counts, found.names)
        for path in pictures:
            write(path, figure.svg().encode() if path.suffix.lower() == ".svg" else figure.png())
    if samples:
        from fedray.report.skew_picture import draw_skew

        write(samples, draw_skew(experiment.skew, experiment.seed, experiment.clients, job.dataset.train_images))
    return 0


def fit_cohort(tree: dict[str, Any]) -> None:
    """Set the cohort to the population if none is given and the default is larger; no partition depends on it."""
    few = range(1, Experiment.cohort)
    if "cohort" not in tree and tree.get("clients") in (*few, *map(str, few)):
        tree["cohort"] = tree["clients"]


def say(watch: ConsoleWatch, job: Job, counts: np.ndarray) -> None:
    """Print a partition; `counts` [N, classes] are how many examples of each label each client holds."""
    watch.say_setting(job)
    watch.say("partition", job.partition_id)
    groups = job.dataset.strata
    found = measure(job.shards, groups.train, counts.shape[1])
    for label, text in describe(found, counts.sum(1), BY_TARGETS[job.dataset.kind.targets]):
        watch.say(label, text)
    for text in histogram(counts.sum(1)):
        watch.say("", text)
    if counts.shape[1] > LABELS:
        watch.say("table", f"not shown for more than {LABELS} labels; --figure PATH.png draws them all")
        return
    watch.console.print()
    watch.console.print(table(counts, groups.names))
    if len(counts) > CLIENTS:
        watch.say("", f"the first {CLIENTS} of {len(counts):,} clients; --figure PATH.png draws more")


def describe(found: Heterogeneity, sizes: np.ndarray, strata: str = "classes") -> list[tuple[str, str]]:
    """The figures of heterogeneity in sentences, each with its label. `strata` is the word for what is counted."""
    return [
        (
            "labels",
            f"total variation distance from the whole training set's {found.distance_mean:.3f} on average, "
            f"{found.distance_max:.3f} at most",
        ),
        (strata, f"{found.classes_mean:.1f} held on average, effectively {found.effective_classes:.1f}"),
        ("examples", f"{found.unused:,} in no shard, {found.shared:,} in several"),
        (
            "sizes",
            f"{sizes.min():,} to {sizes.max():,}, median {np.median(sizes):,.6g}; coefficient of variation "
            f"{found.size_variation:.3f}, Gini coefficient {found.size_gini:.3f}",
        ),
    ]


def histogram(sizes: np.ndarray) -> list[str]:
    """A histogram of the clients' numbers of examples, a line for each bin."""
    bins = count_sizes(sizes, BINS)
    ranges = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high, _ in bins]
    width, most = max(map(len, ranges)), max(count for *_, count in bins)
    return [
        f"{range_:>{width}}  {'█' * -(-BAR * count // most)}{' ' * bool(count)}{count:,}"
        for range_, (*_, count) in zip(ranges, bins, strict=True)
    ]


def table(counts: np.ndarray, labels: Sequence[str]) -> Table:
    """A table of the first clients' examples of each label. On a terminal, cells with more examples are darker."""
    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("client", *(label[:6] for label in labels), "all"):
        found.add_column(heading, justify="right", no_wrap=True)
    most = counts[:CLIENTS].max()
    for client, own in enumerate(counts[:CLIENTS].tolist()):
        cells = [Text(f"{count:,}", style=shade(count / most)) if count else Text("·") for count in own]
        found.add_row(str(client), *cells, f"{sum(own):,}")
    return found


def shade(share: float) -> str:
    """The style of a cell: white for a share of 0, the blue of the figures for 1."""
    red, green, blue = (round(255 + share * (full - 255)) for full in (0, 114, 178))
    return f"{'white' if share > 0.5 else 'black'} on rgb({red},{green},{blue})"


def title_of(job: Job) -> str:
    """`cifar10 (jpeg), dirichlet, alpha 0.1, min size 1, seed 0`."""
    from fedray.report.wording import label

    e, d = job.experiment, job.dataset
    settings = {f"partition.{name}": value for name, value in e.settings()["partition"].items() if name != "name"}
    own = label({"partition": e.chosen_name("partition"), **settings, "seed": e.seed})
    return f"{describe_format(d.name, d.format)}, {own}"


def check_place(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check the path of a picture before anything is read or drawn; BadInputError if it cannot be written."""
    if path.suffix.lower() not in suffixes:
        raise BadInputError(f"--{option} {str(path)[:200]!r} must end in {' or '.join(suffixes)}")
    try:
        if path.is_dir():
            raise OSError("it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInputError(f"--{option} {str(path)[:200]!r} cannot be written: {why}") from None


def write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from None
    print(path)


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
