"""What the configuration of a diffusers scheduler says: a noise schedule, a prediction type, and flow times to stop at.

The betas and their own timesteps are diffusers' formulas, so they are taken from its DDIMScheduler; what becomes of
them is ``d2f_core``'s:

    alphas_cumprod -> NoiseSchedule        timesteps -> t = flow_time(timestep)        sigmas -> t

Flow times ascend from ``t_min`` (or 0, the start from pure noise) to 1, the image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2f_core import FLOW_GRIDS, STARTS, FlowAlignment, NoiseSchedule, Schedule, flow_grid

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' name of a prediction type -> ``d2f_core``'s."""

DIFFUSION_LEVELS = "timestep_spacing"
GRIDS = ("uniform", *(name for name in FLOW_GRIDS if name not in ("uniform", "shifted")), DIFFUSION_LEVELS)
"""Grids of flow time; ``uniform`` is the shifted grid for any shift, ``timestep_spacing`` has the levels of DDIM."""

_NATIVE = "is a flow matching model as it is; keep diffusers' FlowMatchEulerDiscreteScheduler for it"
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_BETA_ROOTS = {"linear": 1, "scaled_linear": 2}  # of betas that lie on a line, or whose square roots do
# What some configurations ask for and a deterministic flow has no place for -> the value that means "off".
_LEFT_OUT = {
    "clip_sample": False,
    "thresholding": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


def explicit(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose values all count, those that are the defaults of the class it is from among them.

    Raises:
        ValueError: it is that of a flow matching model, or of a schedule without betas.
    """
    name, betas = str(config.get("_class_name", "")), "beta_start" in config
    flow = "FlowMatch" in name or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flow or (not betas and "use_dynamic_shifting" in config):
        raise ValueError(f"a pipeline with the scheduler {name or 'of a flow matching model'} {_NATIVE}")
    if "EDM" in name or (not betas and "sigma_data" in config):
        raise ValueError(
            "an EDM scheduler has a schedule of continuous sigmas, not of betas; Diff2Flow schedulers take DDIM-, "
            "Euler-, DPM- and PNDM-configured pipelines (SD1.5, SD2.1, SDXL)"
        )
    return {key: value for key, value in config.items() if key != "_use_default_values"}


def left_out(config: Mapping[str, Any]) -> list[str]:
    """Names of what a configuration asks for and these schedulers do not do."""
    return [name for name, off in _LEFT_OUT.items() if config.get(name, off) not in (off, None)]


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a start, grid, shift or prediction type that there is not."""
    for name, allowed in (("start", STARTS), ("grid", GRIDS), ("prediction_type", PREDICTION_TYPES)):
        if config[name] not in allowed:
            choices = ", ".join(map(repr, allowed))
            native = f"; a flow matching model {_NATIVE}" if config[name] == "flow_prediction" else ""
            raise ValueError(f"unknown {name} {config[name]!r}; allowed are {choices}{native}")
    if config["shift"] != 1 and config["grid"] != "uniform":
        raise ValueError(f"shift is {config['shift']}, but it is one of the grid 'uniform', not of {config['grid']!r}")


def diffusion(config: Mapping[str, Any]) -> Any:
    """diffusers' DDIMScheduler with the betas and the timesteps of a configuration."""
    from diffusers import DDIMScheduler

    spacing = {name: config[name] for name in ("timestep_spacing", "steps_offset")}
    return DDIMScheduler(**{name: config[name] for name in _BETAS}, **spacing, clip_sample=False)


def alignment_of(config: Mapping[str, Any]) -> FlowAlignment:
    """Noise schedule and prediction type of a configuration."""
    schedule = NoiseSchedule.from_alphas_cumprod(diffusion(config).alphas_cumprod)
    return FlowAlignment(schedule, PREDICTION_TYPES[config["prediction_type"]])


def table_of_comfyui(config: Mapping[str, Any]) -> Schedule:
    """The noise schedule as ComfyUI's table has it: sigmas of betas in float64, kept in float32.

    diffusers makes its betas in float32, which changes the sixth digit of the sigmas. A LoRA names the table that it
    was trained on, and its first steps depend on it, so a training takes ComfyUI's. Schedules of zero terminal SNR,
    and betas that the configuration lists, are diffusers'.
    """
    root = _BETA_ROOTS.get(config["beta_schedule"])
    if root is None or config["trained_betas"] is not None or config["rescale_betas_zero_snr"]:
        return alignment_of(config).schedule
    ends = (config["beta_start"] ** (1 / root), config["beta_end"] ** (1 / root))
    betas = torch.linspace(*ends, config["num_train_timesteps"], dtype=torch.float64) ** root
    return NoiseSchedule.from_sigmas(NoiseSchedule.from_betas(betas).sigma_ve.float())


def grid_times(config: Mapping[str, Any], alignment: FlowAlignment, steps: int) -> Tensor:
    """Flow times of the configured grid, (steps + 1,)."""
    if config["grid"] == DIFFUSION_LEVELS:
        scheduler = diffusion(config)
        scheduler.set_timesteps(steps)
        return times_of_timesteps(config, alignment, scheduler.timesteps.tolist())
    t_start = alignment.t_min if config["start"] == "t_min" else 0.0
    name = "shifted" if config["grid"] == "uniform" else config["grid"]
    return flow_grid(name, steps, t_start=t_start, shift=config["shift"])


def times_of_timesteps(config: Mapping[str, Any], alignment: FlowAlignment, timesteps: Sequence[float]) -> Tensor:
    """Flow times of the network's timesteps, given in descending order, and 1."""
    rows = torch.tensor([float(timestep) for timestep in timesteps], dtype=torch.float64)
    last = len(alignment.schedule) - 1
    if not rows.numel() or float(rows.min()) < 0 or float(rows.max()) > last:
        raise ValueError(f"timesteps must be one or more numbers from {last} down to 0, got {list(timesteps)[:8]}")
    t = alignment.flow_time(rows)
    if config["start"] == "noise":
        t = torch.where(rows >= last, 0.0, t)
    return _checked(torch.cat([t, torch.ones(1, dtype=torch.float64)]), "timesteps", timesteps)


def times_of_sigmas(alignment: FlowAlignment, sigmas: Sequence[float]) -> Tensor:
    """Flow times of sigmas in descending order; a last 0 is the image, and is added where it is missing.

    Sigmas in [0, 1] are flow sigmas, s = 1 - t. A list that begins above 1 has those of diffusion, sigma / alpha, as
    diffusers' ``AysSchedules`` have; they are kept within the network's table.
    """
    given = torch.tensor([float(sigma) for sigma in sigmas], dtype=torch.float64)
    given = given[:-1] if given.numel() and given[-1] == 0 else given
    if not given.numel() or not bool((given > 0).all()):
        raise ValueError(f"sigmas must be one or more numbers above 0, and may end with 0, got {list(sigmas)[:8]}")
    of_diffusion = bool((given > 1).any())
    t = alignment.flow_time(alignment.schedule.timestep_at(given.log())) if of_diffusion else 1 - given
    return _checked(torch.cat([t, torch.ones(1, dtype=torch.float64)]), "sigmas", sigmas)


def _checked(t: Tensor, what: str, given: Sequence[float]) -> Tensor:
    if not bool((t.diff() > 0).all()):
        raise ValueError(f"{what} must fall at every step, got {[round(float(value), 4) for value in given][:8]}")
    return t
