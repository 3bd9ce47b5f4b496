"""The host's ``BaseModel`` around a frozen copy of its network: ``apply_model`` runs on our modules alone.

Object patches are those of the MODEL, whichever clone is loaded and whichever patcher loads it; what a clone that was
loaded before has left on a layer does not come along.
"""

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

import comfy.ldm.flux.layers
import comfy.lora
import comfy.utils
import torch
from torch import Tensor, nn

from ....d2f_core import Offload, frozen_copy
from .on_demand import is_known, run_layers_on_demand

_CPU = torch.device("cpu")
_NETWORK = "diffusion_model"
# Attributes by which layers fetch their weights under the host's dynamic patcher.
_FETCHING = ("_v", "weight_lowvram_function", "bias_lowvram_function")

# Blocks that add to the tensors that they are given.
_ADDING_IN_PLACE = (comfy.ldm.flux.layers.DoubleStreamBlock, comfy.ldm.flux.layers.SingleStreamBlock)


class GivenSampling:
    """``model_sampling`` of a call whose input and timestep are given, and whose answer is the network's own.

    Whatever else a wrapper asks of it comes from the MODEL's own.
    """

    def __init__(self, sampling: Any) -> None:
        self._sampling = sampling
        self.given = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampling, name)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The network's input itself."""
        return noise

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep of the call, ``given``."""
        return self.given

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The network's answer itself."""
        return model_output


def frozen_base(
    model: Any,
    dtype: torch.dtype | None,
    recompute: bool,
    compiled: Callable[[list[nn.Module]], None] | None = None,
    offload: bool = False,
) -> Any:
    """A ``BaseModel`` of our own with a frozen copy of the MODEL's network, and ``GivenSampling``.

    Args:
        model: MODEL, loaded by the host unless its patcher is the dynamic one, or ``offload``.
        dtype: type that the network computes in; None for the model's own.
        recompute: compute blocks again in the backward pass.
        compiled: compiles the blocks, such as that of ``compiler``.
        offload: the weights stay in the main memory, and come to the device when they are used; not with ``compiled``.
    """
    base = model.model
    streamed = getattr(model, "is_dynamic", lambda: False)() or getattr(base, "model_lowvram", False)
    kept = {f"{path}.weight" for path, layer in base.diffusion_model.named_modules() if offload and is_known(layer)}
    fetch = partial(_fetch, model, kept=kept, as_loaded=not streamed) if streamed or offload else None
    network = frozen_copy(base.diffusion_model, dtype, recompute, fetch, compiled, _ADDING_IN_PLACE)
    for path, theirs, ours in _layers(base.diffusion_model, network):
        _take_off(theirs, ours)
        if fetch is not None:
            _hold_weights(ours, model, path)
    twin = object.__new__(type(base))
    twin.__dict__ = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(base).items()}
    twin._modules[_NETWORK] = network
    for path in {**getattr(model, "object_patches_backup", {}), **model.object_patches}:
        _put(twin, path, model.get_model_object(path), dtype)
    if dtype is not None:
        _replace(twin, "manual_cast_dtype", dtype)
    _replace(twin, "current_patcher", None)
    _replace(twin, "model_sampling", GivenSampling(model.get_model_object("model_sampling")))
    if compiled is None:
        run_layers_on_demand(network, twin.get_dtype_inference(), Offload(model.load_device) if offload else None)
    return twin


def has_cross_attention(network: nn.Module) -> bool:
    """Whether a network's image attends to the text alone, as in Stable Diffusion's, and not to both at once."""
    return any(path.endswith("attn2.to_k") for path, _ in network.named_modules())


