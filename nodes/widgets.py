"""What several nodes share: menus, search words, and widgets for seeds, solvers, grids, steps and sizes of images."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..d2f_core import ADAPTIVE_METHODS, METHODS
from . import host

SAMPLE, TRAIN, REFLOW, IMAGE_TO_IMAGE, DEMO = (
    f"Diff2Flow/{menu}" for menu in ("Sample", "Train", "Reflow", "Image to image", "Demo")
)

_LOCALES = Path(__file__).resolve().parents[1] / "locales"
_SEARCH_WORDS = [
    json.loads(path.read_text(encoding="utf-8")) for path in sorted(_LOCALES.glob("*/search.json"))
]  # of every language

STOCK_GRID = "stock scheduler"
TOLERANCES: Mapping[str, Any] = {"rtol": 1e-3, "atol": 1e-3, "max_nfe": 500}
"""Of the adaptive solvers: the widgets' defaults."""


def search_words(node_id: str) -> list[str]:
    """What people type when they look for a node, in every language."""
    return [word for words in _SEARCH_WORDS for word in words[node_id]]


def seed_input(tooltip: str) -> io.Int.Input:
    """A seed that stays as it is from run to run."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def resolution_input() -> io.Int.Input:
    """The size of the images of a training set."""
    return io.Int.Input(
        "resolution",
        default=512,
        min=64,
        max=4096,
        step=8,
        tooltip="Side of a square image in pixels; other aspect ratios get about the same area. 512 for SD1.5, 768 "
        "for SD2.1, 1024 for SDXL, 96 for the demo model.",
    )


def bucket_step_input() -> io.Int.Input:
    """How finely aspect ratios are told apart."""
    return io.Int.Input(
        "bucket_step",
        default=64,
        min=8,
        max=512,
        step=8,
        tooltip="Sides of buckets are multiples of this, in pixels. A smaller step crops less, but makes more "
        "buckets, so that fewer images can share a batch.",
        advanced=True,
    )


def solver_input() -> io.DynamicCombo.Input:
    """Combo of all solvers; the adaptive ones bring their tolerances along."""
    widgets = {name: _tolerances() if name in ADAPTIVE_METHODS else [] for name in METHODS}
    return io.DynamicCombo.Input(
        "solver",
        options=[io.DynamicCombo.Option(name, inputs) for name, inputs in widgets.items()],
        tooltip="How the flow is integrated. Model evaluations per step: euler 1, midpoint and heun 2, rk4 4. dopri5 "
        "and bosh3 choose their own steps to meet the tolerances (they need the package torchdiffeq).",
    )


def _tolerances() -> list[io.Input]:
    """Optional: a solver that is chosen on the outside of a subgraph comes without them."""
    return [
        io.Float.Input(
            "rtol",
            optional=True,
            default=TOLERANCES["rtol"],
            min=1e-7,
            max=1.0,
            step=1e-4,
            round=1e-7,
            tooltip="Relative error allowed in a step, as a fraction of the latent's size. Smaller is slower.",
        ),
        io.Float.Input(
            "atol",
            optional=True,
            default=TOLERANCES["atol"],
            min=1e-7,
            max=1.0,
            step=1e-4,
            round=1e-7,
            tooltip="Absolute error allowed in a step, in latent units (latents have a size of about 1).",
        ),
        io.Int.Input(
            "max_nfe",
            optional=True,
            default=TOLERANCES["max_nfe"],
            min=1,
            max=100000,
            tooltip="Most model evaluations that the solver may use; it stops with an error when it needs more.",
            advanced=True,
        ),
    ]


def solver_settings(solver: Mapping[str, Any]) -> dict[str, Any]:
    """The value of ``solver_input`` as arguments of ``OdeSampler``; missing tolerances are at their defaults."""
    method = solver["solver"]
    if method not in ADAPTIVE_METHODS:
        return {"method": method}
    given = {key: solver[key] for key in TOLERANCES if solver.get(key) is not None}
    return {"method": method, **TOLERANCES, **given}


def grid_input(stock: bool = True) -> io.DynamicCombo.Input:
    """Combo of the grids of noise levels, each with its own settings; ``stock`` adds the host's schedulers."""
    option = io.DynamicCombo.Option
    return io.DynamicCombo.Input(
        "grid",
        options=[
            option("uniform", []),
            option("shifted", [_shift()]),
            option("logit_normal", _logit_normal()),
            *([option(STOCK_GRID, [_scheduler()])] if stock else []),
        ],
        tooltip="Where the steps lie. uniform: equal steps of flow time t, the native grid of flow matching. shifted: "
        "leaning to noise or to detail. logit_normal: dense in the middle."
        + (" stock scheduler: the noise levels of one of ComfyUI's schedulers." if stock else ""),
    )


def steps_input() -> io.Int.Input:
    """Number of steps of a run."""
    return io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of steps that are taken.")


def denoise_input(tooltip: str) -> io.Float.Input:
    """How much of the way is run, in [0, 1]."""
    return io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _shift() -> io.Input:
    return io.Float.Input(
        "shift",
        default=3.0,
        min=0.05,
        max=100.0,
        step=0.05,
        tooltip="Above 1 spends more steps on noise (layout), below 1 more on detail; 1 is uniform.",
    )


def _logit_normal() -> list[io.Input]:
    return [
        io.Float.Input(
            "mean",
            default=0.0,
            min=-5.0,
            max=5.0,
            step=0.05,
            tooltip="Mean of logit(t). Below 0 the steps gather near noise, above 0 near the image.",
        ),
        io.Float.Input(
            "std",
            default=1.0,
            min=0.05,
            max=5.0,
            step=0.05,
            tooltip="Standard deviation of logit(t). Small values gather the steps more tightly.",
        ),
    ]


def _scheduler() -> io.Input:
    return io.Combo.Input(
        "scheduler",
        options=host.scheduler_names(),
        default="simple",
        tooltip="ComfyUI scheduler whose noise levels are used: on a converted model those that it has on the "
        "diffusion model, moved by the converter's shift. linear_quadratic, made for flow models, spaces s itself.",
    )


def integer(name: str, default: int, low: int, high: int, tooltip: str, advanced: bool = False) -> io.Int.Input:
    """A whole number from `low` to `high`."""
    return io.Int.Input(name, default=default, min=low, max=high, tooltip=tooltip, advanced=advanced)


def number(
    name: str,
    default: float,
    low: float,
    high: float,
    step: float,
    tooltip: str,
    round_to: float | None = None,
    advanced: bool = False,
) -> io.Float.Input:
    """A number from `low` to `high`, rounded to `round_to`, or else to `step`."""
    return io.Float.Input(
        name, default=default, min=low, max=high, step=step, round=round_to or step, tooltip=tooltip, advanced=advanced
    )


def choice(name: str, options: Iterable[str], default: str, tooltip: str, advanced: bool = True) -> io.Combo.Input:
    """A choice among names."""
    return io.Combo.Input(name, options=list(options), default=default, tooltip=tooltip, advanced=advanced)
