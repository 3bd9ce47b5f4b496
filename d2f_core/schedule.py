"""The noise schedule of a trained network, continuous in the timestep.

A diffusion network is trained on T noise levels; row i of its table is the one of timestep i = 0 .. T - 1:

    sigma_ve[i] = sigma_i / alpha_i = sqrt((1 - alphas_cumprod[i]) / alphas_cumprod[i])

Between two rows ``log sigma_ve`` is linear in the timestep, as in ComfyUI's ``ModelSamplingDiscrete.sigma``; the
inverse is then exact. All else follows from it, so ``alpha^2 + sigma^2 = 1`` holds between the rows, too:

    alpha = 1 / sqrt(1 + sigma_ve^2)        sigma = sigma_ve / sqrt(1 + sigma_ve^2)

There is no row for the clean image. The published code reads a table of T + 1 rows whose row 0 is the clean image and
hands that index to the network: off by one.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .time_map import exact

# ComfyUI's value for a terminal alphas_cumprod of zero (zero terminal SNR): an eps-prediction has no x0 at alpha = 0.
ZERO_TERMINAL_ALPHAS_CUMPROD = 4.8973451890853435e-08


class Tables(NamedTuple):
    """What is looked up around a call of the network, on one device in one dtype."""

    log_sigma: Tensor
    """``log sigma_ve`` of each row, (T,)."""
    pieces: Tensor
    """Row, slope and start of each linear piece of the inverse, (T + 1, 3); constant before row 0 and after T - 1."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """T noise levels and the continuous map between timestep and ``log sigma_ve``.

    Attributes:
        log_sigma: ``log sigma_ve`` of each row, float64 on the CPU, strictly increasing, shape (T,).
    """

    log_sigma: Tensor
    _copies: dict[tuple[torch.device, torch.dtype], Tables] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.log_sigma.ndim != 1 or len(self.log_sigma) < 2:
            raise ValueError(
                f"a noise schedule has shape {tuple(self.log_sigma.shape)}; it must be one-dimensional with at least 2 "
                "rows, one row for each timestep of the network"
            )
        if not torch.isfinite(self.log_sigma).all():
            raise ValueError(
                "a noise schedule has rows that are not finite; every sigma_ve must be above 0 and below "
                "infinity (alphas_cumprod strictly between 0 and 1)"
            )
        if not (self.log_sigma.diff() > 0).all():
            row = int((self.log_sigma.diff() <= 0).nonzero()[0]) + 1
            raise ValueError(
                f"a noise schedule must become strictly noisier with the timestep, but row {row} is not noisier "
                f"than row {row - 1}; pass the rows in ascending noise and drop repeated ones"
            )

    @classmethod
    def from_betas(cls, betas: Tensor) -> "NoiseSchedule":
        """Schedule of a DDPM with variances ``betas`` of shape (T,): alphas_cumprod = cumprod(1 - betas)."""
        return cls.from_alphas_cumprod(torch.cumprod(1 - _float64(betas), dim=0))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "NoiseSchedule":
        """Schedule with ``alpha^2 = alphas_cumprod``, (T,), descending; for a last 0 see the constant above."""
        a = _float64(alphas_cumprod)
        if a.ndim == 1 and len(a) and a[-1] == 0:
            a = torch.cat([a[:-1], a.new_tensor([ZERO_TERMINAL_ALPHAS_CUMPROD])])
        return cls(0.5 * (torch.log1p(-a) - torch.log(a)))

    @classmethod
    def from_sigmas(cls, sigma_ve: Tensor) -> "NoiseSchedule":
        """Schedule from ``sigma_ve`` of shape (T,), ascending: ComfyUI's ``model_sampling.sigmas``."""
        return cls(torch.log(_float64(sigma_ve)))

    def __len__(self) -> int:
        return len(self.log_sigma)

    @property
    def first(self) -> float:
        """Timestep of the cleanest row."""
        return 0.0

    @property
    def last(self) -> float:
        """Timestep of the noisiest row, T - 1."""
        return float(len(self) - 1)

    def row(self, index: Tensor) -> Tensor:
        """Timestep of a row: its index."""
        return index

    def drawn(self, u: Tensor) -> Tensor:
        """Rows, uniformly."""
        return (u * len(self)).floor().clamp(max=self.last)

    @property
    def sigma_ve(self) -> Tensor:
        """``sigma_ve`` of each row, float64, shape (T,)."""
        return self.log_sigma.exp()

    def log_sigma_at(self, timestep: Tensor | float) -> Tensor:
        """``log sigma_ve`` at a fractional timestep, any shape; outside of [0, T - 1] the end row counts."""
        position = exact(timestep).clamp(0, len(self) - 1)
        table = self.tables(position).log_sigma
        row = position.floor().long().clamp(max=len(self) - 2)
        return torch.lerp(table.take(row), table.take(row + 1), position - row)

    def timestep_at(self, log_sigma: Tensor) -> Tensor:
        """Fractional timestep in [0, T - 1] with that finite ``log sigma_ve``: the inverse of ``log_sigma_at``."""
        tables = self.tables(log_sigma)
        piece = torch.searchsorted(tables.log_sigma, log_sigma, right=True)
        row, slope, start = torch.nn.functional.embedding(piece, tables.pieces).unbind(-1)  # an index of () would wait
        return torch.addcmul(row, slope, log_sigma - start)

    def tables(self, like: Tensor) -> Tables:
        """The tables in the dtype and on the device of a tensor; made once for each, so that no call copies them."""
        key = (like.device, like.dtype)
        if key not in self._copies:
            self._copies[key] = Tables(*(table.to(like) for table in self._tables()))
        return self._copies[key]

    def _tables(self) -> Tables:
        rows = torch.arange(len(self) - 1, dtype=torch.float64)
        inside = torch.stack([rows, 1 / self.log_sigma.diff(), self.log_sigma[:-1]], dim=1)
        pieces = torch.nn.functional.pad(inside, (0, 0, 1, 1))
        pieces[-1, 0] = len(self) - 1
        return Tables(self.log_sigma, pieces)


def _float64(values: Tensor) -> Tensor:
    return torch.as_tensor(values).detach().cpu().double()  # converted here: some devices have no float64
