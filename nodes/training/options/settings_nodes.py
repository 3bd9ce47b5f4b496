"""The settings nodes: widgets of one theme -> D2F_TRAINER_OPTIONS. They differ in their widgets and words alone."""

from typing import Any, ClassVar

from comfy_api.latest import io

from ...checks import checked
from ...widgets import TRAIN, search_words
from .trainer_options import SETTINGS, SOCKET, TrainerOptions


class SettingsNode:
    """A node with the widgets of its name in ``SETTINGS``, which go behind those of the options before it."""

    ID: ClassVar[str]  # the class is a clone of another name when the host runs it
    NAME: ClassVar[str]
    ABOUT: ClassVar[str]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.ID,
            display_name=cls.NAME,
            category=TRAIN,
            description=f"{cls.ABOUT} Goes to 'options' of the LoRA Trainer (Diff2Flow). Several of these nodes may be "
            "chained in any order; where two set the same, the one nearer to the trainer counts, so a second node of "
            "this kind replaces all of the first.",
            search_aliases=search_words(cls.ID),
            inputs=[
                io.Custom(SOCKET).Input(  # before the widgets, so that new ones are appended
                    "options",
                    optional=True,
                    tooltip="Options of nodes before this one. What this node shows replaces theirs.",
                ),
                *SETTINGS[cls.NAME](),
            ],
            outputs=[
                io.Custom(SOCKET).Output(
                    display_name="options",
                    tooltip="For 'options' of the LoRA Trainer (Diff2Flow), or of another settings node.",
                )
            ],
        )

    @classmethod
    @checked()
    def execute(cls, options: TrainerOptions | None = None, **widgets: Any) -> io.NodeOutput:
        before = options or TrainerOptions()
        return said(before.then(widgets), before.replaced_by(widgets))


def said(options: TrainerOptions, replaced: str) -> io.NodeOutput:
    """Options, with what they are and what they replace as the node's own text."""
    text = f"With this node: {options.text() or 'all at their defaults'}."
    return io.NodeOutput(options, ui={"text": [text + (f"\nReplaces {replaced}." if replaced else "")]})


class D2FOptimizerOptions(SettingsNode, io.ComfyNode):
    ID = "D2FOptimizerOptions"
    NAME = "Optimizer Options (Diff2Flow)"
    ABOUT = "How the trainer moves the weights: optimizer, learning rate schedule, accumulation, averaging."


class D2FLossOptions(SettingsNode, io.ComfyNode):
    ID = "D2FLossOptions"
    NAME = "Loss Options (Diff2Flow)"
    ABOUT = "What the trainer minimises: flow times, weights of the loss, Huber, caption dropout."


class D2FLoraOptions(SettingsNode, io.ComfyNode):
    ID = "D2FLoraOptions"
    NAME = "LoRA Options (Diff2Flow)"
    ABOUT = "What the trainer adds to the model: layers, kind of adapter, alpha, dropout."


class D2FMemoryOptions(SettingsNode, io.ComfyNode):
    ID = "D2FMemoryOptions"
    NAME = "Memory Options (Diff2Flow)"
    ABOUT = "How the trainer computes the model: gradient checkpointing for less memory, data type, compilation."


class D2FSavingOptions(SettingsNode, io.ComfyNode):
    ID = "D2FSavingOptions"
    NAME = "Saving Options (Diff2Flow)"
    ABOUT = "What the trainer keeps and shows on the way: saves, guidance of previews, validation."
