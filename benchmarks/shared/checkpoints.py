"""The demo checkpoint that a benchmark runs on: the eps network, or its v twin, of the same data, text encoder and VAE.

What is measured on one network says little about another prediction type, so benchmarks take `--model`; results and
finished parts of the twin have names of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diff2flow_kit.demo import networks

MODELS = {
    "eps": networks.DemoModel("unet", networks.DemoConfig),
    "v": networks.DemoModel("unet_v", networks.VDemoConfig),
}
"""Prediction type -> the demo model that has it."""


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Which network."""
    parser.add_argument("--model", choices=list(MODELS), default="eps", help="prediction type of the demo model; v is "
                        "the twin that `python dev.py python demo train_twin --prediction v` makes")  # fmt: skip


def load_checkpoint(prediction: str, weights: Path = networks.WEIGHTS) -> tuple:
    """(MODEL, CLIP, VAE) of the demo model with that prediction type. Raises ValueError if nobody has trained it."""
    model = MODELS[prediction]
    file = weights / f"{model.file}.safetensors"
    if not file.is_file():
        raise ValueError(
            f"the demo model of {prediction}-prediction is not there ({file.name} of demo/weights); make it with "
            f"`python dev.py python demo train_twin --prediction {prediction} --minutes 50`, or take --model eps"
        )
    return networks.load_demo_checkpoint(weights, model)


def named(name: str, options: argparse.Namespace) -> str:
    """Name of the results: the benchmark's own on the eps network, `NAME_v` on the twin."""
    return name if options.model == "eps" else f"{name}_{options.model}"
