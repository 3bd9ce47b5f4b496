"""What is kept and shown on the way: the settings of Saving Options (Diff2Flow)."""

from comfy_api.latest import io

from ....widgets import integer, number


def saving_widgets() -> list[io.Input]:
    """Each is a field of ``TrainingPlan`` of the same name."""
    return [
        integer(
            "save_every",
            250,
            0,
            100_000,
            "Steps between saves of the state and a LoRA; 0 saves them only at the end and on cancel. The state "
            "alone is also saved every 5 minutes.",
        ),
        number(
            "preview_cfg",
            1.0,
            1.0,
            30.0,
            0.5,
            "Guidance scale of previews, with 'negative'; 1 disables guidance.",
        ),
        integer(
            "validate_every",
            50,
            0,
            100_000,
            "Measure the loss of the validation set every so many steps.",
        ),
    ]
