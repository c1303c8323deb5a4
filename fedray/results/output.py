"""The section of the settings that says where results go."""

import re

from fedray.core.errors import BadInputError
from fedray.core.settings import section, setting


@section
class Output:
    """Where results go, and how often they are written. Not part of the run id."""

    root: str = setting("results", "Folder of all results.")
    name: str = setting("", "Name of these results, a folder under root; empty: the name of the settings file.")
    checkpoint_every: int = setting(5, "A checkpoint every so many rounds.", ge=1, unit="rounds")
    save_model: bool = setting(True, "Whether the final model is kept, as safetensors.")
    save_best: bool = setting(
        False, "Whether the model of the best round is kept, too: best by the accuracy that target and patience go by."
    )
    keep_checkpoint: bool = setting(
        False,
        "Whether a run that finished keeps its last checkpoint, so that one with more `rounds` and all else alike goes "
        "on from it.",
    )
    flush_seconds: float = setting(5.0, "How often the Parquet tables are rewritten.", gt=0, unit="s")
    client_output: bool = setting(
        False,
        "Whether what clients print on Ray is shown, each line with its process; in one process it always is.",
    )
    tensorboard: bool = setting(
        False,
        "Whether rounds are logged for TensorBoard too, in root/name/tensorboard; needs `pip install "
        "'fedray[tensorboard]'`.",
    )
    wandb: str = setting(
        "",
        "Project of Weights & Biases that rounds are logged in too; empty: none. WANDB_MODE=offline keeps them in "
        "root/name/wandb. Needs `pip install 'fedray[wandb]'`.",
    )

    def __post_init__(self) -> None:
        if self.name and not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", self.name):
            raise BadInputError(
                f"output.name = {self.name!r} must be one folder name of at most 100 letters, digits, '-', '_' and "
                "'.', not starting with a '.'"
            )
        if self.wandb and not re.fullmatch(r"[^/\\#?%:\s]{1,128}", self.wandb):
            raise BadInputError(
                f"output.wandb = {self.wandb!r} must be the name of one project, of at most 128 characters and none of "
                "/ \\ # ? % : and blanks"
            )
