"""What a MODEL is: its schedule, prediction type and kind, and the shape and scale of its latents."""

from typing import Any

import comfy.model_sampling
import torch

from ...d2f_core import PREDICTIONS, ContinuousSchedule, FlowAlignment, FlowSchedule, NoiseSchedule, Schedule
from .flow_sampling import FlowSampling

NODE_NAME = "Convert to Flow Matching"
REPORT_NODE = "Model Report (Diff2Flow)"
FIND_OUT = f"'{REPORT_NODE}' finds out what a checkpoint is"

_HOST = comfy.model_sampling
# The host's class that interprets the model output -> prediction type of d2f_core.
_PREDICTION_OWNERS = {_HOST.EPS: "eps", _HOST.V_PREDICTION: "v", _HOST.X0: "x0", _HOST.EDM: "edm"}
# The host's class that counts noise -> time scale of a schedule without a table.
_TIME_SCALES = {
    _HOST.ModelSamplingContinuousEDM: "log",
    _HOST.ModelSamplingDiscreteEDM: "log",
    _HOST.ModelSamplingContinuousV: "arctan",
}
_TAKEN = "eps- and v-prediction models (SD1.5, SD2.1, SDXL), EDM and continuous v"


def sampling_of(model: Any) -> Any:
    """The ``model_sampling`` in force for this MODEL (``model.model.model_sampling`` may be a clone's)."""
    return model.get_model_object("model_sampling")


def is_converted(model: Any) -> bool:
    """Whether this MODEL was converted to flow matching by this pack."""
    return isinstance(sampling_of(model), FlowSampling)


def is_flow(model: Any) -> bool:
    """Whether this MODEL is a flow matching model, converted or native."""
    return isinstance(sampling_of(model), _HOST.CONST)


def is_native_flow(model: Any) -> bool:
    """Whether this MODEL is a flow matching model of its own: by its checkpoint, or a ModelSampling node."""
    return is_flow(model) and not is_converted(model)


def alignment_of(model: Any, node: str = "this node") -> FlowAlignment:
    """Schedule and prediction type of a MODEL: diffusion, converted, or native flow matching.

    Args:
        model: MODEL.
        node: the node that needs to know, for errors.

    Raises:
        ValueError: names the model, and why ``node`` does not take it.
    """
    sampling = sampling_of(model)
    if isinstance(sampling, FlowSampling):
        return sampling.alignment
    return _native_alignment(sampling, model, node) if is_flow(model) else read_alignment(model, None, node)


def read_alignment(model: Any, prediction: str | None = None, node: str = NODE_NAME) -> FlowAlignment:
    """Schedule and prediction type of a diffusion MODEL, from its live ``model_sampling``.

    Args:
        model: MODEL with an EPS, V_PREDICTION, X0 or EDM network, over a discrete or a continuous schedule.
        prediction: overrides the prediction type that the model declares.
        node: the node that needs to know, for errors.

    Raises:
        ValueError: names the model, and why ``node`` does not take it.
    """
    sampling, name = sampling_of(model), _kind(model)
    if isinstance(sampling, FlowSampling):
        raise ValueError(
            f"this model ({name}) was converted before, by '{NODE_NAME}' or 'Load LoRA (Diff2Flow)'; remove the second "
            "conversion"
        )
    if isinstance(sampling, _HOST.CONST):
        raise ValueError(
            f"{name} is a flow matching model as it is, and '{node}' takes diffusion models here: {_TAKEN}{_hint(node)}"
        )
    schedule = _schedule(sampling, name, node)
    input_owner = _owner(sampling, "calculate_input")
    if input_owner is not _HOST.EPS:
        raise ValueError(
            f"{name} has the sampling type {input_owner.__name__}, whose network does not take the scaled sample of a "
            f"diffusion; '{node}' takes {_TAKEN}{_hint(node)}"
        )
    found = prediction or _prediction(sampling, name, node)
    known = [one for one, row in PREDICTIONS.items() if not row.is_flow]
    if found not in known:
        raise ValueError(f"unknown prediction type {found!r}; allowed are {', '.join(map(repr, known))}")
    return FlowAlignment(schedule, found, float(getattr(sampling, "sigma_data", 1.0)))


def _hint(node: str) -> str:
    """The end of a refusal: who finds out what the checkpoint is, unless that is the one who asks."""
    return "" if node == REPORT_NODE else f"; {FIND_OUT}"


def _kind(model: Any) -> str:
    return type(model.model).__name__


