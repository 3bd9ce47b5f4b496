"""Going on from a LoRA: adapters that stand for it, so that training starts at the model with the LoRA.

The host's loader reads every layout of file. Its patches become adapters of the same arithmetic:

    LoRA: up, down, alpha       LowRankAdapter, of the file's own rank
    diff, diff_b                FullAdapter; so does a LoRA with a bias
    any of these, widened       WidenedAdapter of the product, zero for channels that the file does not have
    DoRA by input channels      DoraAdapter
    LoKr, LoHa, OFT             the host's own

What changes a layer in another way (DoRA by outputs, Tucker factors, slices of fused layers, norms) cannot be gone on
with.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ....d2f_core import Adapter, DoraAdapter, FullAdapter, LowRankAdapter, WidenedAdapter, adaptable_layers
from ..image_condition import CONDITION_NODE
from .apply import find_patches, find_text_patches
from .kinds import adapter_of, check_lengths, kind_of

_ROOT, _WEIGHT, _BIAS = "diffusion_model.", ".weight", ".bias"
_REMEDY = "apply it with a LoRA loader before the trainer, where it is part of the model, and train a new LoRA"


def adapters_from(
    model: Any,
    network: nn.Module,
    lora: Mapping[str, Tensor],
    made: Mapping[str, Adapter],
    kind: str,
    dropout: float,
    clip: Any = None,
) -> dict[str, Adapter]:
    """Adapters of a network that start at a LoRA; where it has none, those that were made anew.

    Args:
        model: MODEL of the network.
        network: its frozen copy, which is trained.
        lora: key -> tensor, in any layout that the host knows.
        made: path of a layer -> new adapter.
        kind: of the new adapters, one of ``ADAPTER_KINDS``.
        dropout: of the adapters.
        clip: CLIP whose text encoders are trained as well, or None.

    Raises:
        ValueError: the LoRA is not for this model, is of another kind, or has a form that cannot be trained.
    """
    patches = {_path_of(target, _ROOT): patch for target, patch in find_patches(model, lora, clip).items()}
    return _started(network, patches, made, kind, dropout)


def text_adapters_from(
    clip: Any, encoders: nn.Module, lora: Mapping[str, Tensor], made: Mapping[str, Adapter], kind: str, dropout: float
) -> dict[str, Adapter]:
    """The same for the text encoders of a CLIP. Layers that act on no conditioning get no adapter."""
    patches = {_path_of(target, ""): patch for target, patch in find_text_patches(clip, lora).items()}
    idle = {path for path, _ in patches if ".encoder.layers." in path and path not in made}
    acting = {target: patch for target, patch in patches.items() if target[0] not in idle}
    return _started(encoders, acting, made, kind, dropout)


def _started(
    network: nn.Module,
    patches: Mapping[tuple[str, str], Any],
    made: Mapping[str, Adapter],
    kind: str,
    dropout: float,
) -> dict[str, Adapter]:
    layers, found = adaptable_layers(network), dict(made)
    for (path, part), patch in patches.items():
        wide = isinstance(made.get(path), WidenedAdapter)
        other = patches.get((path, _BIAS if part == _WEIGHT else _WEIGHT))
        if path not in layers or not _is_trainable(patch, part, other, wide):
            raise ValueError(f"the LoRA to start from changes {path}{part} in a way that cannot be trained; {_REMEDY}")
        if (theirs := kind_of(patch)) and theirs != kind:
            raise ValueError(
                f"the LoRA to start from is of the kind {theirs}, but adapter is {kind}; set it to {theirs}"
            )
        if part == _WEIGHT:
            if not wide and _widens(patch):
                raise ValueError(
                    "the LoRA to start from was trained with an image condition; put "
                    f"'{CONDITION_NODE}' before the trainer, or start from another LoRA"
                )
            found[path] = _adapter(layers[path], patch, other and other[1][0], wide, dropout)
    return {path: found[path] for path in layers if path in found}


def _path_of(target: Any, root: str) -> tuple[str, str]:
    """Path of the layer that a patch changes, and which of its tensors; the target itself if that is no layer's."""
    if isinstance(target, str):
        for part in (_WEIGHT, _BIAS):
            if target.startswith(root) and target.endswith(part):
                return target[len(root) : -len(part)], part
    return str(target), ""


def _is_trainable(patch: Any, part: str, other: Any, wide: bool) -> bool:
    """Whether there is an adapter for a patch of a weight or a bias, beside the patch of the layer's other one."""
    if part == _BIAS and other is None:
        return False
    if kind_of(patch) in ("", "lora"):
        return bool(kind_of(patch)) or (isinstance(patch, tuple) and patch[0] == "diff")
    return other is None and not wide


def _widens(patch: Any) -> bool:
    return kind_of(patch) == "lora" and patch.weights[5] is not None


def _adapter(layer: Any, patch: Any, diff_b: Tensor | None, wide: bool, dropout: float) -> Adapter:
    kind = kind_of(patch)
    if kind not in ("", "lora", "dora"):
        return adapter_of(layer, patch, dropout)
    if not kind:
        diff = patch[1][0]
    else:
        up, down, alpha = patch.weights[:3]
        scale = 1.0 if alpha is None else alpha / len(down)
        if kind == "dora":
            check_lengths(layer)
            return DoraAdapter.starting_at(layer, down, up, patch.weights[4], scale * len(down), dropout)
        if not wide and diff_b is None:
            return LowRankAdapter.of(layer, down, up, scale * len(down), dropout)
        shape = (len(up), *(layer.weight.shape[1:] if down.ndim < layer.weight.ndim else down.shape[1:]))
        diff = (scale * up.float().flatten(1) @ down.float().flatten(1)).view(shape)
    return (WidenedAdapter if wide else FullAdapter).of(layer, diff, diff_b)
