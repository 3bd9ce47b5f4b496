"""Trainer Preset (Diff2Flow): a kind of training -> D2F_TRAINER_OPTIONS, and values for the trainer's own widgets."""

from comfy_api.latest import io

from ...checks import checked
from ...widgets import TRAIN, choice, search_words
from .presets import PRESETS, Preset
from .trainer_options import SOCKET, TrainerOptions, node_of

OWN = ("steps", "learning_rate", "rank", "batch_size")


class D2FTrainerPreset(io.ComfyNode):
    """Looks up a row of ``PRESETS``.

    What the trainer shows in its own widgets counts, so a preset does not replace it behind their backs: it has an
    output for each, which may be connected to the widget.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FTrainerPreset",
            display_name="Trainer Preset (Diff2Flow)",
            category=TRAIN,
            description="Settings of the LoRA Trainer (Diff2Flow) for a kind of training. Its text lists all of them; "
            "put a settings node behind it to change some, such as Optimizer Options (Diff2Flow), which then replaces "
            "what both of them set.",
            search_aliases=search_words("D2FTrainerPreset"),
            inputs=[
                choice(
                    "preset",
                    PRESETS,
                    "subject",
                    " ".join(f"{name}: {one.about}" for name, one in PRESETS.items()),
                    advanced=False,
                ),
                io.Custom(SOCKET).Input(
                    "options",
                    optional=True,
                    tooltip="Options of nodes before this one. What the preset sets replaces theirs.",
                ),
            ],
            outputs=[
                io.Custom(SOCKET).Output(
                    display_name="options",
                    tooltip="For 'options' of the LoRA Trainer (Diff2Flow), or of a settings node that changes some.",
                ),
                io.Int.Output(display_name="steps", tooltip="For the number of steps of the trainer."),
                io.Float.Output(display_name="learning_rate", tooltip="For the learning rate of the trainer."),
                io.Int.Output(display_name="rank", tooltip="For the rank of the trainer."),
                io.Int.Output(display_name="batch_size", tooltip="For the batch size of the trainer."),
                io.String.Output(display_name="info", tooltip="What the preset is for, and every value that it sets."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, preset: str, options: TrainerOptions | None = None) -> io.NodeOutput:
        chosen = PRESETS[preset]
        result = (options or TrainerOptions()).then(chosen.options)
        own, text = [getattr(chosen, name) for name in OWN], describe(preset, chosen)
        return io.NodeOutput(result, *own, text, ui={"text": [text]})


def describe(name: str, preset: Preset) -> str:
    """The preset in words, a line per node that has some of its settings."""
    own = ", ".join(f"{field} {getattr(preset, field):g}" for field in OWN)
    lines = [f"{name}: {preset.about}", f"For the trainer's own widgets (connect the outputs, or type them): {own}."]
    for node in dict.fromkeys(map(node_of, preset.options)):
        values = ", ".join(f"{key} {value}" for key, value in preset.options.items() if node_of(key) == node)
        lines.append(f"As of {node}: {values}.")
    return "\n".join([*lines, "All else is at its default."])
