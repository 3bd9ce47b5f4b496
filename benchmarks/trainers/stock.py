"""ComfyUI's own TrainLoraNode at its defaults, and in float32 without checkpointing, as the other runners train."""

from __future__ import annotations

from typing import Any

from comfy_extras.nodes_train import TrainLoraNode

from .node import TrainerNode, listed
from .task import Task


class Stock:
    """The default mode: every weight is patched in every forward pass."""

    changed: dict[str, Any] = {"training_dtype": "fp32", "lora_dtype": "fp32", "gradient_checkpointing": False}

    def __init__(self, task: Task) -> None:
        self.node = TrainerNode(TrainLoraNode, task, **self.changed)
        self.settings = f"all layers, norms and biases; {listed(self.changed) or 'defaults'}"

    def train(self, steps: int, objective: str) -> None:
        self.node.change(steps=steps)
        self.node.run()


class StockBypass(Stock):
    """Its bypass mode: adapters in forward functions, norms and biases patched."""

    changed = {**Stock.changed, "bypass_mode": True}


class StockAsShipped(Stock):
    """Nothing changed: bf16 training and LoRA, checkpointing, the default mode."""

    changed = {}
