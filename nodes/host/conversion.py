"""MODEL -> converted MODEL: the conversion is an object patch of a clone."""

from typing import Any

import comfy.model_sampling
import comfy.patcher_extension

from ...d2f_core import OBJECTIVES, Objective
from .flow_sampling import FlowSampling
from .guard import guard_sampling
from .model import NODE_NAME, REPORT_NODE, check_native, flow_settings, is_flow, read_alignment, sampling_of
from .progress import tell
from .ve.coordinates import translate_batch
from .ve.functions import keep_before

GUARD_KEY = "diff2flow"


class ComfyFlowSampling(FlowSampling, comfy.model_sampling.CONST):
    """``FlowSampling`` that the host recognises as flow sampling (``CONST``); all methods are ``FlowSampling``'s."""


def convert(
    model: Any,
    start: str = "t_min",
    shift: float = 1.0,
    prediction: str | None = None,
    objective: str = "diff2flow",
    node: str = NODE_NAME,
) -> Any:
    """A clone of a diffusion MODEL that the host samples as a flow matching model.

    Args:
        model: diffusion MODEL.
        start, shift: see ``FlowSampling``.
        prediction: overrides the prediction type that the model declares.
        objective: what the network was fine-tuned with, one of ``d2f_core.OBJECTIVES``.
        node: the node that converts, for errors.
    """
    alignment = Objective(read_alignment(model, prediction, node), objective).coordinates
    zsnr = bool(getattr(sampling_of(model), "zsnr", False))
    converted = model.clone()
    keep_before(converted)
    sampling = ComfyFlowSampling(alignment, start, shift, zsnr, OBJECTIVES[objective].is_aligned)
    converted.add_object_patch("model_sampling", sampling)
    kinds = comfy.patcher_extension.WrappersMP
    converted.add_wrapper_with_key(kinds.OUTER_SAMPLE, GUARD_KEY, guard_sampling)
    converted.add_wrapper_with_key(kinds.CALC_COND_BATCH, GUARD_KEY, translate_batch)
    return converted


def as_flow(model: Any, start: str = "t_min", node: str = NODE_NAME) -> Any:
    """The MODEL if it is a flow matching model, converted or native; otherwise a conversion of it for ``node``."""
    return model if is_flow(model) else convert(model, start, node=node)


def pass_through(model: Any, shift: float, prediction: str | None) -> Any:
    """A native flow matching MODEL, as it is, with a line on the node that says so.

    Raises:
        ValueError: the widgets ask for what only a conversion can do.
    """
    check_native(model, NODE_NAME)
    name, (_, own_shift) = type(model.model).__name__, flow_settings(model) or ("", 1.0)
    by = f"{name} is a flow matching model as it is, by its checkpoint or a ModelSampling node before '{NODE_NAME}'"
    if prediction is not None:
        raise ValueError(
            f"prediction is {prediction!r}, but {by}. If the network predicts {prediction}, remove that ModelSampling "
            f"node; if it is a flow network, set prediction to 'auto'. '{REPORT_NODE}' finds out which it is"
        )
    if shift != 1:
        raise ValueError(
            f"shift is {shift:g}, but {by}, so nothing is converted; set the shift in ModelSamplingSD3, and here to 1"
        )
    tell(
        f"{by} (shift {own_shift:g}), so it is passed on unchanged. If its images are noise, its network is not a flow "
        f"network: remove the ModelSampling node; '{REPORT_NODE}' finds out what it is"
    )
    return model
