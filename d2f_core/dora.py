"""DoRA: length and direction of a layer's weight, trained apart (Liu et al., arXiv 2402.09353).

    W' = m (W + D) / |W + D|      D = (alpha / rank) up down,  m of one value per input channel, |W| at the start

|.| is the norm over outputs and kernel, plus an epsilon, as in loaders of ``dora_scale``. In terms of what is there,

    W' x = W x + W ((s - 1) x) + D (s x)      s = m / |W + D|

so that nothing of the size of W is kept for the backward pass, and at the start, where s = 1 and D = 0, nothing is
added. The gradient is that of all of this, the norm included.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .adapter import Layer, LowRankAdapter
from .on_demand import product, weight_of

EPS = torch.finfo(torch.float32).eps


class DoraAdapter(LowRankAdapter):
    """A low-rank adapter whose changed weight has the lengths ``dora_scale``, (1, in, *1).

    Dropout drops inputs of the low-rank part only.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(layer, rank, alpha, dropout, generator)
        self.dora_scale = nn.Parameter(self._lengths(layer).detach())

    @classmethod
    def starting_at(
        cls, layer: Layer, down: Tensor, up: Tensor, lengths: Tensor, alpha: float, dropout: float
    ) -> "DoraAdapter":
        """One that starts at the tensors of a file."""
        adapter = cls(layer, len(down), alpha, dropout, torch.Generator())
        adapter.fill(down, up)
        with torch.no_grad():
            adapter.dora_scale.copy_(lengths.reshape(adapter.dora_scale.shape))
        return adapter

    def added(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        lengths = checkpoint(self._lengths, layer, use_reentrant=False, preserve_rng_state=False)
        excess = ((self.dora_scale - lengths) / lengths).to(x.dtype)
        return product(layer, x * excess) + self(x * (self.dora_scale / lengths).to(x.dtype))

    def file_tensors(self) -> dict[str, Tensor]:
        """Those of the low-rank adapter, and ``dora_scale``."""
        return {**super().file_tensors(), "dora_scale": self.dora_scale.detach()}

    def _lengths(self, layer: Layer) -> Tensor:
        """|W + D|, (1, in, *1)."""
        changed = weight_of(layer, self.down) + self.weight_delta()
        return torch.linalg.vector_norm(changed, dim=[0, *range(2, changed.ndim)], keepdim=True) + EPS
