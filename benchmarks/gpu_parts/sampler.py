"""Our sampler, the stock KSampler and bare calls of the network, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import comfy.sample
import torch

from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.sampling.ode import OdeSampler
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas

from .cases import Case
from .meter import launches_and_waits, ratio, take_turns

CFG = 4.0


def rows(case: Case) -> Iterator[dict[str, Any]]:
    steps, rounds = (2, 1) if case.quick else (20, 5)
    with torch.inference_mode():
        model = case.load()
        for batch in (1,) if case.quick else (1, 4):
            runners = runners_of(replace(case, batch=batch), model, steps)
            times = take_turns(runners, rounds)
            for name in runners:
                compared = {f"vs_{other}": ratio(times[name], times[other]) for other in ("stock", "bare")}
                yield {
                    "runner": name, "batch": batch, "steps_per_s": round(steps / median(times[name]), 2),
                    **launches_and_waits(runners[name], steps), **(compared if name == "ours" else {}),
                }  # fmt: skip


def runners_of(case: Case, model: Any, steps: int) -> dict[str, Any]:
    """Name -> a run of `steps` Euler steps under guidance."""
    latent = case.latents()[:1].repeat(case.batch, 1, 1, 1)
    positive, negative = case.conditionings()[:2]
    empty = torch.zeros_like(latent)
    flow = host.convert(model)
    sigmas = flow_sigmas(flow, {"grid": "stock scheduler", "scheduler": "simple"}, steps)
    sampler = host.make_sampler(OdeSampler("euler"))

    def stock() -> Any:
        return comfy.sample.sample(model, latent, steps, CFG, "euler", "simple", positive, negative, empty,
                                   disable_pbar=True, seed=1)  # fmt: skip

    def ours() -> Any:
        return comfy.sample.sample_custom(flow, latent, CFG, sampler, sigmas, positive, negative, empty,
                                          disable_pbar=True, seed=1)  # fmt: skip

    with host.training(model) as network:  # of which the network stays usable
        x = torch.cat([latent, latent]).to(network.device)
        conditions = [network.condition(each, tuple(latent.shape[1:])) for each in (positive, negative)]
    joined = {
        name: torch.cat([one[name].expand(case.batch, *one[name].shape[1:]) for one in conditions]).to(network.device)
        for name in conditions[0]
    }

    def bare() -> None:
        for timestep in torch.linspace(999, 0, steps).tolist():
            network(x, x.new_full((len(x),), timestep), joined)

    return {"bare": bare, "stock": stock, "ours": ours}
