"""Flow checkpoints, on the flow twin of the demo model: what Model Report says, and whether LoRAs and reflow work.

probe    Model Report's probe on networks of every kind, labelled rightly or not, with four latents of scenes; and on
         latents that no network can be told by, which it has to refuse. `error` and `next` are those of the reading
         with the least error and of the one after it, `slope_off` the largest deviation of its slope from 1
cyan     LoRA Trainer (Diff2Flow) at its defaults teaches the twin a colour that it has never seen: 200 steps of 8
         latents; sampled with Euler's method at a guidance of 3, NFE counts a pair of calls as one. The metrics are
         those of `demo/adaptation.py`; `none` is the twin without a LoRA
reflow   pairs of the twin (25 Euler steps, guidance 3), and a LoRA that was trained on them; sampled without
         guidance, NFE counts calls. `accuracy` is the share of attributes, of those that a prompt names, that are read
         right, `frechet` the distance to renders
below    the diffusion model read below t_min: what a correction would be worth (`bench_shared/flow/below.py`)

With `--parts`, the rows of the other parts stay in the results as they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import comfy.utils
import torch
from bench_shared import (
    RESULTS,
    Part,
    Rows,
    add_common_arguments,
    call,
    kept,
    output_in,
    some_scenes,
    with_options,
    with_other_parts,
)
from bench_shared.flow import below
from bench_shared.flow.outputs import as_v, as_x0
from bench_shared.flow.probing import WRONG, find, row_of
from bench_shared.flow.report import TABLES, markdown
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from torch import Tensor

from devtools.console import say
from diff2flow_kit.demo import adaptation, evaluate, networks, reader, render
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.reflow.generate_pairs import D2FReflowPairs
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

CFG, SIDE, ROWS = 3.0, networks.IMAGE_SIZE, 4
RECIPE = {
    "targets": "all", "full_ends": True, "rank": 64, "learning_rate": 2e-3, "lr_schedule": "cosine",
    "ema": 0.99, "precision": "bf16", "density": "u_shaped", "batch_size": 32,
}  # fmt: skip
QUIET = {"save_every": 0, "preview_every": 0, "resume": "new"}
PARTS = ("probe", "cyan", "reflow", "below")
# Streams of random numbers: scenes of the probe, of the pairs, of the evaluation, to compare with, below t_min.
_PROBE, _PAIRS, _ASK, _COMPARE, _BELOW = 11, 12, 13, 14, 15
__all__ = ["add_arguments", "markdown", "parts", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "flow")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cyan-steps", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=96, help="of the training set in the new colour")
    parser.add_argument("--asked", type=int, nargs=2, default=[72, 24], help="prompts with the new colour, without it")
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 10, 25])
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--pair-steps", type=int, default=25)
    parser.add_argument("--reflow-steps", type=int, default=400)
    parser.add_argument("--images", type=int, default=256, help="that reflow is evaluated on")
    parser.add_argument("--below", type=int, nargs=2, default=[192, 8], help="scenes, and draws of noise for each")


def parts(options: argparse.Namespace) -> list[str]:
    """Those that are run; the results keep the others."""
    return list(options.parts)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(seeds=[0], cyan_steps=2, scenes=8, asked=[4, 2], nfe=[2], pairs=8, pair_steps=2)
        vars(options).update(reflow_steps=2, images=8, below=[8, 1])
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        found = [bench.kept(name, seed) for name in options.parts for seed in options.seeds]
    rows = [row for part in found for row in part["rows"]]
    if options.quick:
        return rows
    rows = sorted(with_other_parts("flow", rows), key=lambda row: list(TABLES).index(row["part"]))
    (RESULTS / "flow.md").write_text(markdown(rows), encoding="utf-8")
    return rows


class Bench:
    """The models, and the parts of the benchmark."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.eps, self.clip, self.vae = networks.load_demo_checkpoint()
        self.twin = networks.load_model(networks.WEIGHTS, "flow")
        self.plain_twin = networks.load_model(networks.WEIGHTS, "flow, loaded as eps")
        self.negative = evaluate.encode_prompts(self.clip, [""])

    def kept(self, name: str, seed: int) -> Part:
        """Part of the result, from the work folder if it was finished before."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "work", "quick", "parts")}
        make = {"probe": self.probe, "cyan": self.cyan, "reflow": self.reflow, "below": self.below}[name]
        part = kept(
            self.options.work, f"{name}-{seed}", [wanted, RECIPE], lambda: {"rows": list(make(seed)), "shown": {}}
        )
        say(f"{time.monotonic() - self.start:6.0f} s  {name}, seed {seed}")
        return part

    def models(self) -> dict[str, tuple[Any, str, bool]]:
        """Name -> MODEL, what its network returns, whether it is labelled so."""
        v, x0, shifted = as_v(self.eps), as_x0(self.eps), ModelSamplingSD3().patch
        labelled = ModelSamplingDiscrete().patch
        return {
            "eps": (self.eps, "eps", True),
            "v": (labelled(v, "v_prediction", False)[0], "v", True),
            "v, zero terminal SNR": (labelled(v, "v_prediction", True)[0], "v", True),
            "v, loaded as eps": (v, "v", False),
            "x0": (labelled(x0, "x0", False)[0], "x0", True),
            "x0, loaded as eps": (x0, "x0", False),
            "eps, labelled v": (labelled(self.eps, "v_prediction", False)[0], "eps", False),
            "converted eps": (host.convert(self.eps), "eps", True),
            "flow": (self.twin, "flow", True),
            "flow, loaded as eps": (self.plain_twin, "flow", False),
            "flow behind ModelSamplingSD3, shift 3": (shifted(self.plain_twin, 3.0)[0], "flow", True),
        }

    def probe(self, seed: int) -> Iterator[dict[str, Any]]:
        """A row for each network and prompt, and for each network and kind of wrong latents."""
        drawn = some_scenes(_PROBE, ROWS, seed)
        latents = self.vae.encode(render.render_batch(drawn)[0])
        prompts = evaluate.prompts_for(drawn)[0]
        texts = {"captions": evaluate.encode_prompts(self.clip, prompts), "empty": self.negative}
        for name, (model, is_a, label) in self.models().items():
            for text, positive in texts.items():
                found = find(model, positive, latents, seed)
                agrees = found.name == host.belief_of(model).name
                yield row_of(
                    found, "probe", seed, network=name, prompt=text, right=found.name == is_a and agrees == label
                )
            for what, change in WRONG.items():
                found = find(model, texts["captions"], change(latents), seed)
                yield row_of(found, "refuse", seed, network=name, latents=what, right=not found.name)

    def cyan(self, seed: int) -> Iterator[dict[str, Any]]:
        """A row for each number of calls, before and after the training."""
        options, task = self.options, adaptation.Evaluation
        data = adaptation.training_set(self.clip, self.vae, "color", options.scenes)
        asked = task("color", *options.asked, references=32 if options.quick else 1024)
        positive = evaluate.encode_prompts(self.clip, asked.prompts)
        given = {each.id: [each.default] for each in D2FTrainLora.define_schema().inputs if hasattr(each, "default")}
        widgets = {"steps": options.cyan_steps, "learning_rate": 1e-3, "batch_size": 8, "seed": seed, **QUIET}
        given |= {name: [value] for name, value in with_options(D2FTrainLora, widgets).items()}
        given["model"] = [self.twin]
        given["latents"], given["run_name"] = [{"samples": data.latents}], [f"bench_flow_cyan_{seed}"]
        given["positive"] = [[[row[None], {}]] for row in data.context]
        lora = D2FTrainLora.PREPARE_CLASS_CLONE(None).execute(**given).args[0]
        for name, model in (("none", self.twin), ("flow", self.with_lora(lora))):
            for nfe in options.nfe:
                images = self.images(model, positive, nfe, CFG, seed)
                metrics = {key: round(value, 3) for key, value in asked.measure(images).items()}
                yield {"part": "cyan", "method": name, "nfe": nfe, "seed": seed, **metrics}

    def reflow(self, seed: int) -> Iterator[dict[str, Any]]:
        """A row for the teacher, and for each number of calls before and after reflow."""
        options = self.options
        prompts = evaluate.prompts_for(some_scenes(_PAIRS, options.pairs))[0]
        pairs = call(
            D2FReflowPairs, model=self.twin, clip=self.clip, negative=self.negative, prompts="\n".join(prompts),
            name=f"bench_flow_{options.pairs}_{options.pair_steps}", count=options.pairs, width=SIDE, height=SIDE,
            steps=options.pair_steps, cfg=CFG, batch_size=32, seed=0, storage="fp32",
        )  # fmt: skip
        lora = call(D2FTrainLora, model=self.twin, pairs=pairs, run_name=f"bench_flow_reflow_{seed}", seed=seed,
                    steps=options.reflow_steps, warmup_steps=options.reflow_steps // 40, **RECIPE, **QUIET)  # fmt: skip
        texts, wanted = evaluate.prompts_for(some_scenes(_ASK, options.images))
        positive = evaluate.encode_prompts(self.clip, texts)
        renders = reader.features(render.render_batch(some_scenes(_COMPARE, 32 if options.quick else 1024))[0])
        views = [("teacher", self.twin, options.pair_steps, CFG)]
        views += [("none", self.twin, nfe, 1.0) for nfe in (1, 2, 4)]
        views += [("reflow", self.with_lora(lora), nfe, 1.0) for nfe in (1, 2, 4)]
        for name, model, nfe, cfg in views:
            images = self.images(model, positive, nfe, cfg, seed)
            right = [got[key] == word for got, words in zip(reader.read_attributes(images), wanted)
                     for key, word in words.items()]  # fmt: skip
            yield {"part": "reflow", "method": name, "nfe": nfe if cfg == 1 else 2 * nfe, "seed": seed,
                   "accuracy": round(sum(right) / len(right), 4),
                   "frechet": round(evaluate.frechet_distance(reader.features(images), renders), 2)}  # fmt: skip

    def below(self, seed: int) -> Iterator[dict[str, Any]]:
        """A row for the latents, and for each network and time below t_min."""
        scenes, draws = self.options.below
        drawn = some_scenes(_BELOW, scenes, seed)
        latents = torch.cat([self.vae.encode(images) for images in render.render_batch(drawn)[0].split(32)])
        x0, model = host.probe_latents(self.eps, latents), host.convert(self.eps)
        texts = evaluate.encode_prompts(self.clip, evaluate.prompts_for(drawn)[0])
        rows = [*below.ideal(x0, host.alignment_of(model).t_min), *below.demo(model, x0, texts, seed, draws)]
        yield from ({"part": "below", "seed": seed, **row} for row in rows)

    def with_lora(self, lora: Any) -> Any:
        """The twin with a LoRA."""
        return D2FLoadLora.execute(self.twin, "none", 1.0, lora).args[0]

    def images(self, model: Any, positive: Any, steps: int, cfg: float, seed: int) -> Tensor:
        """One image a prompt, (B, 96, 96, 3), by Euler's method with equal steps; the same noise for every model."""
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, steps + 1)
        generator, found, count = torch.Generator().manual_seed(seed), [], len(positive[0][0])
        noise = torch.randn(count, 4, SIDE // 8, SIDE // 8, generator=generator)
        for rows in torch.arange(count).split(32):
            prompts = [[cross[rows], {"pooled_output": extra["pooled_output"][rows]}] for cross, extra in positive]
            latents = comfy.sample.sample_custom(
                model, noise[rows], cfg, sampler, sigmas, prompts, self.negative, torch.zeros_like(noise[rows]),
                disable_pbar=True, seed=seed,
            )  # fmt: skip
            found.append(self.vae.decode(latents).float().cpu())
        return torch.cat(found)
