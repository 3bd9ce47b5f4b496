"""Train UNet and text encoder together: `python demo train_unet --minutes 70`.

    x_t = alpha x0 + sigma eps,   loss = min(snr, 5) / snr * |unet(x_t, t, text) - eps|^2

with t uniform over the 1000 rows of the host's own table (snr = alpha^2 / sigma^2; the min-SNR weight of
arXiv 2303.09556 keeps the many nearly clean rows from dominating). For classifier-free guidance, captions
are replaced by the empty prompt with probability DROP_CAPTION. AdamW with warm-up and a cosine schedule,
bfloat16 autocast; the exponential moving average of the weights is exported. A checkpoint is written every
SAVE_EVERY seconds, so the run can be resumed; creating the file `stop` in the cache folder ends it early.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .make_latents import DEFAULT_CACHE, tokenize
from .train_log import WEIGHTS, Clock, Threads, ema_update, import_host, log, save_half

BATCH, PEAK_LR, WARMUP_STEPS = 64, 1.0e-3, 300
EMA_DECAY, DROP_CAPTION, MIN_SNR = 0.9985, 0.12, 5.0
SAVE_EVERY, LOG_EVERY = 240.0, 100


def init_weights(model: nn.Module, gen: torch.Generator) -> None:
    """Initialise in place, since the host's layers skip it: PyTorch's uniform fan-in for layers, N(0, 0.02)
    for embeddings, ones and zeros for norms, and zeros for the last layer of each residual branch."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding):
            weight.data.normal_(0, 0.02, generator=gen)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            weight.data.fill_(1)
            module.bias.data.zero_()
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(weight[0].numel())
            weight.data.uniform_(-bound, bound, generator=gen)
            if module.bias is not None:
                module.bias.data.uniform_(-bound, bound, generator=gen)


def zero_residual_outputs(unet: nn.Module) -> None:
    """Set the last layer of residual branches and transformers and the last convolution to zero, in place."""
    for name, module in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out", "out.2")):
            for parameter in module.parameters():
                parameter.data.zero_()


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


def loss_weight(snr: Tensor, most: float) -> Tensor:
    """Weight of the eps error at a signal-to-noise ratio; both (B,).

    min(snr, MIN_SNR) / snr is 1 on every noisy row; with most > 1 the weight grows there like that of the x0
    error, 1 / snr, up to `most`. What strong noise decides, above all the position, is then learned sooner.
    """
    return snr.clamp_max(MIN_SNR) / snr * (1 / snr).clamp(1, most)


