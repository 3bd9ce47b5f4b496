"""Weights sharded over processes (FSDP2): torch's ``fully_shard``, set up by accelerate's own configuration.

    accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP ...

Files hold whole tensors: ``gathered`` collects them for the first process, and ``like_shards`` hands them out again. So
a checkpoint does not know how many processes there were.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

REMEDY = "train a LoRA, or start without --use_fsdp"


def fsdp_plugin(accelerator: Any) -> Any:
    """accelerate's FSDP settings; None where it is not asked for, or a single process trains.

    Raises:
        ValueError: FSDP of the first version is asked for.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true" or accelerator.num_processes == 1:
        return None
    from accelerate import FullyShardedDataParallelPlugin

    # accelerate itself takes the plugin up on devices only, not on the CPU.
    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"accelerate's configuration asks for FSDP version {plugin.fsdp_version}; add --fsdp_version 2 to "
            "accelerate launch, or answer 2 in accelerate config"
        )
    return plugin


def check_shardable(optimizer: str, dtype: torch.dtype) -> None:
    """Raise ValueError for settings that do not work on sharded weights."""
    if optimizer != "adamw":
        raise ValueError(f"the optimizer {optimizer!r} cannot update sharded weights; use 'adamw', {REMEDY}")
    if dtype == torch.float16:
        raise ValueError(f"sharded weights cannot be trained in float16; use --mixed_precision bf16, {REMEDY}")


def shard(unet: nn.Module, accelerator: Any, plugin: Any, dtype: torch.dtype) -> None:
    """Shard the parameters of a network in place, by the plugin's wrapping policy.

    Args:
        unet: the network, in float32 on the accelerator's device.
        accelerator, plugin: accelerate's.
        dtype: type that it computes in, which gathered weights have.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    plugin.set_auto_wrap_policy(unet)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, unet)
    cast = None if dtype == torch.float32 else dtype
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(param_dtype=cast, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in reversed(list(unet.modules())):
        if module is unet or (wraps is not None and wraps(module)):
            # With weights that stay gathered after a forward pass, those of a picture would be trained on.
            fully_shard(
                module, mesh=mesh, mp_policy=policy, offload_policy=plugin.cpu_offload, reshard_after_forward=True
            )


def is_shard(value: Any) -> bool:
    """Whether a value is a tensor of which each process holds a part."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def gathered(value: Any, keep: bool) -> Any:
    """Nested dicts, lists and tuples with whole tensors, on the CPU, instead of shards; all processes must call it.

    Args:
        value: the same structure in every process.
        keep: whether this process needs the tensors; the others get None for each.
    """
    if is_shard(value):
        whole = value.detach().full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gathered(one, keep) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gathered(one, keep) for one in value)
    return value


def like_shards(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a trainer, of whole tensors, as shards like those of another state of it; no process asks another.

    Args:
        state: as it was saved.
        own: of the trainer that it is for.
    """
    weights = list(own["weights"].values())
    moments = {
        number: {name: _like(value, weights[number]) for name, value in values.items()}
        for number, values in state["optimizer"]["state"].items()
    }
    found = {**state, "optimizer": {**state["optimizer"], "state": moments}}
    for part in ("weights", "average"):
        if own[part] is not None:
            found[part] = {name: _like(value, own[part][name]) for name, value in state[part].items()}
    return found


def _like(value: Any, own: Any) -> Any:
    """A whole tensor as a shard like ``own``, if that is one of the same shape."""
    if not (is_shard(own) and isinstance(value, Tensor) and value.shape == own.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(own.device)
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)
