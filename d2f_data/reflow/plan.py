"""What a set of reflow pairs is to be: pair i comes from noise seeded by (seed, i), under prompt i modulo their number.

So the index is the pair: whichever run makes it, and in whatever batch, it starts from the same noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ...d2f_core import derive_seed
from .manifest import Settings

STORAGE: Mapping[str, torch.dtype] = MappingProxyType({"fp16": torch.float16, "fp32": torch.float32})
"""Types of latents on disk."""


@dataclass(frozen=True)
class ReflowPairPlan:
    """Settings of a set of pairs.

    Attributes:
        shape: of a latent, (C, h, w).
        count: pairs; the only setting that may change while the set grows.
        seed: of the noise.
        teacher: all else that decides which x0 a noise leads to, flat.
        shard_size: pairs a file.
        storage: type on disk, one of ``STORAGE``.
    """

    shape: tuple[int, ...]
    count: int
    seed: int
    teacher: Settings
    shard_size: int = 256
    storage: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("count", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.storage not in STORAGE:
            raise ValueError(f"unknown storage {self.storage!r}; allowed are {', '.join(map(repr, STORAGE))}")

    @property
    def dtype(self) -> torch.dtype:
        """Type on disk."""
        return STORAGE[self.storage]

    @property
    def pair_bytes(self) -> int:
        """Of a pair on disk."""
        return 2 * self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def shard_sizes(self) -> list[int]:
        """ReflowPairs that each shard is to hold."""
        full, rest = divmod(self.count, self.shard_size)
        return [self.shard_size] * full + ([rest] if rest else [])

    def noise(self, items: Sequence[int]) -> Tensor:
        """The noise of some pairs, (B, C, h, w), float32 on the CPU."""
        generators = [torch.Generator().manual_seed(derive_seed(self.seed, item)) for item in items]
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in generators])

    def settings(self, conditions: str) -> Settings:
        """All that decides what pair i is; ``conditions`` is their hash."""
        shape = "x".join(map(str, self.shape))
        own: dict[str, str | int] = {
            "shape": shape,
            "storage": self.storage,
            "shard_size": self.shard_size,
            "seed": self.seed,
        }
        return {**own, "conditions": conditions, **self.teacher}
