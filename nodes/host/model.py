"""What a MODEL is: its schedule, prediction type and kind, and the shape and scale of its latents."""

from typing import Any

import comfy.model_sampling

from ...d2f_core import FlowAlignment, NoiseSchedule
from .flow_sampling import FlowSampling

NODE_NAME = "Convert to Flow Matching"
REPORT_NODE = "Model Report (Diff2Flow)"

# The host's class that interprets the model output -> prediction type of d2f_core.
_PREDICTION_OWNERS = {
    comfy.model_sampling.EPS: "eps",
    comfy.model_sampling.V_PREDICTION: "v",
    comfy.model_sampling.X0: "x0",
}


def sampling_of(model: Any) -> Any:
    """The ``model_sampling`` in force for this MODEL (``model.model.model_sampling`` may be a clone's)."""
    return model.get_model_object("model_sampling")


def is_converted(model: Any) -> bool:
    """Whether this MODEL was converted to flow matching by this pack."""
    return isinstance(sampling_of(model), FlowSampling)


def is_flow(model: Any) -> bool:
    """Whether this MODEL is a flow matching model, converted or native."""
    return isinstance(sampling_of(model), comfy.model_sampling.CONST)


def read_alignment(model: Any, prediction: str | None = None) -> FlowAlignment:
    """Schedule and prediction type of a diffusion MODEL, from its live ``model_sampling``.

    Args:
        model: MODEL with an EPS, V_PREDICTION or X0 network over a discrete schedule.
        prediction: overrides the prediction type that the model declares.

    Raises:
        ValueError: names the model and why it cannot be converted.
    """
    sampling = sampling_of(model)
    name = type(model.model).__name__
    if isinstance(sampling, FlowSampling):
        raise ValueError(f"this model ({name}) went through '{NODE_NAME}' before; remove the second conversion")
    if isinstance(sampling, comfy.model_sampling.CONST):
        raise ValueError(
            f"{name} is a flow matching model as it is; '{NODE_NAME}' takes diffusion models (SD1.5, SD2.1, "
            "SDXL and their fine-tunes): leave the node out"
        )
    schedule_owner = _owner(sampling, "timestep")
    if schedule_owner is not comfy.model_sampling.ModelSamplingDiscrete or getattr(sampling, "sigma_data", 1.0) != 1:
        raise ValueError(
            f"{name} has the schedule {schedule_owner.__name__}, which is not one of discrete timesteps; "
            f"'{NODE_NAME}' takes eps- and v-prediction models with a discrete schedule (SD1.5, SD2.1, SDXL)"
        )
    input_owner = _owner(sampling, "calculate_input")
    if input_owner is not comfy.model_sampling.EPS:
        raise ValueError(
            f"{name} has the sampling type {input_owner.__name__}, whose network does not take the scaled sample of a "
            f"diffusion; '{NODE_NAME}' takes eps- and v-prediction models (SD1.5, SD2.1, SDXL)"
        )
    return FlowAlignment(NoiseSchedule.from_sigmas(sampling.sigmas), prediction or _prediction(sampling, name))


def _owner(sampling: Any, method: str) -> type:
    """The class that defines a method of ``sampling``, wherever it is inherited from."""
    return next((cls for cls in type(sampling).__mro__ if method in vars(cls)), type(sampling))


def _prediction(sampling: Any, name: str) -> str:
    owner = _owner(sampling, "calculate_denoised")
    if owner not in _PREDICTION_OWNERS:
        known = ", ".join(cls.__name__ for cls in _PREDICTION_OWNERS)
        raise ValueError(
            f"{name} has the sampling type {owner.__name__}; '{NODE_NAME}' knows {known}. Remove the ModelSampling "
            "node before it, or set 'prediction' to what the network was trained with"
        )
    return _PREDICTION_OWNERS[owner]


def alignment_of(model: Any) -> FlowAlignment:
    """Schedule and prediction type of a MODEL, converted or not."""
    sampling = sampling_of(model)
    return sampling.alignment if isinstance(sampling, FlowSampling) else read_alignment(model)


def flow_settings(model: Any) -> tuple[str, float] | None:
    """Start and shift of a converted MODEL; None for any other."""
    sampling = sampling_of(model)
    return (sampling.start, sampling.shift) if isinstance(sampling, FlowSampling) else None


def model_name(model: Any) -> str:
    """The host's name for the kind of model: SD15, SD20, SDXL, ..."""
    return type(model.model.model_config).__name__


def latent_shape(model: Any, width: int, height: int) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latents of a picture of a size in pixels.

    Raises:
        ValueError: a side is not a multiple of the number of pixels per latent position.
    """
    latent_format = model.model.latent_format
    factor = int(getattr(latent_format, "spacial_downscale_ratio", 8))
    if width % factor or height % factor:
        raise ValueError(f"width and height must be multiples of {factor} for this model, got {width} and {height}")
    return int(latent_format.latent_channels), height // factor, width // factor


def latent_space(model: Any) -> str:
    """The scale of latents in model space, in words, for files."""
    latent_format = model.model.latent_format
    return f"model space of {type(latent_format).__name__} (scale factor {latent_format.scale_factor:g})"
