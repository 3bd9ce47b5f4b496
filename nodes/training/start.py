"""Going on from a LoRA: what the trainer's input 'start_lora' does, and what the user should know about it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...d2f_core import Adapter, LowRankAdapter
from ...d2f_data.files.lora_file import LoraFacts, check_finite
from ...d2f_data.fingerprints import items_fingerprint
from ...d2f_data.training.plan import TrainingPlan
from .. import host


@dataclass(frozen=True)
class StartingLora:
    """A LoRA that training starts from.

    Attributes:
        tensors: key -> tensor, in any layout that the host knows.
        facts: how it was trained; None if it does not say.
    """

    tensors: Mapping[str, Tensor]
    facts: LoraFacts | None

    @classmethod
    def of(cls, lora: Mapping[str, Tensor]) -> "StartingLora":
        """That of a LORA_MODEL. Raises ValueError if a weight of it is not finite."""
        try:
            check_finite(lora)
        except ValueError as error:
            raise ValueError(f"the LoRA connected to start_lora cannot be used: {error}") from error
        return cls(lora, getattr(lora, "facts", None))

    def fingerprint(self) -> str:
        """Hash of its tensors, 16 hex digits."""
        return items_fingerprint([], [self.tensors])

    def adapters(
        self,
        model: Any,
        network: host.TrainingNetwork,
        new: Mapping[str, Adapter],
        plan: TrainingPlan,
        clip: Any = None,
    ) -> dict[str, Adapter]:
        """Adapters that start at it, and the new ones of layers that it does not have.

        Raises:
            ValueError: it was trained with another prediction type, is not for this model, or cannot be gone on with.
        """
        found = network.alignment.prediction
        if self.facts is not None and self.facts.prediction != found:
            raise ValueError(
                f"the LoRA connected to start_lora was trained on a model with {self.facts.prediction}-prediction, but "
                f"this one has {found}-prediction; connect the checkpoint that it was trained on, or a "
                f"fine-tune of it; {host.FIND_OUT}"
            )
        return host.adapters_from(model, network.unet, self.tensors, new, plan.adapter, plan.dropout, clip)

    def text_adapters(
        self, clip: Any, encoders: nn.Module, new: Mapping[str, Adapter], plan: TrainingPlan
    ) -> dict[str, Adapter]:
        """The same for text encoders."""
        return host.text_adapters_from(clip, encoders, self.tensors, new, plan.adapter, plan.dropout)

    def note(
        self, adapters: Mapping[str, Adapter], new: Mapping[str, Adapter], objective: str, base: str, clip: Any = None
    ) -> str:
        """What the node says about it: its rank, what is new, and what differs from how it was trained."""
        kept = sum(adapters[path] is not new.get(path) for path in adapters)
        rank = _rank(adapters)[0]
        said = [f"starts from a LoRA with {kept} layers" + (f" of rank {rank}" if rank else "")]
        if kept < len(adapters):
            said.append(f"{len(adapters) - kept} layers are new")
        if clip is None and host.has_text_layers(self.tensors):
            said.append("without its layers of the text encoders (connect 'clip' to go on with them)")
        if self.facts is not None:
            said += self._differences(objective, base)
        return "; " + ", ".join(said)

    def _differences(self, objective: str, base: str) -> list[str]:
        facts, found = self.facts, []
        assert facts is not None
        if facts.objective != objective:
            found.append(f"trained with {facts.objective} so far")
        if facts.base != base:
            found.append(
                "trained on other weights than this model's (a fine-tune, or the LoRA is applied before the trainer as "
                "well, where it would act twice)"
            )
        return found

    def recorded_in(self, facts: LoraFacts, adapters: Mapping[str, Adapter]) -> LoraFacts:
        """The facts of what is trained from it: ranks as they are, and where it came from."""
        rank, alpha = _rank(adapters)
        training = {**facts.training, "start_lora": self.fingerprint()}
        if self.facts is not None:
            training |= {"start_objective": self.facts.objective, "start_steps": self.facts.steps}
        return replace(facts, rank=rank, alpha=alpha, training=training)


def _rank(adapters: Mapping[str, Adapter]) -> tuple[int, float]:
    """Rank and alpha of all adapters of low rank; zeros if they differ, or there are none."""
    found = {(one.rank, float(one.alpha)) for one in adapters.values() if isinstance(one, LowRankAdapter)}
    return next(iter(found)) if len(found) == 1 else (0, 0.0)
