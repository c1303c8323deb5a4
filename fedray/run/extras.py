"""Packages that only some settings need and the base installation lacks: `pip install 'fedray[tensorboard]'`.

None is imported before a run asks for it.
"""

from importlib.util import find_spec

from fedray.core.errors import BadInputError
from fedray.results.output import Output


def check_extras(output: Output) -> None:
    """Raise BadInputError where the settings need a package that is not installed, or a login that is missing."""
    if output.tensorboard:
        need("tensorboard", "output.tensorboard = true")
    if output.wandb:
        setting = f"output.wandb = {output.wandb}"
        need("wandb", setting)
        check_login(setting)


def need(extra: str, setting: str) -> None:
    if find_spec(extra) is None:
        raise BadInputError(f"{setting} needs `pip install 'fedray[{extra}]'`")


def check_login(setting: str) -> None:
    """Raise BadInputError where Weights & Biases would ask for a login, since a run cannot answer."""
    import wandb  # half a second

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
        raise BadInputError(
            f"{setting} needs a login: `wandb login`, or WANDB_API_KEY; or WANDB_MODE=offline keeps its files here"
        )