def _owner(sampling: Any, method: str) -> type:
    """The class that defines a method of ``sampling``, wherever it is inherited from."""
    return next((cls for cls in type(sampling).__mro__ if method in vars(cls)), type(sampling))


def _schedule(sampling: Any, name: str, node: str) -> Schedule:
    owner = _owner(sampling, "timestep")
    if owner is _HOST.ModelSamplingDiscrete:
        return NoiseSchedule.from_sigmas(sampling.sigmas)
    if owner not in _TIME_SCALES:
        raise ValueError(
            f"{name} has the schedule {owner.__name__}, whose timesteps '{node}' cannot count; it takes {_TAKEN}. "
            f"If a ModelSampling node made it (a distilled schedule, for LCM), remove that node{_hint(node)}"
        )
    return ContinuousSchedule(_TIME_SCALES[owner], float(sampling.sigma_min), float(sampling.sigma_max))


def _prediction(sampling: Any, name: str, node: str) -> str:
    owner = _owner(sampling, "calculate_denoised")
    if owner not in _PREDICTION_OWNERS:
        known = ", ".join(cls.__name__ for cls in _PREDICTION_OWNERS)
        raise ValueError(
            f"{name} has the sampling type {owner.__name__}; '{node}' knows {known}. Remove the ModelSampling node "
            f"before it, or set 'prediction' of '{NODE_NAME}' to what the network was trained with{_hint(node)}"
        )
    return _PREDICTION_OWNERS[owner]


def _native_alignment(sampling: Any, model: Any, node: str) -> FlowAlignment:
    """That of a native flow model, whose timestep is s times a multiplier, whatever the shift."""
    check_native(model, node)
    if getattr(sampling, "noise_scale", 1.0) != 1:
        raise ValueError(
            f"{_kind(model)} has noise of the scale {sampling.noise_scale:g}; '{node}' takes flow matching models with "
            "noise of the scale 1: remove ModelNoiseScale, or choose another model"
        )
    s = torch.tensor([0.1, 0.5, 1.0])
    timesteps = sampling.timestep(s).float().cpu()
    if not torch.allclose(timesteps, s * timesteps[-1], rtol=1e-5) or not timesteps[-1] > 0:
        raise ValueError(
            f"{_kind(model)} has the sampling type {_owner(sampling, 'timestep').__name__}, whose timesteps are not "
            f"proportional to sigma; '{node}' cannot count them{_hint(node)}"
        )
    return FlowAlignment(FlowSchedule(float(timesteps[-1])), "flow")


def check_native(model: Any, node: str) -> None:
    """Raise ValueError unless a native flow MODEL is sampled as text-to-image models are."""
    sampling = sampling_of(model)
    for method in ("calculate_input", "calculate_denoised", "noise_scaling"):
        if _owner(sampling, method) is not _HOST.CONST:
            raise ValueError(
                f"{_kind(model)} has the sampling type {_owner(sampling, method).__name__}, which is not that of a "
                f"text-to-image flow matching model; '{node}' takes those that ComfyUI samples with CONST (SD3, Flux, "
                f"AuraFlow, and others behind ModelSamplingSD3){_hint(node)}"
            )


def flow_settings(model: Any) -> tuple[str, float] | None:
    """Start and shift of a flow matching MODEL, converted or native; None for any other."""
    sampling = sampling_of(model)
    if is_native_flow(model):
        return "noise", float(getattr(sampling, "shift", 1.0))
    return (sampling.start, sampling.shift) if isinstance(sampling, FlowSampling) else None


def model_name(model: Any) -> str:
    """The host's name for the kind of model: SD15, SD20, SDXL, ..."""
    return type(model.model.model_config).__name__


def latent_shape(model: Any, width: int, height: int) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latents of a picture of a size in pixels.

    Raises:
        ValueError: a side is not a multiple of the number of pixels per latent position.
    """
    latent_format = model.get_model_object("latent_format")
    factor = int(getattr(latent_format, "spacial_downscale_ratio", 8))
    if width % factor or height % factor:
        raise ValueError(f"width and height must be multiples of {factor} for this model, got {width} and {height}")
    return int(latent_format.latent_channels), height // factor, width // factor


def latent_space(model: Any) -> str:
    """The scale of latents in model space, in words, for files."""
    latent_format = model.get_model_object("latent_format")
    return f"model space of {type(latent_format).__name__} (scale factor {latent_format.scale_factor:g})"
