"""What only some settings need, and the base installation has not: `pip install 'fedray[tensorboard]'`.

Nothing of it is imported before a run asks for it.
"""

from importlib.util import find_spec

from fedray.core.errors import BadInputError
from fedray.results.output import Output


def check_extras(output: Output) -> None:
    """Raise BadInputError where these settings need what is not installed, or an account that is not there."""
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
    """Raise BadInputError where Weights & Biases would ask who this is, which it may not in the middle of a run."""
    import wandb  # half a second

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
        raise BadInputError(
            f"{setting} needs a login: `wandb login`, or WANDB_API_KEY; or WANDB_MODE=offline keeps its files here"
        )
