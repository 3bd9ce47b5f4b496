"""A network in training together with the text encoders of its captions.

    prompt -> text encoders + adapters -> conditioning -> UNet + adapters -> loss

Texts are encoded in each call of the network, so that whoever calls it (training, validation, previews) sees them
as the adapters that are on the encoders make them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ....d2f_data.image_sets.report.facts import SetCaption
from ....d2f_data.training.groups import TEXT_ENCODERS
from ....d2f_data.training.plan import TrainingPlan
from ... import host
from ...network.conditionings import join
from ...network.text_condition import TextBatch, TextCondition


class UNetWithText(nn.Module):
    """The UNet under its own paths, and the text encoders behind ``text_encoders.``."""

    def __init__(self, unet: nn.Module, text_encoders: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoders = unet, text_encoders

    def get_submodule(self, target: str) -> nn.Module:
        if target.startswith(TEXT_ENCODERS):
            return self.text_encoders.get_submodule(target.removeprefix(TEXT_ENCODERS))
        return self.unet.get_submodule(target)


class TextTrainingNetwork(host.TrainingNetwork):
    """A network whose conditionings are encoded in each call, by encoders with adapters.

    Args:
        network: the network.
        clip: CLIP whose text encoders are trained.
        recompute: compute their layers again in the backward pass.

    Raises:
        ValueError: the text encoders, or those of this model, cannot be trained.
    """

    def __init__(self, network: host.TrainingNetwork, clip: Any, recompute: bool = False) -> None:
        self.__dict__.update(vars(network))
        if not self.cross_attention:
            raise ValueError(
                f"the text encoders of this model ({type(self._base).__name__}) cannot be trained, only those of "
                "SD1.5, SD2.1 and SDXL; disconnect 'clip' to train the model alone"
            )
        self.encoder, self.clip = host.TextEncoder(clip, self.device, recompute), clip
        self.module = UNetWithText(self.unet, self.encoder.module)

    def __call__(self, network_input: Tensor, timestep: Tensor, condition: Any, role: int = 0) -> Tensor:
        """The network's answer, (B, *), float32; texts are encoded first, each once."""
        if isinstance(condition, TextCondition):
            condition = self.encoded(condition)
        elif isinstance(condition, TextBatch):
            known = {id(one): self.encoded(one) for one in condition}
            condition = join([known[id(one)] for one in condition], self.cross_attention)
        return super().__call__(network_input, timestep, condition, role)

    def condition(self, conditioning: Any, shape: Sequence[int]) -> TextCondition:
        """Conditioning kwargs of a CONDITIONING's first entry, with its text."""
        return TextCondition(super().condition(conditioning, shape), conditioning[0], shape)

    def encoded(self, condition: TextCondition) -> host.Condition:
        """Conditioning kwargs of a text by the encoders as they are now, tensors (1, ...)."""
        options = condition.entry[1]
        text: SetCaption = options[host.TEXT_KEY]
        ((cross, own),) = self.encoder.encode(text.text, text.prompt_weights)
        kwargs = dict(self._kwargs([[cross, {**options, **own}]], condition.shape))
        if host.CALL_KEY in condition:
            kwargs[host.CALL_KEY] = condition[host.CALL_KEY]
        return kwargs

    def check_caption(self, options: Mapping[str, Any], what: str) -> None:
        """As of every network; and raise ValueError for a conditioning that does not know its text."""
        super().check_caption(options, what)
        if host.TEXT_KEY not in options:
            raise ValueError(
                f"'clip' is connected, so that the text encoders are trained, but a conditioning of '{what}' does not "
                "know its text; take it from 'Training Set from Folder', whose captions keep theirs, or disconnect "
                "'clip'"
            )


def with_text(
    network: host.TrainingNetwork, clip: Sequence[Any] | None, pairs: Any, recompute: bool = False
) -> host.TrainingNetwork:
    """The network with the text encoders of what is connected to 'clip'; itself if nothing is.

    With ``recompute`` their layers are computed again in the backward pass.

    Raises:
        ValueError: they cannot be trained, or not on reflow pairs.
    """
    if not clip:
        return network
    if pairs:
        raise ValueError(
            "both 'clip' and 'pairs' are connected, but reflow pairs were made with the text encoders as they are; "
            "disconnect 'clip'"
        )
    return TextTrainingNetwork(network, clip[0], recompute)


def text_settings(network: host.TrainingNetwork, plan: TrainingPlan) -> dict[str, Any]:
    """Settings of the run that count only if text encoders are trained; {} otherwise."""
    if not isinstance(network, TextTrainingNetwork):
        return {}
    rank, rate = plan.text_encoder_rank or plan.rank, plan.text_encoder_lr
    return {"text_encoders": network.encoder.identity, "text_encoder_rank": rank, "text_encoder_lr": rate}
