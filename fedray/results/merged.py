"""The model that a run saved, with its adapters merged into the weights that they adapt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from fedray.core.errors import BadInputError
from fedray.models.merging import merge


def merged_model(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file in a run's `models/`, by the names that the network has without model.lora_rank.

    A model without adapters is given as it is. BadInputError for a file that is no run's model.
    """
    try:
        with safe_open(path, "np") as file:
            settings: Any = json.loads((file.metadata() or {})["settings"])
        return merge(load_file(path), settings["model"].get("lora_alpha"))
    except FileNotFoundError:
        raise BadInputError(f"there is no model {path}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path} is no model that a run saved ({type(error).__name__}: {error})") from None
