"""The blueprint of a model, made in a process that has torch."""

import torch

from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.models import start, weights
from fedray.models.activations import measure_activations
from fedray.models.blueprint import Blueprint, Torch
from fedray.models.build import build, names_of
from fedray.models.flat import FlatModel
from fedray.models.model import Model, Shape
from fedray.models.parts import last_linear
from fedray.models.trial import Trial, check_fresh, try_out


def blueprint(
    model: Model,
    shape: Shape,
    classes: int,
    seed: int,
    fingerprint: str = "",
    kind: Kind = CLASSIFIED_IMAGES,
) -> Blueprint:
    """The blueprint of the model that `build` makes, for the driver; BadInputError where it cannot be trained.

    `shape` is that of one input of this kind. `fingerprint`, if given, must be the Model.fingerprint.
    """
    try:
        return described(model, shape, classes, seed, fingerprint, kind)
    except SystemExit as error:
        why = f"failed for {kind.inputs} {shape} ({own_code.describe(error)})"
        raise BadInputError(f"model.name = {model.name} {why}") from error


def described(model: Model, shape: Shape, classes: int, seed: int, fingerprint: str, kind: Kind) -> Blueprint:
    """The blueprint of a new model, which is tried out first where it is the user's own."""
    module, trial = build(model, shape, classes, seed, fingerprint, kind), Trial("", ())
    if not model.is_known:
        again = build(model, shape, classes, seed, fingerprint, kind)
        check_fresh(module, again, model)
        trial = try_out(again, model, shape, classes, kind)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    flat = FlatModel(module)
    names, norms = names_of(flat)
    layouts = {"params": flat.layout, "buffers": flat.buffer_layout}
    places = {
        name: (kind, tuple(shape))
        for kind, layout in layouts.items()
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }
    kept, widest, draws = measure_activations(flat, shape, kind)
    return Blueprint(
        params=flat.params.numpy(),
        buffers=flat.buffers.numpy(),
        places=places,
        others={name: value for name, value in tensors.items() if name not in places},
        names=names,
        norms=norms,
        kept_bytes=kept,
        widest_bytes=widest,
        featureless=trial.featureless or fixed_features(flat, model),
        idle=trial.idle,
        unstackable=trial.unstackable,
        draws=draws,
        start=said_of_start(flat, model),
        torch=Torch(
            version=str(torch.__version__),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            bfloat16=computes_in_bfloat16(),
        ),
    )


def fixed_features(flat: FlatModel, model: Model) -> str:
    """The reason why nothing before the last Linear layer of a known network is trained; empty if something is."""
    if not (model.is_known and model.trains_a_part):
        return ""
    last = last_linear(flat.module)
    trained = any(not name.startswith(f"{last}.") for name in flat.layout.names)
    return "" if trained else f"nothing before that layer, {last}, is trained"


def said_of_start(flat: FlatModel, model: Model) -> str:
    """A sentence on what of the file of model.init the model starts with; empty without one."""
    if not model.init:
        return ""
    return start.fit(start.read(weights.given(model.init)), flat.module, model.init).said(model.init)


def computes_in_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 (AVX512-BF16, AMX or Arm's BF16); True where torch cannot tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    return any(value is True and "bf16" in name for name, value in torch.cpu.get_capabilities().items())
