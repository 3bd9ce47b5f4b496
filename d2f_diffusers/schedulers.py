"""Schedulers for diffusers' pipelines: a diffusion network sampled as a flow matching model.

    latents       x_fm = t x0 + s eps, as ``add_noise`` makes them; the first ones have the deviation sqrt(t^2 + s^2)
    scale_model_input    x_fm -> x_dm, what the network was trained on
    timesteps     of the network, fractional
    step          velocity = x0 - eps of the network's output, and a stage of a Runge-Kutta step in flow time

A step of the solver is data, a tableau of ``d2f_core``: every row of it is one call of the network and one entry of
``timesteps``. Euler is DDIM between the same levels. Heun's last step is the midpoint rule, as in the kit's ODE
sampler. All latents of a pipeline are x_fm, those of its callbacks, too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput, logging
from torch import Tensor

from d2f_core import FIXED_METHODS, FlowTime, Tableau, advance, per_item

from .levels import alignment_of, check_config, explicit, grid_times, left_out, times_of_sigmas, times_of_timesteps

logger = logging.get_logger(__name__)


@dataclass
class Diff2FlowSchedulerOutput(BaseOutput):
    """``prev_sample``, the next state x_fm (B, *); ``pred_original_sample``, x0 as the network predicts it (B, *)."""

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class _FlowScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """What both schedulers are; ``method`` names the tableau, ``order`` is the number of calls per step."""

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers if "EDM" not in kind.name]
    method = "euler"
    order = 1
    _step_index: int | None
    _begin_index: int | None

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        start: str = "t_min",
        shift: float = 1.0,
        grid: str = "uniform",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ) -> None:
        check_config(self.config)
        self.alignment = alignment_of(self.config)
        self.num_inference_steps: int | None = None
        self._put(times_of_timesteps(self.config, self.alignment, range(len(self) - 1, -1, -1)), None)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler of a DDIM-, Euler-, DPM- or PNDM-configured pipeline; keywords overrule its configuration.

        Raises:
            ValueError: the pipeline is a flow matching model already, or has no schedule of betas.
        """
        if config is not None and not isinstance(config, str):
            config = explicit(config)
            missing = left_out({**config, **kwargs})
            if missing:
                logger.warning(f"{cls.__name__} leaves out {', '.join(missing)} of the configuration")
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first latents: 1 at pure noise, that of a unit variance sample elsewhere."""
        return float(FlowTime.of(self._times[0]).norm)

    @property
    def step_index(self) -> int | None:
        """Index into ``timesteps`` of the next ``step``."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index into ``timesteps`` of the first ``step``, if a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this entry of ``timesteps`` (image to image)."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[float] | None = None,
        sigmas: list[float] | None = None,
    ) -> None:
        """Choose the levels: a number of steps on the configured grid, or timesteps or sigmas in descending order.

        Args:
            num_inference_steps: steps of the solver.
            device: of ``timesteps``.
            timesteps: of the network, in [0, T - 1]; they may be fractional.
            sigmas: flow sigmas in [0, 1], or, if one is above 1, those of diffusion.
        """
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise ValueError("pass exactly one of num_inference_steps, timesteps and sigmas to set_timesteps")
        if timesteps is not None:
            times = times_of_timesteps(self.config, self.alignment, timesteps)
        elif sigmas is not None:
            times = times_of_sigmas(self.alignment, sigmas)
        else:
            times = grid_times(self.config, self.alignment, int(num_inference_steps or 0))
        self.num_inference_steps = len(times) - 1
        self._put(times, device)

    def _put(self, times: Tensor, device: str | torch.device | None) -> None:
        """Take flow times (N + 1,) from the start to 1 as the solver's intervals, and forget the last run."""
        self._intervals = list(zip(times.tolist(), times.tolist()[1:]))
        self._calls = [(i, j) for i in range(len(self._intervals)) for j in range(len(self._tableau(i).c))]
        at = [self._time_of(i, self._tableau(i).c[j]) for i, j in self._calls]
        self._times = torch.tensor([*at, 1.0], dtype=torch.float64)
        self._rows = self.alignment.timestep(self._times[:-1]).float()
        self.timesteps = self._rows.to(device)
        self.sigmas = (1 - self._times).float()
        self._step_index = self._begin_index = None
        self._state: Tensor | None = None
        self._slopes: list[Tensor] = []

    def _tableau(self, interval: int) -> Tableau:
        tableau = FIXED_METHODS[self.method]
        return tableau.open_end or tableau if interval == len(self._intervals) - 1 else tableau

    def _time_of(self, interval: int, c: float) -> float:
        start, end = self._intervals[interval]
        return end if c == 1 else start + c * (end - start)

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """The entry of ``timesteps`` with this value; of several, the first that begins a step of the solver."""
        rows = self._rows if schedule_timesteps is None else schedule_timesteps.cpu()
        found = (rows == torch.as_tensor(timestep).to("cpu", rows.dtype)).nonzero().flatten().tolist()
        if not found:
            raise ValueError(
                f"timestep {float(timestep):g} is not in scheduler.timesteps; pass one of them, not its index"
            )
        return next((index for index in found if self._calls[index][1] == 0), found[0])

    def _index(self, timestep: float | Tensor) -> int:
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
        return self._step_index

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """``x_dm`` of the state ``x_fm``, (B, *): the network's input."""
        return self.alignment.to_diffusion(sample, self._times[self._index(timestep)])

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Diff2FlowSchedulerOutput | tuple[Tensor, Tensor]:
        """One call of the network, read as a velocity, and what follows for the state.

        Args:
            model_output: the network's answer, (B, *).
            timestep: one of ``timesteps``; counted after the first call.
            sample: state that the network was asked about, x_fm (B, *).
            return_dict: return the output class instead of a tuple.
        """
        index = self._index(timestep)
        if index >= len(self._calls):
            raise ValueError("the last step is done; call set_timesteps before the next run")
        interval, stage = self._calls[index]
        start, end = self._intervals[interval]
        tableau, x = self._tableau(interval), sample.to(torch.promote_types(sample.dtype, torch.float32))
        if stage == 0 or self._state is None:
            self._state, self._slopes = x, []
        self._slopes.append(self.alignment.velocity(model_output, x, self._times[index]))
        x0 = self.alignment.denoised(model_output, x, self._times[index])
        last = stage == len(tableau.c) - 1
        x = advance(self._state, end - start, tableau.b if last else tableau.a[stage], self._slopes)
        self._step_index = index + 1
        x, x0 = x.to(model_output.dtype), x0.to(model_output.dtype)
        return Diff2FlowSchedulerOutput(prev_sample=x, pred_original_sample=x0) if return_dict else (x, x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``t x0 + s eps``, (B, *), at the levels of timesteps (B,) or (1,): those of the run, or any of the network.

        While a pipeline that starts in between is running, the level of its next step, as in other schedulers.
        """
        time = FlowTime(t=torch.stack([self._level(timestep) for timestep in timesteps.flatten().cpu()]))
        t, s = per_item(time.t, original_samples), per_item(time.s, original_samples)
        return (t * original_samples + s * noise).to(original_samples.dtype)

    def _level(self, timestep: Tensor) -> Tensor:
        """Flow time of a timestep, float64, ()."""
        if self._begin_index is not None:
            return self._times[self._begin_index if self._step_index is None else self._step_index]
        if bool((self._rows == timestep).any()):
            return self._times[self.index_for_timestep(timestep)]
        return self.alignment.flow_time(timestep.double())

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])


class Diff2FlowEulerScheduler(_FlowScheduler):
    """Euler's method in flow time: DDIM between the same levels, one call of the network per step.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr: the network's
            noise schedule, as in diffusers' DDIMScheduler, and with its defaults.
        prediction_type: "epsilon", "v_prediction" or "sample".
        start: "t_min", the noisiest level that the network was trained on; "noise", pure noise, for reflowed models.
        shift: above 1 spends more steps on noise, below 1 on detail.
        grid: "uniform" or "logit_normal" in flow time; "timestep_spacing": the levels that DDIM would choose.
        timestep_spacing, steps_offset: of that last grid.
    """


class Diff2FlowHeunScheduler(_FlowScheduler):
    """Heun's method in flow time, of second order, two calls of the network per step; see Diff2FlowEulerScheduler."""

    method = "heun"
    order = 2
