"""Train UNet and text encoder together: `python demo train_unet --minutes 70`, with `--world second` those of it.

The objective is eps of `objectives`. For classifier-free guidance, captions are replaced by the empty prompt with
probability DROP_CAPTION. AdamW with warm-up and a cosine schedule, bfloat16 autocast where that is fast; the
exponential moving average of the weights is exported. A checkpoint is written every SAVE_EVERY seconds, so the run
can be resumed; creating the file `stop` in the cache folder ends it early. Where the cache is gone, `--start FOLDER`
goes on from exported weights with a new optimiser. `--text FILE` starts from a text encoder that has been trained.
"""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .initial import init_weights, zero_residual_outputs
from .make_latents import tokenize
from .objectives import OBJECTIVES, Noise
from .train_log import Clock, Threads, ema_update, half_precision, import_host, load_half, log, save_half
from .worlds import WORLDS, World

PEAK_LR, WARMUP_STEPS = 1.0e-3, 300
EMA_DECAY, DROP_CAPTION = 0.9985, 0.12
SAVE_EVERY, LOG_EVERY = 240.0, 100


def encode_text(text: nn.Module, tokens: Tensor) -> Tensor:
    """The last hidden state of the host's CLIPTextModel, without its in-place additions.

    text: DemoTextModel; tokens: (B, MAX_TOKENS) integers. Returns (B, MAX_TOKENS, CONTEXT_DIM).
    """
    from comfy.ldm.modules.attention import attention_pytorch

    model = text.clip_l.transformer.text_model
    x = model.embeddings(tokens.long())
    count = tokens.shape[1]
    mask = torch.full((count, count), -torch.finfo(x.dtype).max, device=x.device).triu_(1)
    for layer in model.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention_pytorch).float()
        x = x + layer.mlp(layer.layer_norm2(x)).float()
    return model.final_layer_norm(x)


@dataclass(frozen=True)
class Settings:
    """What a run is; `minutes` is its time budget, including the time before it was resumed."""

    world: World
    cache: Path
    minutes: float
    seed: int
    prediction: str = "eps"
    noise: Noise = field(default_factory=Noise)
    rate: float = PEAK_LR
    batch: int = 64
    device: str = "cpu"


