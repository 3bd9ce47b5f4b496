"""Under the host's dynamic patcher every result is what it is under the plain one.

Both patchers hold the same weights. `equal` is the largest difference of a result over its range: 0 is bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import comfy.samplers
import torch
from bench_shared import call
from torch import Tensor

from diff2flow_kit.demo import networks
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

from .cases import Case, free, random_model

STEPS = 4


def rows(case: Case) -> Iterator[dict[str, Any]]:
    results: dict[str, dict[str, Tensor]] = {}
    dynamic = False
    with torch.inference_mode():
        for name, plain in (("plain", True), ("dynamic", False)):
            model = load(case, plain)
            dynamic = getattr(model, "is_dynamic", lambda: False)()
            results[name] = {check: run() for check, run in Checks(case, model).all().items()}
            del model
            free()
    for check, found in results["dynamic"].items():
        equal = difference(results["plain"][check], found)
        yield {"runner": f"{'dynamic' if dynamic else 'plain'}: {check}", "equal": equal}


def load(case: Case, plain: bool) -> Any:
    if case.model == "demo":
        return networks.load_model(networks.WEIGHTS, disable_dynamic=plain)
    return random_model(case.model, disable_dynamic=plain)


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference over the range of what is expected; infinite where something is not finite."""
    span = float(expected.max() - expected.min())
    worst = float((expected - found).abs().max()) / max(span, 1e-12)
    return worst if worst == worst else float("inf")


class Checks:
    """What is done to a MODEL, in an order in which one result could spoil the next."""

    def __init__(self, case: Case, model: Any) -> None:
        self.case, self.model = case, model
        self.lora: Any = None
        self.runs = itertools.count()

    def all(self) -> dict[str, Callable[[], Tensor]]:
        """Name -> the check, in the order in which they run."""
        return {
            "original": lambda: self.sample(self.model),
            "converted": lambda: self.sample(host.convert(self.model)),
            "original again": lambda: self.sample(self.model),
            "converted again": lambda: self.sample(host.convert(self.model)),
            "trained": lambda: self.trained(self.model),
            "trained again": lambda: self.trained(self.model),
            "sampled after training": lambda: self.sample(host.convert(self.model)),
            "with the LoRA": lambda: self.sample(host.convert(self.with_lora())),
            "trained behind a LoRA": lambda: self.trained(self.with_lora()),
            "without the LoRA": lambda: self.sample(host.convert(self.model)),
        }

    def sample(self, model: Any) -> Tensor:
        """Latents of a few Euler steps."""
        positive, negative = self.case.conditionings()[:2]
        sigmas = host.stock_sigmas(model, "simple", STEPS)
        latent = {"samples": torch.zeros_like(self.case.latents()[:1])}
        sampler = comfy.samplers.ksampler("euler")
        return host.sample(model, latent, positive, negative, 4.0, sampler, sigmas, 7)["samples"].float().cpu()

    def trained(self, model: Any) -> Tensor:
        """All weights of a LoRA after a few steps, in one row."""
        latents, entries = self.case.latents(), [one[0] for one in self.case.conditionings()]
        pooled = {name: torch.cat([options[name] for _, options in entries]) for name in entries[0][1]}
        captions = [[torch.cat([text for text, _ in entries]), pooled]]
        self.lora = call(
            D2FTrainLora, model=model, latents={"samples": latents}, positive=captions,
            steps=STEPS, rank=4, batch_size=2, learning_rate=1e-2, save_every=0, preview_every=0,
            run_name=f"patcher_{next(self.runs)}", resume="new",
        )  # fmt: skip
        return torch.cat([self.lora[key].flatten().float() for key in sorted(self.lora)])

    def with_lora(self) -> Any:
        return host.apply_lora(self.model, self.lora, 1.0)
