"""Steps and epochs of a run, as its LoRA files tell them.

epochs = ceil(steps * accumulation / batches per epoch)
"""

from ..core import Trainer
from .plan import TrainingPlan


def epoch_facts(plan: TrainingPlan, trainer: Trainer) -> dict[str, int]:
    """Steps and epochs of the whole run, and the epoch of the current step, the first one being 1."""
    batches = trainer.order.per_epoch
    of_steps = {"num_epochs": plan.steps, "epoch": trainer.step}
    epochs = {name: -(-steps * plan.accumulation // batches) for name, steps in of_steps.items()}
    return {"max_steps": plan.steps, "batches_per_epoch": batches, **epochs}
