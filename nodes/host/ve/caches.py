"""EasyCache and LazyCache on a converted model: they skip the steps that they skip on the diffusion model.

Both reuse the last change of a call when little has changed since, within a window of sigmas. EasyCache looks at the
network itself, whose inputs and outputs are the same in all coordinates: its window is put in s, as the sigmas are that
it is told. LazyCache looks at the state and x0, so it runs in VE coordinates. The host would compute their windows from
the model that was loaded last, which may be another one.
"""

from typing import Any

import comfy.patcher_extension

from ..flow_sampling import FlowSampling
from .coordinates import VeSampling
from .functions import WrapperInVe

_CACHE, _LAZY = "easycache", "lazycache"  # the host's keys: the first of both caches' settings


def place_caches(model_options: dict[str, Any], flow: FlowSampling) -> None:
    """Give the caches of steps their coordinates, in the model options of one run."""
    options = model_options.get("transformer_options", {})
    if _CACHE not in options:
        return
    state_wrappers = options.get("wrappers", {}).get(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, {})
    if _LAZY in state_wrappers:
        state_wrappers[_LAZY] = [_in_ve(wrapper) for wrapper in state_wrappers[_LAZY]]
    sampling = VeSampling(flow) if _LAZY in state_wrappers else flow
    options[_CACHE] = _in_window_of(options[_CACHE].clone(), sampling).prepare_timesteps(sampling)


def _in_ve(wrapper: Any) -> WrapperInVe:
    return wrapper if isinstance(wrapper, WrapperInVe) else WrapperInVe(wrapper, (0, 1))


def _in_window_of(cache: Any, sampling: Any) -> Any:
    """A cache, and its clones, whose window is that of this sampling, whichever it is told."""
    kind = type(cache)
    cache.prepare_timesteps = lambda loaded: kind.prepare_timesteps(cache, sampling)
    cache.clone = lambda: _in_window_of(kind.clone(cache), sampling)
    return cache
