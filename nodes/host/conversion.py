"""MODEL -> converted MODEL: the conversion is an object patch of a clone."""

from typing import Any

import comfy.model_sampling
import comfy.patcher_extension

from ...d2f_core import OBJECTIVES, Objective
from .flow_sampling import FlowSampling
from .guard import guard_sampling
from .model import read_alignment, sampling_of
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
) -> Any:
    """A clone of a diffusion MODEL that the host samples as a flow matching model.

    Args:
        model: diffusion MODEL.
        start, shift: see ``FlowSampling``.
        prediction: overrides the prediction type that the model declares.
        objective: what the network was fine-tuned with, one of ``d2f_core.OBJECTIVES``.
    """
    alignment = Objective(read_alignment(model, prediction), objective).coordinates
    zsnr = bool(getattr(sampling_of(model), "zsnr", False))
    converted = model.clone()
    keep_before(converted)
    sampling = ComfyFlowSampling(alignment, start, shift, zsnr, OBJECTIVES[objective].is_aligned)
    converted.add_object_patch("model_sampling", sampling)
    kinds = comfy.patcher_extension.WrappersMP
    converted.add_wrapper_with_key(kinds.OUTER_SAMPLE, GUARD_KEY, guard_sampling)
    converted.add_wrapper_with_key(kinds.CALC_COND_BATCH, GUARD_KEY, translate_batch)
    return converted
