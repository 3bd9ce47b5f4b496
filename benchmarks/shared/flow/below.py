"""Below t_min: what a correction of the reading there would be worth on the demo's latents (docs/math.md, section 4).

    x0 = x0(row T - 1) - (alpha_T - alpha_t) delta^2 r        r the network's input, delta^2 = 0 the reading as it is

A velocity moves by the same divided by s, so both measures are parabolas in delta^2 with the least at `best`.

ideal   the network that knows mean m and covariance of the latents says ``m + k_T (r - alpha_T m)`` along a direction
        of variance d^2, k = alpha d^2 / (alpha^2 d^2 + sigma^2), where ``m + k_t (r - alpha_t m)`` is right: root mean
        square of the velocity's error per value, exact
demo    the demo network under prompts, half of them short: its flow matching loss, which is the mean square of the
        velocity's error per value
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import hypot, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diff2flow_kit.d2f_core import FlowAlignment, Interpolant
from diff2flow_kit.d2f_core.loss import ModelInput
from diff2flow_kit.nodes import host

TIMES = (0.0, 0.02, 0.04)
"""Flow times below the t_min of Stable Diffusion's schedule, 0.064."""
BATCH = 32


class Parabola(NamedTuple):
    """A mean square as a function of delta^2: ``square - 2 delta^2 product + delta^4 moved``."""

    square: float
    product: float
    moved: float

    @property
    def best(self) -> float:
        """The delta^2 with the least mean square."""
        return self.product / self.moved

    def at(self, delta2: float) -> float:
        return self.square - 2 * delta2 * self.product + delta2**2 * self.moved

    def row(self, name: str, t: float, form: Callable[[float], float]) -> dict[str, Any]:
        """Its figures: `as_is` for delta 0, `as_v` for delta 1, which reads the output as that of a v network."""
        values = {"as_is": 0.0, "as_v": 1.0, "corrected": self.best}
        figures = {key: round(form(self.at(delta2)), 5) for key, delta2 in values.items()}
        return {"network": name, "t": t, "best": round(self.best, 3), **figures}


def weights(t: float) -> tuple[float, float]:
    """Alpha and sigma of the network's input at a flow time."""
    norm = hypot(t, 1 - t)
    return t / norm, (1 - t) / norm


def ideal(latents: Tensor, t_min: float) -> Iterator[dict[str, Any]]:
    """Rows of the ideal network for latents (N, *) in the model's scale, and one on the latents themselves."""
    flat = latents.double().flatten(1)
    variances, directions = torch.linalg.eigh(flat.T.cov())
    variances, mean = variances.clamp(min=0), flat.mean(0) @ directions
    first = [round(float(one), 1) for one in variances.flip(0)[:3]]
    yield {"network": "latents", "scenes": len(flat), "variance": round(float(variances.mean()), 3),
           **dict(zip(("first", "second", "third"), first))}  # fmt: skip
    for t in TIMES:
        yield error(mean, variances, t, t_min).row("ideal", t, sqrt)


def error(mean: Tensor, variances: Tensor, t: float, t_min: float) -> Parabola:
    """Mean square of the ideal network's velocity error at t, for directions of a mean (D,) and variance (D,)."""
    (end, end_sigma), (alpha, sigma) = weights(t_min), weights(t)
    believed, right = (a * variances / (a**2 * variances + b**2) for a, b in ((end, end_sigma), (alpha, sigma)))
    spread, step = alpha**2 * variances + sigma**2, (end - alpha) / (1 - t)
    shift, moved = believed * (alpha - end) * mean / (1 - t), step * alpha * mean
    slope = (believed - right) / (1 - t)
    parts = (
        shift**2 + slope**2 * spread,
        shift * moved + slope * step * spread,
        moved**2 + step**2 * spread,
    )
    return Parabola(*(float(part.mean()) for part in parts))


def demo(model: Any, latents: Tensor, texts: Any, seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """Rows of a converted MODEL's network for latents (N, 4, h, w) in its scale, a caption for each, draws of noise."""
    eps = torch.randn(draws, *latents.shape, generator=torch.Generator().manual_seed(seed))
    alignment = host.alignment_of(model)
    sums = torch.zeros(len(TIMES), 3, dtype=torch.float64)
    for rows in torch.arange(len(latents)).split(BATCH):
        positive = [[cross[rows], {"pooled_output": extra["pooled_output"][rows]}] for cross, extra in texts]

        def run(call: Any, rows: Tensor = rows) -> None:
            for noise in eps:
                for i, t in enumerate(TIMES):
                    pair = Interpolant(latents[rows], noise[rows], torch.full((len(rows),), t, dtype=torch.float64))
                    sums[i] += squares(alignment, pair, call)

        host.probe_network(model, positive, latents[rows].shape, tuple(1 - t for t in TIMES), run)
    for t, found in zip(TIMES, (sums / eps.numel()).tolist()):
        yield Parabola(*found).row("demo", t, float)


def squares(alignment: FlowAlignment, pair: Interpolant, call: Any) -> Tensor:
    """Sums of squares of a parabola, (3,), for a batch of one t."""
    t = float(pair.t[0])
    asked = ModelInput(alignment.to_diffusion(pair.x_fm, pair.t), alignment.timestep(pair.t))
    wrong = alignment.velocity(call(1 - t, asked), pair.x_fm, pair.t) - (pair.x0 - pair.eps)
    moved = (weights(alignment.t_min)[0] - weights(t)[0]) / (1 - t) * asked.network_input
    return torch.stack(
        [(one * other).double().sum() for one, other in ((wrong, wrong), (wrong, moved), (moved, moved))]
    )
