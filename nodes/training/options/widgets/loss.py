"""What is minimised: the settings of Loss Options (Diff2Flow)."""

from comfy_api.latest import io

from .....d2f_core import DENSITIES, WEIGHTS
from .....d2f_data.training.plan import AUTO_DENSITY
from ....widgets import choice, number

LOSSES = ("mse", "huber")


def loss_widgets() -> list[io.Input]:
    """Each is a field of ``TrainingPlan`` of the same name."""
    return [
        number(
            "caption_dropout",
            0.0,
            0.0,
            0.99,
            0.01,
            "Probability that an item is trained without its caption; needs 'negative'.",
        ),
        choice(
            "density",
            [*DENSITIES, AUTO_DENSITY],
            AUTO_DENSITY,
            "How flow times t are sampled. auto: uniform in t for diff2flow and naive_fm, timestep for diffusion, "
            "few_steps for consistency. timestep: uniform over the network's timesteps, as diffusion models are "
            "trained. few_steps: only where samplers of one and two steps call the network.",
            advanced=False,
        ),
        number(
            "density_mean",
            0.0,
            -5.0,
            5.0,
            0.1,
            "Mean of logit(t) for logit_normal; above 0 favours times near the data.",
        ),
        number("density_std", 1.0, 0.05, 5.0, 0.05, "Standard deviation of logit(t) for logit_normal."),
        choice(
            "weight",
            WEIGHTS,
            "none",
            "Weight of the squared error as a function of t: eps turns a velocity loss into an eps loss. min_snr, "
            "soft_min_snr, debiased and p2 are the published weights of the signal to noise ratio, the same loss for "
            "every objective; they were made for the density timestep.",
            advanced=False,
        ),
        io.Float.Input(
            "weight_gamma",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=0.5,
            round=0.01,
            tooltip="Parameter of the weights min_snr and soft_min_snr (the signal to noise ratio at which they level "
            "off) and p2 (its exponent). 0: 5 for the first two, 1 for p2.",
        ),
        choice(
            "loss",
            LOSSES,
            "mse",
            "mse: squared error. huber: quadratic up to huber_delta, linear above it.",
            advanced=False,
        ),
        number("huber_delta", 0.1, 1e-4, 100.0, 0.05, "Error above which the Huber loss is linear.", 1e-4),
        number(
            "t_low",
            0.0,
            0.0,
            1.0,
            0.05,
            "Least flow time that is trained: 0 is pure noise, 1 the picture. It is the upper end of other trainers' "
            "timesteps 0 to 999: for SD and SDXL, 0.1 is timestep 914, 0.25 is 673, 0.5 is 354; the node says it.",
        ),
        number(
            "t_high",
            1.0,
            0.0,
            1.0,
            0.05,
            "Largest flow time that is trained; the lower end of the timesteps. 0.5 and below: only the composition.",
        ),
    ]
