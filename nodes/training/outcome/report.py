"""What the trainer says when it ends: done, or stopped; where the file is, and what next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ....d2f_data.files.lora_file import LoraModel
from ..status import duration


@dataclass(frozen=True)
class Outcome:
    """How a session of a run has ended.

    Attributes:
        run: name of the run.
        first, last, steps: steps before the session, after it, and of the whole run.
        seconds: that the session has taken.
        lora: the newest file, as loaders list it; empty without one.
        folder: folder that the file's name starts in.
        notes: sentences about the session, such as why it is a new run.
        extendable: whether more steps can be added to the run.
    """

    run: str
    first: int
    last: int
    steps: int
    seconds: float
    lora: str
    folder: str = ""
    notes: Sequence[str] = ()
    extendable: bool = True

    def finished(self) -> str:
        """The text of a run that has all of its steps, a sentence per line."""
        done = self.last - self.first
        if not done:
            head = f"Loaded: {self.run} had all of its {self.last} steps before, so nothing was trained."
        elif self.first:
            head = f"Done in {duration(self.seconds)}: resumed after step {self.first}, {done} more steps."
        else:
            head = f"Done in {duration(self.seconds)}: {done} steps."
        more = (
            "To train longer, raise 'steps' and run again."
            if self.extendable
            else "To train longer, connect the LoRA to 'start_lora' of another trainer."
        )
        where = f"LoRA file: {self.lora} (in {self.folder}), in the list of every LoRA loader."
        following = f"Next: choose it in Load LoRA (Diff2Flow), before any sampler. {more}"
        return "\n".join([head, where, following, *self._notes()])

    def stopped(self) -> str:
        """The text of a run that was cancelled or failed."""
        saved = f"saved as {self.lora}" if self.lora else "nothing new was learned"
        head = f"Stopped after step {self.last} of {self.steps}: {saved}. Run again to go on from there."
        return "\n".join([head, *self._notes()])

    def _notes(self) -> list[str]:
        return [f"{note[:1].upper()}{note[1:]}." for note in self.notes]


class Learned(NamedTuple):
    """Results of a run: the LoRA, the loss of each step, (step, loss) of each validation, and what shows them."""

    lora: LoraModel
    losses: list[float]
    validation: list[tuple[int, float]]
    sheet: Any | None  # a PIL image; None without sample prompts
    report: str  # what the node says in the end
    file: str  # the LoRA file, as loaders list it
