"""What the file of a trained LoRA says about its training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ....d2f_core import Trainer
from ....d2f_data.files.lora_file import LoraFacts
from ....d2f_data.fingerprints import schedule_fingerprint
from ....d2f_data.image_sets.report.facts import set_facts
from ....d2f_data.training.epochs import epoch_facts
from ....d2f_data.training.plan import TrainingPlan
from ... import host
from ..items import TrainingItems
from ..text.network import text_settings


class Subject(NamedTuple):
    """What is trained: the MODEL, its network, what it learns, and the fingerprint of its weights."""

    model: Any
    network: host.TrainingNetwork
    items: TrainingItems
    base: str


def dtype_name(network: host.TrainingNetwork) -> str:
    """Name of the type that a network computes in."""
    return str(network.dtype).removeprefix("torch.")


def facts_of(subject: Subject, plan: TrainingPlan, trainer: Trainer, run_name: str) -> LoraFacts:
    """How the LoRA of a run was trained up to the current step."""
    model, network, items, base = subject
    facts, (start, shift) = dict(items.facts), host.flow_settings(model) or ("t_min", 1.0)
    start, condition = str(facts.pop("start", start)), str(facts.pop("condition", ""))
    objective, alignment = trainer.objective.name, network.alignment
    own = {"run_name": run_name, "items": len(items), "dtype": dtype_name(network), "objective": objective}
    own |= epoch_facts(plan, trainer) | text_settings(network, plan)
    settings: Mapping[str, Any] = {**plan.config(), **own, **facts}
    return LoraFacts(
        objective=objective,
        prediction=alignment.prediction,
        schedule=schedule_fingerprint(alignment.schedule, alignment.sigma_data),
        start=start,
        shift=shift,
        base=base,
        base_model=host.model_name(model),
        steps=trainer.step,
        rank=plan.file_rank,
        alpha=plan.file_alpha,
        kind=plan.adapter,
        training=settings,
        condition=condition,
        dataset=set_facts(items.captions),
    )
