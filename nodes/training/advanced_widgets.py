"""The trainer's widgets that are rarely needed; each is a field of ``TrainingPlan`` of the same name."""

from comfy_api.latest import io

from ...d2f_core import DENSITIES, WEIGHTS
from ...d2f_data.training.plan import AUTO_DENSITY
from .. import host
from ..widgets import choice, integer, number

LOSSES = ("mse", "huber")


def advanced_widgets() -> list[io.Input]:
    """All of them, marked as advanced."""
    return [
        choice("adapter", host.ADAPTER_KINDS, "lora", "Kind of adapter. LoKr and LoHa are ComfyUI's own."),
        number(
            "alpha", 0.0, 0.0, 4096.0, 0.5, "Adapters are scaled by alpha / rank. 0 means alpha = rank.", advanced=True
        ),
        number(
            "rank_ratio",
            0.0,
            0.0,
            1.0,
            0.05,
            "Above 0: rank of each layer = this fraction of max(in, out), instead of 'rank'. The paper uses 0.2.",
            advanced=True,
        ),
        number(
            "dropout",
            0.0,
            0.0,
            0.95,
            0.05,
            "Probability of dropping an input value of an adapter in training.",
            advanced=True,
        ),
        io.Boolean.Input(
            "full_ends",
            default=False,
            tooltip="Train all weights of the first and the last convolution, as the paper does. They are saved as "
            "full weight differences, which ComfyUI loads and diffusers does not.",
            advanced=True,
        ),
        io.String.Input(
            "target_pattern",
            default="",
            tooltip="Layers to adapt instead of those of 'targets': patterns of module paths with * and ?, separated "
            "by commas; the prefix linear: or conv: selects only such layers. Example: *.attn2.*, conv:input_blocks.*",
            advanced=True,
        ),
        choice(
            "density",
            [*DENSITIES, AUTO_DENSITY],
            AUTO_DENSITY,
            "How flow times t are sampled. auto: uniform in t for diff2flow and naive_fm, timestep for diffusion, "
            "few_steps for consistency. timestep: uniform over the network's timesteps, as diffusion models are "
            "trained. few_steps: only where samplers of one and two steps call the network.",
        ),
        number(
            "density_mean",
            0.0,
            -5.0,
            5.0,
            0.1,
            "Mean of logit(t) for logit_normal; above 0 favours times near the data.",
            advanced=True,
        ),
        number("density_std", 1.0, 0.05, 5.0, 0.05, "Standard deviation of logit(t) for logit_normal.", advanced=True),
        choice(
            "weight",
            WEIGHTS,
            "none",
            "Weight of the squared error as a function of t: eps turns a velocity loss into an eps loss. min_snr, "
            "soft_min_snr, debiased and p2 are the published weights of the signal to noise ratio, the same loss for "
            "every objective; they were made for the density timestep.",
        ),
        choice("loss", LOSSES, "mse", "mse: squared error. huber: quadratic up to huber_delta, linear above it."),
        number(
            "huber_delta", 0.1, 1e-4, 100.0, 0.05, "Error above which the Huber loss is linear.", 1e-4, advanced=True
        ),
        number("weight_decay", 0.0, 0.0, 10.0, 0.01, "Weight decay of the optimizer; 0 disables it.", advanced=True),
        io.Float.Input(
            "clip",
            display_name="max_grad_norm",
            default=1.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            round=0.1,
            tooltip="Gradients are clipped to this norm; 0 disables clipping.",
            advanced=True,
        ),
        integer(
            "accumulation",
            1,
            1,
            1024,
            "Gradient accumulation: batches per step, for a larger batch without its memory.",
            advanced=True,
        ),
        number(
            "ema",
            0.0,
            0.0,
            0.99999,
            0.001,
            "Decay of the exponential moving average of the weights, which is saved instead; 0 disables it.",
            1e-5,
            True,
        ),
        integer(
            "validate_every",
            50,
            0,
            100_000,
            "Measure the loss of the validation set every so many steps.",
            advanced=True,
        ),
        number(
            "preview_cfg",
            1.0,
            1.0,
            30.0,
            0.5,
            "Guidance scale of previews, with 'negative'; 1 disables guidance.",
            advanced=True,
        ),
    ]


def compile_widget() -> io.Input:
    """Behind all other inputs, as saved graphs keep widgets by place; optional, as older prompts lack it."""
    return io.Boolean.Input(
        "compile",
        default=False,
        optional=True,
        tooltip="Compile the model with torch.compile: the first steps take minutes, the others less time. For runs of "
        "many steps on a GPU. Needs Triton (on the CPU, a C++ compiler); without it, the run goes on uncompiled.",
        advanced=True,
    )


def gamma_widget() -> io.Input:
    """Behind all other inputs, for the same reason."""
    return io.Float.Input(
        "weight_gamma",
        default=0.0,
        min=0.0,
        max=1000.0,
        step=0.5,
        round=0.01,
        optional=True,
        tooltip="Parameter of the weights min_snr and soft_min_snr (the signal to noise ratio at which they level "
        "off) and p2 (its exponent). 0: 5 for the first two, 1 for p2.",
        advanced=True,
    )