class Trainer:
    """The networks, their optimiser, their moving average and the data; `step` does one update."""

    stage, files = "unet", (("unet", "unet"), ("text", "clip"))  # name in the log; networks and their files

    def __init__(self, settings: Settings):
        from .networks import new_text_model, new_unet_model

        self.settings, self.device = settings, torch.device(settings.device)
        data = load_file(settings.cache / "latents.safetensors")
        self.latents, self.tokens = data["latents"], data["tokens"]
        self.empty = tokenize([""], settings.world)[0]
        config = settings.world.module("networks").CONFIG
        base = new_unet_model(config=config)
        self.sigmas = base.model_sampling.sigmas.float()
        self.nets = nn.ModuleDict({"unet": base.diffusion_model, "text": new_text_model(config)})
        gen = torch.Generator().manual_seed(settings.seed)
        init_weights(self.nets, gen)
        zero_residual_outputs(self.nets["unet"])
        self.nets.to(self.device)
        self.freeze()
        self.restart()

    def freeze(self) -> None:
        """Choose what is trained: all but the unused scale of the text encoder."""
        self.nets.requires_grad_(True)
        self.nets["text"].clip_l.logit_scale.requires_grad_(False)

    def restart(self) -> None:
        """A new optimiser, moving average and clock, for the weights as they are."""
        self.params = [p for p in self.nets.parameters() if p.requires_grad]
        self.opt = torch.optim.AdamW(self.params, self.settings.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = {k: v.detach().clone() for k, v in self.nets.state_dict().items()}
        self.steps, self.clock = 0, Clock()

    def batch(self, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (B, 4, h, w) and tokens (B, length), some of them of the empty prompt."""
        count = self.settings.batch
        rows = torch.randint(0, len(self.latents), (count,), generator=gen)
        which = torch.randint(0, self.tokens.shape[1], (count,), generator=gen)
        tokens = self.tokens[rows, which]
        drop = torch.rand(count, 1, generator=gen) < DROP_CAPTION
        return self.latents[rows].float(), torch.where(drop, self.empty, tokens)

    def step(self) -> tuple[float, float]:
        """Do one update and return the weighted and the unweighted loss."""
        gen = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.steps)
        x0, tokens = self.batch(gen)
        sample = OBJECTIVES[self.settings.prediction](x0, self.sigmas, self.settings.noise, gen)
        state, timestep, target, weight = (values.to(self.device) for values in sample)
        with half_precision(self.device):
            context = encode_text(self.nets["text"], tokens.to(self.device))
            out = self.nets["unet"](state, timestep, context=context).float()
        error = (out - target).square().mean((1, 2, 3))
        loss = (error * weight).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite at step {self.steps}")
        self.update(loss)
        return loss.item(), error.mean().item()

    def update(self, loss: Tensor) -> None:
        """One step of the optimiser and of the moving average."""
        loss.backward()
        self.set_rate()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.opt.zero_grad()
        self.steps += 1
        ema_update(self.average, self.nets, min(EMA_DECAY, (1 + self.steps) / (20 + self.steps)))

    def set_rate(self) -> None:
        """Set the learning rate: warm-up in steps, times a cosine over the time budget down to 2 % of the peak."""
        done = min(1.0, self.clock() / (60 * self.settings.minutes))
        rate = min(1.0, (self.steps + 1) / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        for group in self.opt.param_groups:
            group["lr"] = self.settings.rate * rate

    @property
    def checkpoint(self) -> Path:
        """The file in the cache folder from which a run is resumed."""
        return self.settings.cache / f"resume_{self.stage}.safetensors"

    def save(self, folder: Path) -> None:
        """Write a checkpoint for resuming to the cache folder, and the averaged weights in float16 to `folder`."""
        state = {f"net.{k}": v for k, v in self.nets.state_dict().items()}
        state |= {f"ema.{k}": v for k, v in self.average.items()}
        for i, values in self.opt.state_dict()["state"].items():
            state |= {f"opt.{i}.{k}": torch.as_tensor(v) for k, v in values.items()}
        state["clock"] = torch.tensor([float(self.steps), self.clock()], dtype=torch.float64)
        partial = self.checkpoint.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in state.items()}, partial)
        partial.replace(self.checkpoint)
        for name, file in self.files:
            part = {k.removeprefix(f"{name}."): v for k, v in self.average.items() if k.startswith(f"{name}.")}
            save_half(part, folder / f"{file}.safetensors")

    def load(self, folder: Path) -> None:
        """Start from exported weights."""
        self.load_part("unet", folder / "unet.safetensors")
        self.load_part("text", folder / "clip.safetensors")

    def load_part(self, name: str, file: Path) -> None:
        """Start from the exported weights of the network `name`."""
        self.nets[name].load_state_dict(load_half(file))
        self.restart()

    def resume(self) -> None:
        """Load the checkpoint in the cache folder."""
        state = load_file(self.checkpoint)
        self.nets.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
        self.average = {k[4:]: v.to(self.device) for k, v in state.items() if k.startswith("ema.")}
        opt = self.opt.state_dict()
        opt["state"] = {}
        for key, value in state.items():
            if key.startswith("opt."):
                _, index, name = key.split(".")
                opt["state"].setdefault(int(index), {})[name] = value
        self.opt.load_state_dict(opt)
        self.steps, seconds = int(state["clock"][0]), float(state["clock"][1])
        self.clock = Clock(seconds)


def run(trainer: Trainer, out: Path, threads: Threads) -> None:
    """Train until the time is up or the file `stop` exists, logging and saving at intervals."""
    settings, log_file = trainer.settings, trainer.settings.world.log
    stop, saved = settings.cache / "stop", trainer.clock()
    recent: list[tuple[float, float]] = []
    while trainer.clock() < 60 * settings.minutes and not stop.exists():
        threads()
        recent.append(trainer.step())
        if trainer.steps % LOG_EVERY == 0:
            loss, mse = (sum(column) / len(recent) for column in zip(*recent))
            figures = {"loss": loss, f"{settings.prediction}_mse": mse, "lr": trainer.opt.param_groups[0]["lr"]}
            log(trainer.stage, log_file, step=trainer.steps, seconds=trainer.clock(), **figures)
            recent.clear()
        if trainer.clock() - saved > SAVE_EVERY:
            trainer.save(out)
            saved = trainer.clock()
    trainer.save(out)
    images = trainer.steps * settings.batch
    log(trainer.stage, log_file, step=trainer.steps, seconds=trainer.clock(), done=True, images=images)


def add_common_arguments(parser: argparse.ArgumentParser, rate: float, noisy_share: float) -> None:
    """What `settings_of` reads of the command line, with these defaults."""
    parser.add_argument("--world", choices=list(WORLDS), default="first")
    parser.add_argument("--cache", type=Path, help="folder of make_latents")
    parser.add_argument("--out", type=Path, help="folder for the weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--noisy-share", type=float, default=noisy_share, help="fraction of samples of strong noise")
    parser.add_argument("--new-schedule", action="store_true", help="with --resume: restart the time budget")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the cache")


def settings_of(args: argparse.Namespace, prediction: str, noisy_weight: float = 1.0) -> Settings:
    """The settings of a command line."""
    world, noise = WORLDS[args.world], Noise(args.noisy_share, noisy_weight)
    cache = args.cache or world.cache
    return Settings(world, cache, args.minutes, args.seed, prediction, noise, args.rate, args.batch, args.device)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_unet", description=__doc__)
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--noisy-weight", type=float, default=1.0, help="highest loss weight of a very noisy row")
    parser.add_argument("--start", type=Path, help="folder of exported weights to start from")
    parser.add_argument("--text", type=Path, help="weights of the text encoder to start from")
    add_common_arguments(parser, PEAK_LR, 0.0)
    args = parser.parse_args(argv)
    import_host()
    trainer = Trainer(settings_of(args, "eps", args.noisy_weight))
    if args.start:
        trainer.load(args.start)
    if args.text:
        trainer.load_part("text", args.text)
    if args.resume:
        trainer.resume()
    if args.new_schedule:
        trainer.clock = Clock()
    run(trainer, args.out or trainer.settings.world.weights, Threads(args.threads))
