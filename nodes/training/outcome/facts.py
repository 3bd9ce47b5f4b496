"""What the metadata of a LoRA say about its training."""

from collections.abc import Mapping
from typing import Any

from ....d2f_core import FlowAlignment
from ....d2f_data.files.lora_file import LoraFacts
from ....d2f_data.fingerprints import schedule_fingerprint
from ....d2f_data.training.plan import TrainingPlan
from ... import host
from ..items import TrainingItems


def facts_of(
    model: Any,
    plan: TrainingPlan,
    alignment: FlowAlignment,
    objective: str,
    items: TrainingItems,
    base: str,
    steps: int,
    own: Mapping[str, Any],
) -> LoraFacts:
    """The facts of the LoRA of a run.

    Args:
        model: MODEL that is trained.
        plan, alignment, objective, items: of the run; the name of the objective on this model.
        base: fingerprint of the model's weights.
        steps: number of steps so far.
        own: more about the run.
    """
    facts, (start, shift) = dict(items.facts), host.flow_settings(model) or ("t_min", 1.0)
    start, condition = str(facts.pop("start", start)), str(facts.pop("condition", ""))
    settings = {**plan.config(), **own, "items": len(items), "objective": objective, **facts}
    return LoraFacts(
        objective=objective,
        prediction=alignment.prediction,
        schedule=schedule_fingerprint(alignment.schedule, alignment.sigma_data),
        start=start,
        shift=shift,
        base=base,
        base_model=host.model_name(model),
        steps=steps,
        rank=plan.file_rank,
        alpha=plan.file_alpha,
        kind=plan.adapter,
        training=settings,
        condition=condition,
    )
