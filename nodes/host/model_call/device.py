"""What is on the device before training begins, and what the host is told to take off it."""

from typing import Any

import comfy.model_management
import torch

# More than any device has: training takes what it can get, so that the host clears the device, as its own trainer does.
_EVERYTHING = 1e20


def clear_device(model: Any, offload: bool = False) -> None:
    """Load a MODEL for training, and let text encoders, VAEs and all other models leave its device.

    The dynamic patcher loads nothing beforehand: its weights are fetched, patched, for the frozen copy. With
    ``offload`` nothing is loaded either, and the MODEL leaves as well, as it would at a lack of memory.
    """
    management = comfy.model_management
    if offload:
        management.free_memory(_EVERYTHING, model.load_device)
        return
    dynamic = getattr(model, "is_dynamic", lambda: False)()
    if not dynamic:
        management.load_models_gpu([model], memory_required=_EVERYTHING, force_full_load=True)
    unload_others(model)
    if dynamic:
        management.free_memory(1.2 * model.model_size() + management.minimum_inference_memory(), model.load_device)


def unload_others(model: Any) -> None:
    """Let all models but this one leave its device."""
    management = comfy.model_management
    own = [one for one in management.current_loaded_models if one.model is not None and model.is_clone(one.model)]
    management.free_memory(_EVERYTHING, model.load_device, keep_loaded=own)


def remarks_on_offload(model: Any, compiled: bool) -> list[str]:
    """Sentences for the user who keeps a MODEL's weights in the main memory.

    Args:
        model: MODEL.
        compiled: whether its blocks were to be compiled.
    """
    remarks = ["not compiled, because the weights come from the main memory (offload)"] if compiled else []
    if model.offload_device == model.load_device and model.load_device.type != "cpu":
        remarks.append(
            "offload saves nothing, because ComfyUI keeps all models on the device; start it without --highvram and "
            "--gpu-only"
        )
    return remarks


def remarks_on_type(device: torch.device, dtype: torch.dtype) -> list[str]:
    """A sentence for the user whose processor lacks instructions for the data type of the computation."""
    is_slow = device.type == "cpu" and dtype != torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return ["slow, because this processor has no instructions for 16 bits; choose precision = fp32"] if is_slow else []
