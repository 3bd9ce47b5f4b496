"""What a training run is told, what it reports per step, and where its random numbers come from.

The global generators serve whoever else is running, so a step seeds them for itself and puts them back:

    state -> seed (run, step) -> dropout and what else draws -> state
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TrainSettings:
    """How a run goes.

    Attributes:
        seed: of everything random.
        batch_size: items a forward pass, at most; the last batch of a group may be smaller.
        accumulation: batches per step.
        clip: largest norm of the gradient; 0 for no clipping.
        ema: decay of the averaged weights, 0 for none.
        drop_condition: probability that an item is trained under the null condition.
        scale_gradients: scale the loss so that float16 gradients do not vanish; steps that overflow are left out.
    """

    seed: int = 0
    batch_size: int = 1
    accumulation: int = 1
    clip: float = 1.0
    ema: float = 0.0
    drop_condition: float = 0.0
    scale_gradients: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("ema", "drop_condition"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}; 0 switches it off")
        if self.clip < 0:
            raise ValueError(f"clip must not be below 0, got {self.clip}; 0 switches clipping off")


@dataclass(frozen=True)
class StepRecord:
    """What happened in a step; ``step`` counts from 1 over all resumes."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the adapters hold the weights of the step before."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators of the CPU and of ``device`` seeded, and put back afterwards; no others are touched.

    A device whose backend has no generator of its own (DirectML) draws from the CPU's.
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        backend = None if device.type == "cpu" else getattr(torch, device.type, None)
        if not hasattr(backend, "get_rng_state"):
            yield
            return
        with _seeded_backend(backend, seed, device):
            yield


@contextmanager
def _seeded_backend(backend: Any, seed: int, device: torch.device) -> Iterator[None]:
    """``seeded`` for torch.cuda, torch.xpu, torch.mps and the like; torch.mps knows only a single device."""
    numbered = hasattr(backend, "device")
    where = (device,) if numbered else ()
    state = backend.get_rng_state(*where)
    try:
        with backend.device(device) if numbered else nullcontext():
            backend.manual_seed(seed)
        yield
    finally:
        backend.set_rng_state(state, *where)
