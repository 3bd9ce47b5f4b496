"""The plan of a set of reflow pairs: pair i has noise seeded with (seed, i) and prompt i modulo the number of prompts.

So the index alone determines a pair: it starts from the same noise in every run and every batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..core import derive_seed
from .manifest import Settings

STORAGE: Mapping[str, torch.dtype] = MappingProxyType({"fp16": torch.float16, "fp32": torch.float32})
"""Name of a storage type -> dtype of noise and latents on disk."""


@dataclass(frozen=True)
class ReflowPairPlan:
    """Settings of a set of pairs.

    Attributes:
        shape: shape of a latent, (C, h, w).
        count: number of pairs; the only setting that may change when a set is continued.
        seed: seed of the noise.
        teacher: everything else that determines the x0 of a noise, as a flat mapping.
        shard_size: pairs per file.
        storage: a name of ``STORAGE``.
        windows: number of windows whose edges the states of a path are stored at, besides its ends.
    """

    shape: tuple[int, ...]
    count: int
    seed: int
    teacher: Settings
    shard_size: int = 256
    storage: str = "fp32"
    windows: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "shard_size", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.storage not in STORAGE:
            raise ValueError(f"unknown storage {self.storage!r}; allowed are {', '.join(map(repr, STORAGE))}")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype on disk."""
        return STORAGE[self.storage]

    @property
    def pair_bytes(self) -> int:
        """Size of a pair on disk."""
        return (self.windows + 1) * self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors in a shard."""
        return ("eps", "x0") if self.windows == 1 else ("eps", "x0", "waypoints")

    @property
    def shard_sizes(self) -> list[int]:
        """The number of pairs in each shard of the finished set."""
        full, rest = divmod(self.count, self.shard_size)
        return [self.shard_size] * full + ([rest] if rest else [])

    def noise(self, indices: Sequence[int]) -> Tensor:
        """The noise of the pairs with the given indices, (B, C, h, w), float32 on the CPU."""
        generators = [torch.Generator().manual_seed(derive_seed(self.seed, index)) for index in indices]
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in generators])

    def settings(self, conditions: str) -> Settings:
        """Everything that determines pair i; ``conditions`` is the hash of the conditioning kwargs."""
        shape = "x".join(map(str, self.shape))
        own: dict[str, str | int] = {
            "shape": shape,
            "storage": self.storage,
            "shard_size": self.shard_size,
            "seed": self.seed,
        }
        if self.windows > 1:  # left out where there is one, as in sets of earlier versions
            own["windows"] = self.windows
        return {**own, "conditions": conditions, **self.teacher}