class Trainer:
    """The two networks, their optimiser, their moving average and the data; `step` does one update."""

    STAGE, ERROR, RESUME = "unet", "eps_mse", "resume.safetensors"  # names in the log, file in the cache folder
    peak_rate = PEAK_LR

    def __init__(self, cache: Path, minutes: float, seed: int, noisy_weight: float, noisy_share: float):
        from .networks import new_text_model, new_unet_model

        self.cache, self.budget, self.seed = cache, 60 * minutes, seed
        self.noisy_weight, self.noisy_share = noisy_weight, noisy_share
        data = load_file(cache / "latents.safetensors")
        self.latents, self.tokens = data["latents"], data["tokens"]
        self.empty = tokenize([""])[0]
        base = new_unet_model()
        self.sigmas = base.model_sampling.sigmas.float()
        self.nets = nn.ModuleDict({"unet": base.diffusion_model, "text": new_text_model()})
        gen = torch.Generator().manual_seed(seed)
        init_weights(self.nets, gen)
        zero_residual_outputs(self.nets["unet"])
        self.nets.requires_grad_(True)
        self.nets["text"].clip_l.logit_scale.requires_grad_(False)
        self.params = [p for p in self.nets.parameters() if p.requires_grad]
        self.opt = torch.optim.AdamW(self.params, PEAK_LR, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = {k: v.detach().clone() for k, v in self.nets.state_dict().items()}
        self.steps, self.clock = 0, Clock()

    def batch(self, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (BATCH, 4, h, w) and tokens (BATCH, MAX_TOKENS), some of them of the empty prompt."""
        rows = torch.randint(0, len(self.latents), (BATCH,), generator=gen)
        which = torch.randint(0, self.tokens.shape[1], (BATCH,), generator=gen)
        tokens = self.tokens[rows, which]
        drop = torch.rand(BATCH, 1, generator=gen) < DROP_CAPTION
        return self.latents[rows].float(), torch.where(drop, self.empty, tokens)

    def step(self) -> tuple[float, float]:
        """Do one update and return the weighted and the unweighted eps loss."""
        gen = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
        x0, tokens = self.batch(gen)
        timestep = torch.randint(0, len(self.sigmas), (BATCH,), generator=gen)
        noisy = torch.rand(BATCH, generator=gen) < self.noisy_share
        timestep = torch.where(noisy, 600 + timestep * 2 // 5, timestep)
        sigma_ve = self.sigmas[timestep].view(-1, 1, 1, 1)
        eps = torch.randn(x0.shape, generator=gen)
        x_dm = (x0 + sigma_ve * eps) / (1 + sigma_ve**2).sqrt()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            context = encode_text(self.nets["text"], tokens)
            out = self.nets["unet"](x_dm, timestep.float(), context=context).float()
        error = (out - eps).square().mean((1, 2, 3))
        snr = sigma_ve.flatten() ** -2
        loss = (error * loss_weight(snr, self.noisy_weight)).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite at step {self.steps}")
        loss.backward()
        self.set_rate()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.opt.zero_grad()
        self.steps += 1
        ema_update(self.average, self.nets, min(EMA_DECAY, (1 + self.steps) / (20 + self.steps)))
        return loss.item(), error.mean().item()

    def set_rate(self) -> None:
        """Set the learning rate: warm-up in steps, times a cosine over the time budget down to 2 % of the peak."""
        done = min(1.0, self.clock() / self.budget)
        rate = min(1.0, (self.steps + 1) / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        for group in self.opt.param_groups:
            group["lr"] = self.peak_rate * rate

    def save(self, folder: Path) -> None:
        """Write a checkpoint for resuming to the cache folder, and the averaged weights in float16 to `folder`."""
        state = {f"net.{k}": v for k, v in self.nets.state_dict().items()}
        state |= {f"ema.{k}": v for k, v in self.average.items()}
        for i, values in self.opt.state_dict()["state"].items():
            state |= {f"opt.{i}.{k}": torch.as_tensor(v) for k, v in values.items()}
        state["clock"] = torch.tensor([float(self.steps), self.clock()], dtype=torch.float64)
        save_file({k: v.contiguous() for k, v in state.items()}, self.cache / "resume.partial")
        (self.cache / "resume.partial").replace(self.cache / self.RESUME)
        self.export(folder)

    def export(self, folder: Path) -> None:
        """Write the averaged weights in float16 to `folder`."""
        for name, file in (("unet", "unet"), ("text", "clip")):
            part = {k[5:]: v for k, v in self.average.items() if k.startswith(name + ".")}
            save_half(part, folder / f"{file}.safetensors")

    def resume(self) -> None:
        """Load the checkpoint in the cache folder."""
        state = load_file(self.cache / self.RESUME)
        self.nets.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
        self.average = {k[4:]: v for k, v in state.items() if k.startswith("ema.")}
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
    stop, saved = trainer.cache / "stop", trainer.clock()
    recent: list[tuple[float, float]] = []
    while trainer.clock() < trainer.budget and not stop.exists():
        threads()
        recent.append(trainer.step())
        if trainer.steps % LOG_EVERY == 0:
            loss, mse = (sum(column) / len(recent) for column in zip(*recent))
            log(
                trainer.STAGE,
                step=trainer.steps,
                seconds=trainer.clock(),
                loss=loss,
                **{trainer.ERROR: mse},
                lr=trainer.opt.param_groups[0]["lr"],
            )
            recent.clear()
        if trainer.clock() - saved > SAVE_EVERY:
            trainer.save(out)
            saved = trainer.clock()
    trainer.save(out)
    log(trainer.STAGE, step=trainer.steps, seconds=trainer.clock(), done=True, images=trainer.steps * BATCH)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_unet", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--noisy-weight", type=float, default=1.0, help="highest loss weight of a very noisy row")
    parser.add_argument("--noisy-share", type=float, default=0.0, help="fraction of samples from rows 600 to 999")
    parser.add_argument("--new-schedule", action="store_true", help="with --resume: restart the time budget")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(argv)
    import_host()
    trainer = Trainer(args.cache, args.minutes, args.seed, args.noisy_weight, args.noisy_share)
    if args.resume:
        trainer.resume()
    if args.new_schedule:
        trainer.clock = Clock()
    run(trainer, args.out, Threads(args.threads))
