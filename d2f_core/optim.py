"""Optimizers and learning rate schedules by name.

AdamW and Adafactor are torch's, Lion and Muon this package's own; the others are packages, most of them the authors',
imported when they are asked for. The learning rate rises from 0 over ``warmup`` steps. Over the N steps after them it
is the full rate times, at step k,

    constant                1                            linear        1 - k / N
    cosine                  (1 + cos(pi k / N)) / 2      polynomial    (1 - k / N)^2
    cosine_with_restarts    (1 + cos(pi ((3 k / N) mod 1))) / 2

as transformers' ``get_scheduler`` has them, with three cycles, and with power 2 and a final rate of 0.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from .lion import Lion
from .muon import Muon
from .optional import install_command

Parameters = Iterable[nn.Parameter]
Make = Callable[[Parameters, float, float], torch.optim.Optimizer]


def _adamw(parameters: Parameters, rate: float, decay: float) -> torch.optim.Optimizer:
    parameters = list(parameters)
    try:  # one kernel for all parameters; some devices and older versions of torch have none
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def _adafactor(parameters: Parameters, rate: float, decay: float) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Adafactor"):
        raise ValueError(
            f"the optimizer 'adafactor' needs torch 2.5 or newer, this is {torch.__version__}; use 'adamw'"
        )
    return torch.optim.Adafactor(parameters, lr=rate, weight_decay=decay)


def _optional(name: str, module: str, cls: str, **options: Any) -> Make:
    """An optimizer of a package that may be missing."""

    def make(parameters: Parameters, rate: float, decay: float) -> torch.optim.Optimizer:
        try:
            package = import_module(module)
        except ImportError as error:
            package_name = module.split(".")[0]
            raise ValueError(
                f"the optimizer {name!r} needs the package {package_name}, which is not installed; choose 'adamw', "
                f"'adafactor', 'lion' or 'muon', or run {install_command(package_name)}"
            ) from error
        return getattr(package, cls)(parameters, lr=rate, weight_decay=decay, **options)

    return make


OPTIMIZERS: Mapping[str, Make] = MappingProxyType(
    {
        "adamw": _adamw,
        "adafactor": _adafactor,
        "lion": lambda parameters, rate, decay: Lion(parameters, rate, decay),
        "muon": lambda parameters, rate, decay: Muon(parameters, rate, decay),
        "adamw_8bit": _optional("adamw_8bit", "bitsandbytes.optim", "AdamW8bit"),
        "lion_8bit": _optional("lion_8bit", "bitsandbytes.optim", "Lion8bit"),
        "came": _optional("came", "came_pytorch", "CAME"),
        "prodigy": _optional("prodigy", "prodigyopt", "Prodigy", use_bias_correction=True, safeguard_warmup=True),
        "schedule_free": _optional("schedule_free", "schedulefree", "AdamWScheduleFree"),
    }
)
"""Name -> (parameters, learning rate, weight decay) -> optimizer. Prodigy finds its own rate: give it 1."""

RESTART_CYCLES = 3
"""Cycles of ``cosine_with_restarts``."""

POLYNOMIAL_POWER = 2


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "constant": lambda step, steps: 1.0,
        "linear": lambda step, steps: (steps - step) / steps,
        "cosine": lambda step, steps: _cosine(step / steps),
        "cosine_with_restarts": lambda step, steps: _cosine(RESTART_CYCLES * (step / steps) % 1),
        "polynomial": lambda step, steps: (1 - step / steps) ** POLYNOMIAL_POWER,
    }
)
"""Name of a learning rate schedule -> (step, steps), both after the warm-up, step below steps -> factor of the rate."""


def make_optimizer(name: str, parameters: Parameters, rate: float, decay: float = 0.0) -> torch.optim.Optimizer:
    """The optimizer of a name in ``OPTIMIZERS``.

    Raises:
        ValueError: unknown name, a rate that is not above 0, or a package that is not installed.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; allowed are {', '.join(map(repr, OPTIMIZERS))}")
    if not rate > 0:
        raise ValueError(f"the learning rate must be above 0, got {rate}; 1e-4 is usual for a LoRA")
    return OPTIMIZERS[name](parameters, rate, decay)


def make_schedule(name: str, optimizer: torch.optim.Optimizer, warmup: int, steps: int) -> Any:
    """A learning rate schedule over ``steps`` steps, of which the first ``warmup`` rise from 0.

    None stands for a rate that never changes.

    Raises:
        ValueError: unknown name, or a warm-up that is as long as the run.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown learning rate schedule {name!r}; allowed are {', '.join(map(repr, SCHEDULES))}")
    if not 0 <= warmup < max(steps, 1):
        raise ValueError(f"warm-up of {warmup} steps does not fit a run of {steps}; use less than the run, 0 for none")
    if name == "constant" and not warmup:
        return None
    return torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_factor, name, warmup, steps))


def _factor(name: str, warmup: int, steps: int, step: int) -> float:
    """The learning rate of a step as a part of the full one."""
    if step < warmup:
        return step / warmup
    if step >= steps:  # the rate after the last step, with which no step is taken
        return 1.0 if name == "constant" else 0.0
    return SCHEDULES[name](step - warmup, steps - warmup)
