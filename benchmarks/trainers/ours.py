"""The node LoRA Trainer (Diff2Flow) on all linear and convolution layers, else at its defaults."""

from __future__ import annotations

from typing import Any

from diff2flow_kit.d2f_data.image_sets.report.facts import SetCaption
from diff2flow_kit.d2f_data.image_sets.training_set import with_options
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

from .node import TrainerNode, listed
from .task import Task


class Ours:
    """Without previews and saves on the way, which the other runners do not have."""

    changed: dict[str, Any] = {"targets": "all", "precision": "auto", "save_every": 0, "preview_every": 0}

    def __init__(self, task: Task) -> None:
        self.node = TrainerNode(D2FTrainLora, task, resume="new", **self.changed)
        self.settings = listed(self.changed)

    def train(self, steps: int, objective: str) -> None:
        self.node.change(steps=steps, objective=objective)
        self.node.run()


class OursOffloaded(Ours):
    """With the frozen weights in the main memory; on the CPU they are there anyway, and this is what it costs."""

    changed = {**Ours.changed, "offload": True}


class OursCompiled(Ours):
    """With its blocks compiled, which happens in the first step of a round; that one is not counted."""

    changed = {**Ours.changed, "compile": True}


class OursWithText(Ours):
    """With the adapters of a text encoder beside those of the network; its captions are encoded in every step."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        clip, options = task.clip(), [{host.TEXT_KEY: SetCaption(text, True)} for text in task.texts()]
        encoded = [host.encode_caption(clip, text) for text in task.texts()]
        self.node.inputs |= {"clip": [clip], "positive": list(map(with_options, encoded, options))}
        self.settings += "; text encoder"


class OursInFull(Ours):
    """With previews and saves, more often than by default."""

    changed = {"targets": "all", "save_every": 100, "preview_every": 50}
