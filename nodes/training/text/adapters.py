"""The adapters of a run: those of the UNet, and those of the text encoders if they are trained."""

from collections.abc import Mapping
from typing import Any

import torch

from ....d2f_core import Adapter, AdapterSettings, attached, derive_seed, make_adapters
from ....d2f_data.training.groups import TEXT_ENCODERS
from ....d2f_data.training.plan import TrainingPlan
from ... import host
from ...network.text_condition import TextCondition
from ..start import StartingLora
from .network import TextTrainingNetwork

_TEXT_LAYERS = "linear:*.encoder.layers.*"  # those that kohya's trainers adapt


def run_adapters(
    model: Any,
    network: host.TrainingNetwork,
    condition: host.Condition,
    plan: TrainingPlan,
    start: StartingLora | None,
    base: str,
) -> tuple[dict[str, Adapter], str]:
    """The adapters of a run by the paths of their layers in ``network.module``, and what the node says about them.

    Args:
        model: MODEL of the network.
        network: what is trained.
        condition: conditioning kwargs of an item.
        plan: values of the widgets.
        start: LoRA to go on from, or None.
        base: fingerprint of the UNet's weights.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    make = host.ADAPTER_KINDS[plan.adapter]
    adapters = new = make_adapters(network.unet, plan.adapters(), generator, make, network.widened)
    note = ""
    if start is not None:
        adapters = start.adapters(model, network, new, plan, _clip(network))
        note = start.note(adapters, new, plan.objective_for(network.alignment).name, base, _clip(network))
    if isinstance(network, TextTrainingNetwork) and isinstance(condition, TextCondition):
        texts = _text_adapters(network, condition, plan)
        if start is not None:
            texts = start.text_adapters(network.clip, network.encoder.module, texts, plan)
        adapters = {**adapters, **{TEXT_ENCODERS + path: adapter for path, adapter in texts.items()}}
        note += f"; trains {len(texts)} layers of the text encoders"
    return adapters, note


def file_names(model: Any, network: host.TrainingNetwork) -> dict[str, str]:
    """Path of a layer in ``network.module`` -> its name in a LoRA file."""
    clip = _clip(network)
    texts = {} if clip is None else host.text_names(clip)
    return host.lora_names(model) | {TEXT_ENCODERS + path: name for path, name in texts.items()}


def _clip(network: host.TrainingNetwork) -> Any | None:
    return network.clip if isinstance(network, TextTrainingNetwork) else None


def _text_adapters(network: TextTrainingNetwork, condition: TextCondition, plan: TrainingPlan) -> Mapping[str, Adapter]:
    """New adapters of the layers that the conditioning depends on: behind clip skip there are others."""
    rank, module = plan.text_encoder_rank or plan.rank, network.encoder.module
    settings = AdapterSettings(_TEXT_LAYERS, rank, alpha=plan.alpha or None, dropout=plan.dropout)
    generator = torch.Generator().manual_seed(derive_seed(plan.seed, 1))
    made = make_adapters(module, settings, generator, host.ADAPTER_KINDS[plan.adapter])
    weights = {path: [p for p in adapter.parameters() if p.requires_grad] for path, adapter in made.items()}
    with attached(module, made), torch.enable_grad():
        answers = [value.float().sum() for value in network.encoded(condition).values() if value.requires_grad]
        every = [weight for own in weights.values() for weight in own]
        slopes = dict(zip(map(id, every), torch.autograd.grad(answers, every, allow_unused=True), strict=True))
    return {path: made[path] for path, own in weights.items() if any(slopes[id(one)] is not None for one in own)}
