"""The object behind ``model_sampling`` of a converted model: flow matching outside, diffusion inside.

ComfyUI's flow models count noise in ``s = 1 - t`` and move ``x_fm = s eps + (1 - s) x0``. Around every
call of the network the host asks this object for

    calculate_input     x_fm -> x_dm, what the network was trained on
    timestep            s -> the network's (fractional) timestep
    calculate_denoised  model output -> x0

and around sampling for the first state (``noise_scaling``) and the last (``inverse_noise_scaling``).
Stock schedulers read ``sigmas``, ``sigma``, ``sigma_min`` and ``sigma_max``: row i is the s of timestep
i, so that they choose the same noise levels as on the unconverted model.
"""

import torch
from torch import Tensor

from ...d2f_core import STARTS, FlowAlignment, FlowTime, per_item, shift_sigmas

# The least weight of a latent in the state, so that states at s = 1 can leave the sampler and come back.
LEAST_DATA_WEIGHT = 1e-4


class FlowSampling(torch.nn.Module):
    """Flow matching view of a diffusion network, in the shape of ComfyUI's ``ModelSamplingDiscreteFlow``.

    Tensors are plain attributes, not buffers: the host's dynamic patcher keeps buffers by attribute path
    in one dict for all clones of a model, and would give this object the schedule of another clone.

    Attributes:
        alignment: schedule and prediction type of the network.
        start: "t_min", sampling starts at the network's noisiest level; "noise", it starts at s = 1.
        shift: how far the sigmas that schedulers see lean to noise; 1 leaves them as they are.
        zsnr: whether the schedule has zero terminal SNR, which the host's schedulers ask for.
        aligned: whether x0 comes from the network's own prediction, so that there is a diffusion model to agree with.
        sigmas: s of each level that the schedule lists, a timestep each if it is discrete; float32, ascending, (T,).
    """

    noise_scale = 1.0
    multiplier = 1000

    def __init__(
        self,
        alignment: FlowAlignment,
        start: str = "t_min",
        shift: float = 1.0,
        zsnr: bool = False,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(alignment, FlowAlignment):
            raise TypeError(
                "a node after 'Convert to Flow Matching' (ModelNoiseScale does this) tried to rebuild the conversion "
                "from the model's configuration; remove that node, it is for other models"
            )
        if start not in STARTS:
            raise ValueError(f"unknown start {start!r}; allowed are {', '.join(map(repr, STARTS))}")
        self.alignment = alignment
        self.start = start
        self.shift = shift
        self.zsnr, self.aligned = zsnr, aligned
        self.sigmas = self.sigma(alignment.schedule.row(torch.arange(len(alignment.schedule))))

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Ignored: the dynamic patcher puts back buffers of the clone that was loaded before, by name."""

    def extra_repr(self) -> str:
        return f"prediction={self.alignment.prediction}, start={self.start}, shift={self.shift}"

    @property
    def sigma_min(self) -> Tensor:
        """s of the first timestep, shape ()."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """s at which sampling starts, shape (): 1 - t_min, or 1 for the start from pure noise."""
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's fractional timestep at s, any shape, float32."""
        return self.alignment.timestep(FlowTime(s=sigma)).float()

    def sigma(self, timestep: Tensor) -> Tensor:
        """The s that schedulers get for a timestep, any shape, float32; shifted, both ends kept."""
        schedule = self.alignment.schedule
        s, low, high = (1 - self.alignment.flow_time(at) for at in (timestep, schedule.first, schedule.last))
        s = low + (high - low) * shift_sigmas((s - low) / (high - low), self.shift)
        if self.start == "noise":
            # Of a continuous schedule, schedulers have the last timestep in float32.
            last = schedule.last - abs(schedule.last) * torch.finfo(torch.float32).eps
            s = torch.where(timestep >= last, torch.ones_like(s), s)
        return s.float()

    def percent_to_sigma(self, percent: float) -> float:
        """The s at that fraction of the listed levels: 1.0 at 0 and before, 0.0 at 1 and after."""
        if percent <= 0:
            return 1.0
        if percent >= 1:
            return 0.0
        schedule = self.alignment.schedule
        return float(self.sigma(schedule.row(torch.tensor((1 - percent) * (len(schedule) - 1), dtype=torch.float64))))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """``x_dm`` of the state ``x_fm`` (B, *) at s."""
        return self.alignment.to_diffusion(noise, _flow_time(sigma))

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x0 of the model output and the state ``x_fm``, both (B, *), at s."""
        return self.alignment.denoised(model_output, model_input, _flow_time(sigma))

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """The state at s of a latent and noise, (B, *).

        With ``max_denoise`` the noise stands for a whole unit variance sample of the diffusion, as it does
        in the host's diffusion models, and gets the standard deviation of one: sqrt(s^2 + (1 - s)^2).

        A sigma above 1, which AddNoise passes on from a node that knows no model, is one of a diffusion model:
        the latent with that much noise, as it is outside of a sampler, x_fm / t.
        """
        if float(sigma.max()) > 1:
            return latent_image + per_item(sigma.flatten() if sigma.ndim else sigma, noise) * noise
        time = _flow_time(sigma)
        noise_weight = per_item(time.norm if max_denoise else time.s, noise)
        return (noise_weight * noise + _data_weight(time, noise) * latent_image).to(noise.dtype)

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """The inverse of ``noise_scaling`` for zero noise, finite up to s = 1, (B, *)."""
        return (latent / _data_weight(_flow_time(sigma), latent)).to(latent.dtype)


def _flow_time(sigma: Tensor) -> FlowTime:
    """The flow time of s, () or (B,); the host has dimensions of size 1 behind those."""
    return FlowTime(s=sigma.flatten() if sigma.ndim else sigma)


def _data_weight(time: FlowTime, latent: Tensor) -> Tensor:
    return per_item(time.t.clamp(min=LEAST_DATA_WEIGHT), latent)
