"""How the weights are moved: the settings of Optimizer Options (Diff2Flow)."""

from comfy_api.latest import io

from .....d2f_core import OPTIMIZERS, SCHEDULES
from ....widgets import integer, number


def optimizer_widgets() -> list[io.Input]:
    """Each is a field of ``TrainingPlan`` of the same name."""
    return [
        io.Combo.Input(
            "optimizer",
            options=list(OPTIMIZERS),
            default="adamw",
            tooltip="adamw, adafactor (less memory), lion (half the memory of adamw, a learning rate 3 to 10 times "
            "smaller) and muon are always available; adamw_8bit and lion_8bit need bitsandbytes, prodigy needs "
            "prodigyopt, schedule_free needs schedulefree, came needs came-pytorch.",
        ),
        io.Combo.Input(
            "lr_schedule",
            options=list(SCHEDULES),
            default="constant",
            tooltip="How the learning rate changes after the warm-up. All but constant fall to 0 at step 'steps': "
            "linear in a straight line, polynomial as the square of that (fast at first), cosine along half a cosine, "
            "cosine_with_restarts along three of these, each from the full rate.",
        ),
        integer("warmup_steps", 0, 0, 100_000, "Number of steps over which the learning rate rises from 0."),
        number("weight_decay", 0.0, 0.0, 10.0, 0.01, "Weight decay of the optimizer; 0 disables it."),
        io.Float.Input(
            "clip",
            display_name="max_grad_norm",
            default=1.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            round=0.1,
            tooltip="Gradients are clipped to this norm; 0 disables clipping.",
        ),
        integer(
            "accumulation",
            1,
            1,
            1024,
            "Gradient accumulation: batches per step, for a larger batch without its memory.",
        ),
        number(
            "ema",
            0.0,
            0.0,
            0.99999,
            0.001,
            "Decay of the exponential moving average of the weights, which is saved instead; 0 disables it.",
            1e-5,
        ),
        integer(
            "epochs",
            0,
            0,
            100_000,
            "Above 0: length of the run in epochs, in place of 'steps'. In an epoch every item of the set, repeats "
            "included, is trained on once; the node says how many steps that are.",
        ),
    ]
