"""What goes through the socket 'options' of the trainer: those settings that are not widgets of its own.

To add a setting:

1. a field of ``TrainingPlan`` (d2f_data/training/plan.py), which says what it does to the training;
2. a widget of the same name in one file of ``widgets/``, appended behind the others. Its default is what a trainer
   without options does, so it must leave every number as it is.

That is all: the settings node shows it, the trainer gets it, presets may set it, and errors name the node that has it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from comfy_api.latest import io

from .widgets.lora import lora_widgets
from .widgets.loss import loss_widgets
from .widgets.memory import memory_widgets
from .widgets.optimizer import optimizer_widgets
from .widgets.saving import saving_widgets

SOCKET = "D2F_TRAINER_OPTIONS"

SETTINGS: Mapping[str, Callable[[], list[io.Input]]] = MappingProxyType(
    {
        "Optimizer Options (Diff2Flow)": optimizer_widgets,
        "Loss Options (Diff2Flow)": loss_widgets,
        "LoRA Options (Diff2Flow)": lora_widgets,
        "Memory Options (Diff2Flow)": memory_widgets,
        "Saving Options (Diff2Flow)": saving_widgets,
    }
)
"""Name of a settings node -> its widgets."""


def option_defaults() -> dict[str, Any]:
    """{setting: value} of a trainer without options."""
    return {widget.id: widget.default for widgets in SETTINGS.values() for widget in widgets()}


def node_of(setting: str) -> str:
    """Name of the node that has a setting; empty if none has."""
    return next((node for node, widgets in SETTINGS.items() if setting in {one.id for one in widgets()}), "")


@dataclass(frozen=True, repr=False)
class TrainerOptions:
    """Settings by name; those that are missing are at their defaults.

    Raises:
        ValueError: there is no such setting.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(self.values.keys() - option_defaults().keys())
        if unknown:
            allowed = ", ".join(option_defaults())
            raise ValueError(f"the trainer has no option {', '.join(unknown)}; allowed are {allowed}")

    def __repr__(self) -> str:
        return f"<trainer options: {self.text() or 'all at their defaults'}>"

    def then(self, values: Mapping[str, Any]) -> "TrainerOptions":
        """These, with the values of a node behind, which count where both have one."""
        return TrainerOptions({**self.values, **values})

    def replaced_by(self, values: Mapping[str, Any]) -> str:
        """Which of these the values of a node behind change, in a line."""
        changed = (name for name, value in values.items() if name in self.values and self.values[name] != value)
        return ", ".join(f"{name} {self.values[name]} (now {values[name]})" for name in changed)

    def complete(self) -> dict[str, Any]:
        """All settings."""
        return {**option_defaults(), **self.values}

    def text(self) -> str:
        """What is not at its default, in a line."""
        defaults = option_defaults()
        return ", ".join(f"{name} {value}" for name, value in self.values.items() if value != defaults[name])
