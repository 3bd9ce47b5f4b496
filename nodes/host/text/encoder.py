"""The text encoders of a CLIP as a frozen copy, to whose layers adapters are attached.

A text is encoded as the host encodes it, by the host's own code: chunks of 75 tokens, weights, embeddings, clip skip.
Only the modules are ours, with copies of the weights, so that neither training nor its end changes that of the graph.
"""

import copy
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import comfy.clip_model
import torch
from torch import Tensor

from ....d2f_core import frozen_copy, recomputed
from ..encoding import clip_identity, tokens_of
from ..model_call.frozen import hold_weights, patched_weight

TEXT_ENCODERS = (("clip_l",), ("clip_h",), ("clip_g",), ("clip_l", "clip_g"))
"""Names of the encoders of those CLIPs that can be trained: SD1.x, SD2.x, SDXL's refiner, SDXL."""


class TextEncoder:
    """Encodes texts through the layers of ``module``.

    Attributes:
        module: frozen copy of the encoders, in a float type that they compute from.
        identity: hash of the CLIP that they are copied from, with its patches and options.

    Args:
        clip: a CLIP of ``TEXT_ENCODERS``.
        device: where to encode.
        recompute: compute layers again in the backward pass instead of keeping what is inside them.

    Raises:
        ValueError: the CLIP has other encoders, or hooks; says which.
    """

    def __init__(self, clip: Any, device: torch.device, recompute: bool = False) -> None:
        _check(clip)
        self.identity = clip_identity(clip)
        fetch = partial(patched_weight, clip.patcher, device=device, computed=torch.float32)
        self.module = frozen_copy(clip.cond_stage_model, fetch=fetch)
        for layer in self.module.modules():
            hold_weights(layer, {})
            if isinstance(layer, comfy.clip_model.CLIPLayer):
                for norm in (layer.layer_norm1, layer.layer_norm2):
                    norm.register_forward_pre_hook(_kept_for_backward)
                if recompute:
                    layer.forward = _on_a_copy(layer)
                    layer.forward = recomputed(layer)
        self._clip = copy.copy(clip)
        self._clip.cond_stage_model = self.module
        self._clip.patcher = SimpleNamespace(load_device=device, forced_hooks=None)
        self._clip.load_model = lambda *args, **kwargs: None
        self._tokens: dict[tuple[str, bool], Any] = {}

    def encode(self, text: str, prompt_weights: bool) -> list:
        """CONDITIONING of a text, with gradients if they are recorded; arguments as of ``encode_caption``."""
        key = (text, prompt_weights)
        if key not in self._tokens:
            self._tokens[key] = tokens_of(self._clip, *key)
        return self._clip.encode_from_tokens_scheduled(self._tokens[key], show_pbar=False)


def _kept_for_backward(norm: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A norm's own copy of its input, to which the host's layers add in place afterwards."""
    return (inputs[0].clone(), *inputs[1:]) if torch.is_grad_enabled() else inputs


def _on_a_copy(layer: torch.nn.Module) -> Callable[..., Tensor]:
    """The forward function of a layer that adds to a copy of its input: what is computed again needs it as it was."""
    kind, alive = type(layer).forward, weakref.ref(layer)
    return lambda x, *args, **kwargs: kind(alive(), x.clone(), *args, **kwargs)


def _check(clip: Any) -> None:
    """Raise ValueError for a CLIP that cannot be trained."""
    if clip is None:
        raise ValueError(
            "input 'clip' is empty: the checkpoint before it holds no text encoder; connect the CLIP that belongs to "
            "the model, or disconnect 'clip' to train the model alone"
        )
    found = tuple(name for name, _ in clip.cond_stage_model.named_children())
    encoders = [
        module for module in clip.cond_stage_model.modules() if isinstance(module, comfy.clip_model.CLIPTextModel)
    ]
    if found not in TEXT_ENCODERS or len(encoders) != len(found):
        raise ValueError(
            f"the CLIP connected to 'clip' is {type(clip.cond_stage_model).__name__} with {', '.join(found)}; only the "
            "text encoders of SD1.5, SD2.1 and SDXL (CLIP) can be trained: disconnect 'clip' to train the model alone"
        )
    if clip.patcher.forced_hooks is not None or getattr(clip, "apply_hooks_to_conds", None):
        raise ValueError(
            "the CLIP connected to 'clip' has hooks (Set CLIP Hooks), which act on sampling only; connect the CLIP "
            "before that node"
        )
