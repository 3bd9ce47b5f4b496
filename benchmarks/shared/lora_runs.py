"""LoRAs of LoRA Trainer (Diff2Flow) and of ComfyUI's own TrainLoraNode, on the same latents and captions.

Budgets are steps of one run: ours goes on where it stopped, of the stock trainer snapshots are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from bench_shared import with_options
from comfy_extras.nodes_train import TrainLoraNode
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

INTEGER: Mapping[str, Any] = MappingProxyType({"objective": "diff2flow", "density": "timestep"})
"""The control that stands for other Diff2Flow losses: the error of the velocity, but at the integer timesteps that a
diffusion trainer draws, uniformly, so that no t is below t_min and none between two rows."""
WIDGETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "diff2flow": {"objective": "diff2flow"},
        "diffusion": {"objective": "diffusion", "density": "timestep"},
        "naive_fm": {"objective": "naive_fm"},
        "integer_timesteps": INTEGER,
    }
)
"""What is trained with our node: name -> its widgets; the others have the node's default."""
STOCK = "stock"
_QUIET = {"save_every": 0, "preview_every": 0}


@dataclass(frozen=True)
class LoraRuns:
    """A model and what it learns.

    Attributes:
        model: MODEL.
        latents, context: (N, C, h, w) and encoded captions (N, tokens, width).
        batch: items per step.
    """

    model: Any
    latents: Tensor
    context: Tensor
    batch: int

    def budgets(self, name: str, run_name: str, budgets: Sequence[int], **widgets: Any) -> Iterator[tuple[int, Any]]:
        """(budget, LORA_MODEL) of a run, ascending; ``name`` is STOCK or one of WIDGETS.

        ``widgets``: learning_rate and seed, and rank if not the default.
        """
        if name == STOCK:
            yield from self._stock(sorted(budgets), **widgets)
            return
        for budget in sorted(budgets):
            yield budget, self.ours(name, steps=budget, run_name=run_name, resume="auto", **widgets)

    def ours(self, name: str, **widgets: Any) -> Any:
        """What LoRA Trainer (Diff2Flow) gives."""
        return self._call(D2FTrainLora, batch_size=self.batch, **WIDGETS[name], **_QUIET, **widgets)

    def _stock(self, budgets: list[int], **widgets: Any) -> Iterator[tuple[int, Any]]:
        """Snapshots of one run of TrainLoraNode: float32, no checkpointing, one item a forward pass.

        With more it gives every item of the batch each caption of the batch and takes the mean of the answers.
        """
        taken: list[list[Tensor]] = []

        def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            taken.append([p.detach().clone() for p in optimizer.param_groups[0]["params"]])

        with Steps(budgets, look):
            lora = self._call(
                TrainLoraNode, steps=budgets[-1], batch_size=1, training_dtype="fp32", lora_dtype="fp32",
                grad_accumulation_steps=self.batch, gradient_checkpointing=False, **widgets,
            )  # fmt: skip
        for budget, tensors in zip(budgets, taken, strict=True):
            yield budget, dict(zip(lora, tensors, strict=True))

    def _call(self, node: Any, **inputs: Any) -> Any:
        """First output of a trainer node, called as the host calls it: inputs as lists, the rest at their defaults."""
        given = {each.id: [each.default] for each in node.define_schema().inputs if hasattr(each, "default")}
        inputs = with_options(node, inputs)
        unknown = inputs.keys() - given.keys() - {"options"}
        if unknown:
            raise ValueError(f"{node.__name__} has no input {', '.join(sorted(unknown))}")
        given |= {name: [value] for name, value in inputs.items()}
        given |= {"model": [self.model], "latents": [{"samples": self.latents}]}
        given["positive"] = [[[row[None], {}]] for row in self.context]
        return node.PREPARE_CLASS_CLONE(None).execute(**given).args[0]


class Steps:
    """`with Steps(counts, look):` calls `look(optimizer, ...)` after those steps of the optimizer, counted from 1."""

    def __init__(self, counts: Sequence[int], look: Any) -> None:
        self.counts, self.look, self.step = counts, look, 0

    def __enter__(self) -> None:
        self.hook = register_optimizer_step_post_hook(self.after)

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def after(self, *arguments: Any) -> None:
        self.step += 1
        if self.step in self.counts:
            self.look(*arguments)
