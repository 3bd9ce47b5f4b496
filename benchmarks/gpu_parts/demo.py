"""The demo LoRA of the colour cyan, trained on this device, and its accuracy beside the CPU's.

The CPU's is the mean of `benchmarks/results/objectives.json` for the same settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import mean
from typing import Any

import torch
from bench_shared import RESULTS, call

from diff2flow_kit.demo import adaptation, evaluate, networks
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.sampling.ode import OdeSampler
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

from .cases import Case

NFE, CFG, STEPS = 10, 3.0, 200


def rows(case: Case) -> Iterator[dict[str, Any]]:
    steps, scenes, images = (2, 8, (4, 2)) if case.quick else (STEPS, 96, (72, 24))
    with torch.inference_mode():
        model, clip, vae = networks.load_demo_checkpoint()
        data = adaptation.training_set(clip, vae, "color", scenes)
        evaluation = adaptation.Evaluation("color", *images, references=32 if case.quick else 1024)
        positive, negative = (evaluate.encode_prompts(clip, texts) for texts in (evaluation.prompts, [""]))
        lora = call(D2FTrainLora, model=model, latents={"samples": data.latents}, positive=[[data.context, {}]],
                    steps=steps, batch_size=8, learning_rate=1e-3, save_every=0, preview_every=0)  # fmt: skip
        flow = D2FLoadLora.execute(model, "none", 1.0, lora).result[0]
        latent = {"samples": torch.zeros(len(evaluation.prompts), *data.latents.shape[1:])}
        sampler, sigmas = host.make_sampler(OdeSampler("euler")), flow_sigmas(flow, {"grid": "uniform"}, NFE)
        answer = host.sample(flow, latent, positive, negative, CFG, sampler, sigmas, 0)
        metrics = evaluation.measure(host.decode(vae, answer["samples"]))
    yield {"runner": "ours", "batch": 8, "accuracy": round(metrics["accuracy"], 4)}
    yield {"runner": "ours_on_cpu", "batch": 8, "accuracy": accuracy_on_the_cpu()}


def accuracy_on_the_cpu() -> float:
    """As committed: mean over seeds."""
    found = json.loads((RESULTS / "objectives.json").read_text(encoding="utf-8"))["rows"]
    wanted = {"method": "diff2flow", "budget": STEPS, "nfe": NFE}
    return round(mean(row["accuracy"] for row in found if wanted.items() <= row.items()), 4)
