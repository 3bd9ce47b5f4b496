"""What the host believes a MODEL to be, and what else it might be: the candidates of a probe."""

from dataclasses import dataclass
from typing import Any

import comfy.model_sampling

from ....d2f_core import PREDICTIONS, FlowAlignment, FlowSchedule, NoiseSchedule
from ....d2f_core.probe import Candidate, candidates
from ..model import REPORT_NODE, alignment_of, is_converted, model_name, sampling_of

# sigma_ve above which a last row stands for pure noise; that of the host's zero terminal SNR is 4518.
_ZERO_TERMINAL = 1000.0
_SAMPLING = "model_sampling"


@dataclass(frozen=True)
class Belief:
    """What the host believes.

    Attributes:
        kind: of model, and the class of its network.
        name: one of ``PREDICTIONS``; "" for what this pack cannot read.
        unreadable: why it cannot.
        sampling: classes of ``model_sampling``.
        alignment: schedule and prediction type, None if unreadable.
        is_converted: by this pack.
        from_node: whether a node has set ``model_sampling``, and not the loader.
        shift: of the levels of schedulers; None without one.
    """

    kind: str
    name: str
    unreadable: str
    sampling: str
    alignment: FlowAlignment | None
    is_converted: bool
    from_node: bool
    shift: float | None

    @property
    def zero_terminal(self) -> bool:
        """Whether the noisiest level is pure noise."""
        schedule = None if self.alignment is None else self.alignment.schedule
        return isinstance(schedule, NoiseSchedule) and float(schedule.sigma_ve[-1]) > _ZERO_TERMINAL


def belief_of(model: Any) -> Belief:
    """What the host believes a MODEL to be; raises nothing for what it does not know."""
    sampling, alignment, unreadable = sampling_of(model), None, ""
    try:
        alignment = alignment_of(model, REPORT_NODE)
    except ValueError as error:
        unreadable = str(error)
    shift = getattr(sampling, "shift", None)
    return Belief(
        kind=f"{model_name(model)} ({type(model.model).__name__}, {type(model.model.diffusion_model).__name__})",
        name="" if alignment is None else _name(alignment),
        unreadable=unreadable,
        sampling=" + ".join(base.__name__ for base in type(sampling).__bases__),
        alignment=alignment,
        is_converted=is_converted(model),
        from_node=_SAMPLING in model.object_patches,
        shift=float(shift) if isinstance(shift, int | float) else None,
    )


def _name(alignment: FlowAlignment) -> str:
    """The name of the row that an output is read with."""
    return next(name for name, row in PREDICTIONS.items() if row is alignment.row)


def probe_candidates(model: Any) -> list[Candidate]:
    """What a MODEL might be: its own schedule for the kind that it is believed to be, the usual one for the other."""
    alignment = belief_of(model).alignment
    own = None if alignment is None else alignment.schedule
    table = NoiseSchedule.from_sigmas(comfy.model_sampling.ModelSamplingDiscrete(model.model.model_config).sigmas)
    if alignment is None or own is None:
        return candidates(table, FlowSchedule(1000.0))
    if isinstance(own, FlowSchedule):
        return candidates(table, own)
    return candidates(own, FlowSchedule(1000.0), alignment.sigma_data)
