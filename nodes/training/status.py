"""The status line of a training run: what the node shows while it trains."""

import time
from collections.abc import Sequence

from ...d2f_core import StepRecord
from ...d2f_data.files.run_folder import RunFolder
from .. import host


class StatusLine:
    """Turns step records into a line of text with speed and time left.

    Args:
        done: number of steps done before this session.
        steps: number of steps of the whole run.
        note: appended to every line.
        remarks: likewise, also those that are added later.
    """

    def __init__(self, done: int, steps: int, note: str = "", remarks: Sequence[str] = ()) -> None:
        self.first, self.steps, self.start = done, steps, time.perf_counter()
        self._note, self._remarks, self._said = note, remarks, ""

    @property
    def note(self) -> str:
        """What every line ends with."""
        return "".join([self._note, *(f"; {remark}" for remark in self._remarks)])

    def opening(self) -> str:
        """The line before the first step."""
        self._said = f"resuming after step {self.first}" if self.first else "starting"
        return self.again()

    def line(self, record: StepRecord, losses: list[float], checks: list[tuple[int, float]]) -> str:
        """Time left, step, loss and its mean over 50 steps, validation loss, learning rate, speed.

        A narrow node cuts the end of the line off.
        """
        recent = losses[-50:]
        pace = (time.perf_counter() - self.start) / (record.step - self.first)
        validation = f", validation {checks[-1][1]:.4g}" if checks else ""
        self._said = (
            f"{duration(pace * (self.steps - record.step))} left, step {record.step} of {self.steps}: "
            f"loss {record.loss:.4g} (mean {sum(recent) / len(recent):.4g}{validation}), "
            f"lr {record.learning_rate:.2g}, {1 / pace:.3g} steps/s"
        )
        return self.again()

    def again(self) -> str:
        """The last line, with what is remarked by now."""
        return self._said + self.note


def why_new(folder: RunFolder) -> str:
    """Why ``auto`` did not resume the last run of the name, for the node's text; the log has all of it."""
    name, previous, differs = folder.name, folder.previous, folder.differs
    if not differs:
        return ""
    host.LOGGER.info("%s is a new run; %s has other settings:\n  %s", name, previous, "\n  ".join(differs))
    names = [line.partition(":")[0] for line in differs]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; new run {name} (not as in {previous}: {', '.join(names[:3])}{more})"


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps is done after this one; 0 for never."""
    return every > 0 and step % every == 0


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes, in words."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
