"""The short help: what a program prints that was started without a word. It imports nothing that takes time."""

import sys
from pathlib import Path

from fedray.core.version import __version__

NOTHING_TO_DO = 2
"""The exit status of a program that was not told what to do, as of one with bad input."""

FILE = "python -m fedray experiments/quickstart.toml"
NO_FILE = (
    "python -m fedray --rounds 10 --algorithm.lr 0.02 --algorithm.momentum 0.9 --output.name quickstart"  # the same run
)

TEXTS = {
    "fedray": """\
fedray {version} runs one federated-learning experiment, or continues it.

  {quickstart}
      the quick start: ten rounds of FedAvg on ten clients
  python -m fedray FILE.toml --rounds 3 --algorithm.lr 0.1
      a settings file, with two of its settings changed
  python -m fedray --model.name cnn --algorithm.name fedprox
      no file: all other settings are the defaults
  python -m fedray --help
      every setting and option

Nothing was run, since neither a file nor a setting was given. python -m fedray.sweep runs many experiments,
python -m fedray.report writes a page about their results, python -m fedray.data shows who holds which examples.
""",
    "fedray.sweep": """\
fedray {version} runs many experiments from one settings file, or continues them.

  python -m fedray.sweep FILE.toml --dry-run
      the command that makes each run alone, and how long they take
  python -m fedray.sweep FILE.toml
      every run of its [grid] or [search]
  python -m fedray.sweep FILE.toml --grid algorithm.lr=0.01,0.1 seed=0..4
      axes from the command line: ten runs
  python -m fedray.sweep --help
      every setting and option

Nothing was run, since no file was given. A file's [grid] is, for example:

  [grid]
  algorithm.lr = [0.01, 0.1]
  seed = [0, 1, 2, 3, 4]
""",
    "fedray.report": """\
fedray {version} writes one page about all runs of some results.

  python -m fedray.report results/NAME
      results/NAME/report.html, which works offline
  python -m fedray.report results/NAME --figures
      each figure as SVG and PNG, too
  python -m fedray.report --help
      every option

Nothing was written, since no results were named. {there}
""",
    "fedray.data": """\
fedray {version} shows who holds which examples, without training.

  python -m fedray.data FILE.toml
      the partition of a settings file
  python -m fedray.data --clients 100 --partition.name dirichlet --partition.alpha 0.1
      no file: all other settings are the defaults
  python -m fedray.data FILE.toml --figure shards.png
      a picture of it, too
  python -m fedray.data --help
      every setting and option

Nothing was drawn, since neither a file nor a setting was given.
""",
}


def exit_if_bare(program: str) -> None:
    """End the process with the short help if it was started without a word."""
    if len(sys.argv) == 1:
        sys.exit(show(program))


def show(program: str) -> int:
    """Print the short help of a program to stderr, and return the exit status."""
    quickstart = FILE if Path(FILE.split()[-1]).is_file() else NO_FILE
    said = TEXTS[program].format(version=__version__, quickstart=quickstart, there=there(Path("results")))
    print(said, end="", file=sys.stderr)
    return NOTHING_TO_DO


def there(folder: Path) -> str:
    """A sentence with the newest results in a folder."""
    try:
        found = sorted((path.stat().st_mtime, path.parent.name) for path in folder.glob("*/runs"))
    except OSError:
        found = []
    if not found:
        return f"There are none in {folder}/ yet."
    names = [f"{folder}/{name}" for _, name in reversed(found)]
    return f"There {'are' if len(names) > 1 else 'is'} {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}."
