"""A trainer node called as the host calls it: lists of inputs, under inference mode."""

from __future__ import annotations

from typing import Any

import torch
from bench_shared import with_options

from .task import Task


class TrainerNode:
    """A node with `is_input_list`, all inputs at their defaults but for the data of a task and `changed`."""

    def __init__(self, node: Any, task: Task, **changed: Any) -> None:
        self.node = node.PREPARE_CLASS_CLONE(None)
        self.inputs = {each.id: [each.default] for each in node.define_schema().inputs if hasattr(each, "default")}
        self.changed: dict[str, Any] = {}
        self.change(batch_size=task.batch, rank=task.rank, learning_rate=task.rate, **changed)
        with torch.inference_mode():
            self.inputs |= {"model": [task.load()], "positive": task.conditionings()}
            self.inputs["latents"] = [{"samples": task.latents()}]

    def change(self, **values: Any) -> None:
        values = {**self.changed, **values}
        self.changed, values = values, with_options(self.node, values)
        unknown = values.keys() - {each.id for each in self.node.define_schema().inputs}
        if unknown:
            raise ValueError(f"{self.node.__name__} has no input {', '.join(sorted(unknown))}")
        self.inputs |= {name: [value] for name, value in values.items()}

    def run(self) -> None:
        with torch.inference_mode():
            self.node.execute(**self.inputs)


def listed(changed: dict[str, Any]) -> str:
    """Settings as one line."""
    return "; ".join(f"{name} {value}" for name, value in changed.items())
