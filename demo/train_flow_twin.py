"""Train the flow twin of the demo model: `python demo train_flow_twin --minutes 50`.

    x = s eps + (1 - s) x0,   loss = |unet(x, 1000 s, text) - (eps - x0)|^2

This is the convention of flow checkpoints (SD3, and SDXL and SD1.5 models that were fine-tuned as flow models): the
state goes in unscaled, s = 1 is noise, and the output is eps - x0 [arXiv 2403.03206]. The UNet starts from the weights
of the eps-prediction model; text encoder and autoencoder are the same and stay as they are. A share of the levels comes
from [NOISY_FROM, 1], as the position of the solid is decided there, and a few are s = 1 itself, where sampling starts.
Optimiser, schedule, moving average, captions and checkpoints are those of `train_unet`.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .make_latents import DEFAULT_CACHE
from .train_log import WEIGHTS, Clock, Threads, ema_update, import_host, save_half
from .train_unet import BATCH, EMA_DECAY, Trainer, encode_text, run

NOISY_FROM, PURE_NOISE, MULTIPLIER = 0.7, 0.02, 1000.0


class TwinTrainer(Trainer):
    """Trains the UNet alone, as a flow model; `step` does one update."""

    STAGE, ERROR, RESUME = "unet_flow", "flow_mse", "resume_flow.safetensors"

    def __init__(self, cache: Path, minutes: float, seed: int, noisy_share: float, rate: float, device: str):
        super().__init__(cache, minutes, seed, 1.0, noisy_share)
        self.device, self.peak_rate = torch.device(device), rate
        self.text = self.nets.pop("text").requires_grad_(False).to(self.device)
        self.text.load_state_dict(load_half(WEIGHTS / "clip.safetensors"))
        self.nets["unet"].load_state_dict(load_half(WEIGHTS / "unet.safetensors"))
        self.nets.to(self.device)
        self.params = list(self.nets.parameters())
        self.opt = torch.optim.AdamW(self.params, rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = {k: v.detach().clone() for k, v in self.nets.state_dict().items()}

    def levels(self, gen: torch.Generator) -> Tensor:
        """Noise levels s (BATCH,) in [0, 1]."""
        s = torch.rand(BATCH, generator=gen)
        noisy = torch.rand(BATCH, generator=gen) < self.noisy_share
        s = torch.where(noisy, NOISY_FROM + (1 - NOISY_FROM) * s, s)
        return torch.where(torch.rand(BATCH, generator=gen) < PURE_NOISE, 1.0, s)

    def step(self) -> tuple[float, float]:
        """Do one update and return the loss, twice, as it is not weighted."""
        gen = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
        x0, tokens = self.batch(gen)
        s, eps = self.levels(gen), torch.randn(x0.shape, generator=gen)
        x0, tokens, s, eps = (v.to(self.device) for v in (x0, tokens, s, eps))
        s_b = s.view(-1, 1, 1, 1)
        x = s_b * eps + (1 - s_b) * x0
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                context = encode_text(self.text, tokens)
            out = self.nets["unet"](x, MULTIPLIER * s, context=context).float()
        loss = (out - (eps - x0)).square().mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite at step {self.steps}")
        loss.backward()
        self.set_rate()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.opt.zero_grad()
        self.steps += 1
        ema_update(self.average, self.nets, min(EMA_DECAY, (1 + self.steps) / (20 + self.steps)))
        return loss.item(), loss.item()

    def export(self, folder: Path) -> None:
        """Write the averaged weights in float16 to `folder`."""
        save_half({k.removeprefix("unet."): v for k, v in self.average.items()}, folder / "unet_flow.safetensors")

    def resume(self) -> None:
        """Load the checkpoint in the cache folder."""
        super().resume()
        self.average = {k: v.to(self.device) for k, v in self.average.items()}


def load_half(path: Path) -> dict[str, Tensor]:
    """The state dict of a float16 file in float32."""
    return {k: v.float() for k, v in load_file(path).items()}


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_flow_twin", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of make_latents")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--rate", type=float, default=1.0e-3, help="highest learning rate")
    parser.add_argument("--noisy-share", type=float, default=0.5, help=f"share of levels from [{NOISY_FROM}, 1]")
    parser.add_argument("--new-schedule", action="store_true", help="with --resume: restart the time budget")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(argv)
    import_host()
    trainer = TwinTrainer(args.cache, args.minutes, args.seed, args.noisy_share, args.rate, args.device)
    if args.resume:
        trainer.resume()
    if args.new_schedule:
        trainer.clock = Clock()
    run(trainer, args.out, Threads(args.threads))
