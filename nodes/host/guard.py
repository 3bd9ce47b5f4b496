"""A wrapper around every sampling run of a converted model: it chooses coordinates, and refuses what would go wrong."""

from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...d2f_core import edges
from .flow_sampling import FlowSampling
from .model import NODE_NAME, sampling_of
from .progress import tell
from .ve.caches import place_caches
from .ve.functions import place_cfg_functions
from .ve.levels import flow_levels
from .ve.origin import makers_of_this_run
from .ve.samplers import place_sampler

GUIDANCE_KEY, WINDOWS_KEY = "diff2flow_guidance", "diff2flow_windows"
EDGE_TOLERANCE = 1e-3


def guard_sampling(
    executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Check the sampler, CFG patches and latents of a sampling run, then run it."""
    guider = executor.class_obj
    sampling = sampling_of(guider.model_patcher)
    if not isinstance(sampling, FlowSampling):
        raise ValueError(
            f"a ModelSampling node after '{NODE_NAME}' replaced the conversion (the model now samples as "
            f"{type(sampling).__mro__[1].__name__}); put that node before '{NODE_NAME}', or remove it. 'Load LoRA "
            "(Diff2Flow)' converts as well: where it did, put the node before that one"
        )
    sigmas, remark = flow_levels(sampling, sigmas, makers_of_this_run())
    if remark:
        tell(remark)
    _check_unit(noise, guider.model_patcher.model.process_latent_in(latent), sigmas)
    place_cfg_functions(guider.model_options)
    place_caches(guider.model_options, sampling)
    sampler = place_sampler(sampler, sampling, float(sigmas[0])) if len(sigmas) else sampler
    return executor(noise, latent, sampler, sigmas, *args, **kwargs)


def with_own_guidance(model: Any, cfg: float) -> Any:
    """A clone of a MODEL that has learned guided answers, which warns when it is sampled with guidance once more.

    Args:
        model: MODEL with a reflow LoRA.
        cfg: guidance scale of the LoRA's teacher.
    """

    def check_guidance(executor: Any, *args: Any, **kwargs: Any) -> Any:
        scale = getattr(executor.class_obj, "cfg", 1.0)
        if scale != 1:
            tell(
                f"this LoRA has learned the images of CFG {cfg:g}, to which CFG {scale:g} is added: colours burn out. "
                "Set cfg to 1, which also takes half the time"
            )
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, GUIDANCE_KEY, check_guidance)
    return clone


def with_own_windows(model: Any, windows: int) -> Any:
    """A clone of a MODEL whose paths are straight in windows of t, which warns when sampling does not stop at an edge.

    Args:
        model: MODEL with a LoRA of piecewise reflow.
        windows: their number.
    """

    def check_edges(
        executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        missed = _missed(sigmas, windows)
        if missed:
            tell(
                f"this LoRA has learned {windows} straight parts of the path, but these {len(sigmas) - 1} steps do not "
                f"stop at {', '.join(f'{s:g}' for s in missed)}, where a part ends: use Flow Scheduler or Flow "
                f"KSampler (Diff2Flow) with the grid uniform and {windows} steps, or a multiple of {windows}"
            )
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)

    clone = model.clone()
    clone.set_attachments(WINDOWS_KEY, windows)
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WINDOWS_KEY, check_edges)
    return clone


def own_windows(model: Any) -> int:
    """Number of windows in which the paths of a MODEL are straight; 1 if ``with_own_windows`` has said nothing."""
    return model.get_attachment(WINDOWS_KEY) or 1


def _missed(sigmas: Tensor, windows: int) -> list[float]:
    """Sigmas s of edges between the first and the last sigma at which no step stops."""
    given = sigmas.double().cpu()
    if len(given) < 2:
        return []
    between = [float(s) for s in 1 - edges(windows)[1:-1] if given[-1] < s < given[0]]
    return [s for s in between if float((given - s).abs().min()) > EDGE_TOLERANCE]


def _check_unit(noise: Tensor, latent: Tensor, sigmas: Tensor) -> None:
    """Refuse latents that AddNoise has already scaled by 1 - s if noise is off: they would be scaled twice.

    A noisy latent outside the sampler is x_fm / t, so its standard deviation is about s / t and more; AddNoise on a
    flow model returns x_fm itself, of about s. The limit is their geometric mean, s / sqrt(t). The latent is in the
    model's own scale.
    """
    s = float(sigmas[0]) if len(sigmas) else 0.0
    if not 0.5 < s < 1 or getattr(noise, "is_nested", False) or torch.count_nonzero(noise) > 0:
        return
    if torch.count_nonzero(latent) > 0 and float(latent.std()) < s / (1 - s) ** 0.5:
        raise ValueError(
            f"sampling starts at s = {s:.3f} with noise switched off, but the latent has too little noise for it, a "
            f"standard deviation of {float(latent.std()):.3g} instead of about {s / (1 - s):.3g}. Either AddNoise "
            "before a sampler without noise is scaled twice on flow models: remove AddNoise and let the sampler add "
            "the noise. Or these sigmas do not begin where those of the previous sampler ended: split one schedule for "
            "both samplers"
        )
