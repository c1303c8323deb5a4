"""What the programs in this folder share: settings by dotted name after the program's own arguments."""

import tempfile
from collections.abc import Sequence
from typing import Any

from fedray.experiment import Experiment
from fedray.experiment.composition import compose, override


def experiment(base: dict[str, Any], words: Sequence[str]) -> Experiment:
    """The base settings with `--name value ...` in place; results go to a temporary folder, no model is kept."""
    tree = {
        **base,
        "output": {"root": tempfile.mkdtemp(), "name": "speed", "save_model": False, "checkpoint_every": 10**6},
    }
    override(tree, dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True)))
    return compose(tree)
