"""Memory of a training step without a card: every tensor of the true shapes counted on torch's meta device.

The step is the trainer's own network and adapters with AdamW. Attention keeps what flash attention keeps: its inputs,
its output, and a float per query. Not counted are CUDA itself, its libraries and their work spaces, and what torch's
allocator wastes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from bench_shared.live_memory import LiveMemory
from comfy.ldm.modules import attention
from torch import Tensor, nn

from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters
from diff2flow_kit.nodes import host

from .cases import CONFIGS, KINDS, Case

META, CPU = torch.device("meta"), torch.device("cpu")
GB = 1 << 30
WEIGHTS = torch.float16
RANK = 16


def counted_gb(case: Case, checkpointing: bool, offload: bool, kept: torch.dtype = WEIGHTS) -> float:
    """The most that a step takes, in GB.

    Args:
        case: model, batch and size.
        checkpointing, offload: as in the trainer.
        kept: type of the frozen weights; the computation is in float16.
    """
    with torch.inference_mode(False), without_values():
        model = model_on(CPU if offload else META, case.model, kept)
        memory = LiveMemory(META.type)
        for weight in model.model.diffusion_model.parameters():
            if weight.device == META:
                memory.add(weight)
        with memory, host.training(model, recompute=checkpointing, offload=offload) as network:
            settings = AdapterSettings(rank=RANK)
            adapters = make_adapters(network.module, settings, torch.Generator())
            parameters = list(nn.ModuleList(adapters.values()).to(META).parameters())
            optimizer = torch.optim.AdamW(parameters, foreach=False)  # like the fused one, without large temporaries
            told = [network.condition(one, case.latents().shape[1:]) for one in case.conditionings()[:1]]
            condition = {name: value.expand(case.batch, *value.shape[1:]) for name, value in told[0].items()}
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()  # its moments are there from the first step on
            optimizer.zero_grad(set_to_none=True)
            with attached(network.module, adapters), torch.enable_grad():
                step(partial(network, condition=condition), case, optimizer, parameters)
    return memory.peak / GB


def step(network: Any, case: Case, optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    """A step that is not the first: forward, backward and the optimizer."""
    x = torch.empty(case.batch, 4, case.size // 8, case.size // 8, device=META)
    output = network(x, torch.full((case.batch,), 500.0))
    (output - x).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def model_on(device: torch.device, name: str, dtype: torch.dtype) -> Any:
    """MODEL of a true shape whose weights have no values, and on the CPU no memory either."""
    config = getattr(comfy.supported_models, KINDS[name])(dict(CONFIGS[name]))
    config.set_inference_dtype(dtype, WEIGHTS)
    base = config.get_model({}, device=META)
    for layer in base.diffusion_model.modules():
        for key, weight in layer._parameters.items():
            if weight is not None:
                kept = torch.zeros((), dtype=dtype).expand(weight.shape)
                kept = kept if device == CPU else torch.empty_like(weight, dtype=dtype)
                layer._parameters[key] = nn.Parameter(kept, requires_grad=False)
    base.eval()
    patcher = comfy.model_patcher.ModelPatcher(base, load_device=META, offload_device=CPU)
    # The trainer takes the host's attention of PyTorch instead of what a node has set.
    patcher.model_options["transformer_options"]["optimized_attention_override"] = flash_attention
    return patcher


@contextmanager
def without_values() -> Iterator[None]:
    """The host is not asked to load anything, as it knows no meta device, and its attention has no values either."""
    module = sys.modules[host.TrainingNetwork.__module__]
    before = module.clear_device, attention.attention_pytorch
    module.clear_device, attention.attention_pytorch = lambda *given: None, flash_attention
    try:
        yield
    finally:
        module.clear_device, attention.attention_pytorch = before


def flash_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *others: Any, **options: Any) -> Tensor:
    """What an attention function of the host returns, with the memory of flash attention; (B, tokens, width) each."""
    return _Flash.apply(q, k, v, heads)


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        out = torch.empty_like(q)
        sums = torch.empty(len(q), heads, q.shape[1], device=q.device)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None
