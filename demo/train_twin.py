"""Train a twin of the demo model of another prediction: `python demo train_twin --prediction flow --minutes 50`.

The UNet starts from the weights of the eps-prediction model; text encoder and autoencoder are the same and stay as they
are. Objectives: flow or v of `objectives`. Optimiser, schedule, moving average, captions and checkpoints are those of
`train_unet`. The weights go to `unet_flow.safetensors` or `unet_v.safetensors`.
"""

import argparse

from .train_log import Clock, Threads, import_host
from .train_unet import Settings, Trainer, add_common_arguments, run, settings_of


class TwinTrainer(Trainer):
    """Trains the UNet alone."""

    def __init__(self, settings: Settings):
        self.stage = f"unet_{settings.prediction}"
        self.files = (("unet", self.stage),)
        super().__init__(settings)
        self.load(settings.world.weights)

    def freeze(self) -> None:
        """Train the UNet alone."""
        self.nets["unet"].requires_grad_(True)
        self.nets["text"].requires_grad_(False)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_twin", description=__doc__)
    parser.add_argument("--prediction", choices=["flow", "v"], default="flow")
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=31)
    add_common_arguments(parser, 1.0e-3, 0.5)
    args = parser.parse_args(argv)
    import_host()
    trainer = TwinTrainer(settings_of(args, args.prediction))
    if args.resume:
        trainer.resume()
    if args.new_schedule:
        trainer.clock = Clock()
    run(trainer, args.out or trainer.settings.world.weights, Threads(args.threads))