def _layers(theirs: nn.Module, ours: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """(path, layer of the host, its copy) for each layer."""
    return [(path, layer, twin) for (path, layer), twin in zip(theirs.named_modules(), ours.modules(), strict=True)]


def _take_off(theirs: nn.Module, ours: nn.Module) -> None:
    """Take a bypass LoRA off a copied layer: one of a clone that is loaded, or what ejecting one has left behind."""
    forward = vars(theirs).get("forward")
    if hasattr(getattr(forward, "__self__", None), "original_forward"):
        ours.__dict__.pop("forward", None)


def _hold_weights(layer: nn.Module, model: Any, path: str) -> None:
    """A copied layer of the network holds its weights, patched, and fetches none."""
    kept = getattr(model, "weight_wrapper_patches", {})
    hold_weights(layer, {name: kept.get(f"{_NETWORK}.{path}.{name}", []) for name in ("weight", "bias")})


def hold_weights(layer: nn.Module, functions: Mapping[str, list[Any]]) -> None:
    """A copied layer holds its weights and fetches none; ``functions`` are what acts on each when it runs."""
    for name in _FETCHING:
        layer.__dict__.pop(name, None)
    for name in ("weight", "bias"):
        if f"{name}_function" in vars(layer):
            setattr(layer, f"{name}_function", list(functions.get(name, [])))


def _put(twin: Any, path: str, value: Any, dtype: torch.dtype | None) -> None:
    """Put an object patch on our model, and on nothing that it shares with the host's.

    Raises:
        ValueError: the patch lies deep inside something shared.
    """
    owner, _, name = path.rpartition(".")
    if not owner:
        if name != _NETWORK:
            _replace(twin, name, value)
            return
        raise ValueError(
            "a node before this one has replaced the whole network of the model, which cannot be trained; remove "
            "that node"
        )
    if owner.split(".")[0] == "model_sampling":
        return  # read through get_model_object where it counts
    if owner.split(".")[0] != _NETWORK:
        raise ValueError(
            f"a node before this one has replaced '{path}' of the model, which training cannot handle; remove that node"
        )
    layer = comfy.utils.get_attr(twin, owner)
    if isinstance(value, nn.Module):
        value = frozen_copy(value, dtype)
    elif isinstance(getattr(value, "__self__", None), nn.Module):
        value = partial(value.__func__, layer)
    setattr(layer, name, value)


def _replace(twin: Any, name: str, value: Any) -> None:
    """Set an attribute of our model, a module or not, whatever it was before."""
    twin._modules.pop(name, None)
    if isinstance(value, nn.Module):
        twin.__dict__.pop(name, None)
        twin._modules[name] = value
    else:
        twin.__dict__[name] = value


def _fetch(model: Any, path: str, kept: Container[str] = (), as_loaded: bool = False) -> Tensor:
    """A weight of the network that the host has not loaded: patched, on the load device or, if ``kept``, on the CPU.

    With ``as_loaded`` it is what loading would make of it, else what the host makes of it when its layer runs.
    """
    key, computed = f"{_NETWORK}.{path}", model.model.get_dtype_inference()
    if path in kept and key not in model.patches:
        return patched_weight(model, key, _CPU, computed, copy=False)
    patched = as_loaded and key in model.patches
    weight = model.patch_weight_to_device(key, model.load_device, return_weight=True) if patched else None
    weight = patched_weight(model, key, model.load_device, computed) if weight is None else weight
    return weight.to(_CPU) if path in kept else weight


def patched_weight(patcher: Any, key: str, device: torch.device, computed: torch.dtype, copy: bool = True) -> Tensor:
    """A weight with the patches that a patcher of the host puts on it, whether it is loaded or not.

    Under the dynamic patcher it has the file's type until it is loaded; that of the model is noted beside it. Nothing
    can be added to quantized and 8-bit weights, so patched ones have the type that the layers compute in. Without
    ``copy`` it may be the host's own tensor.
    """
    # Small layers are patched when any clone is loaded; their original weights are kept here.
    plain = patcher.backup[key].weight if key in patcher.backup else comfy.utils.get_attr(patcher.model, key)
    owner, _, name = key.rpartition(".")
    layer = patcher.model.get_submodule(owner)
    dtype = getattr(layer, f"{name}_comfy_model_dtype", None) or plain.dtype
    if key not in patcher.patches:
        return plain.to(device, dtype, copy=copy)
    exact = plain.to(device, torch.float32, copy=True).dequantize()
    patched = comfy.lora.calculate_weight(patcher.patches[key], exact, key)
    return patched.to(dtype if dtype.itemsize > 1 else computed)
