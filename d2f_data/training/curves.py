"""Curves of a training run as TensorBoard event files, where TensorBoard is installed.

They lie in the run's folder, so that ``tensorboard --logdir output/diff2flow/runs`` shows all runs beside each other.
A session that resumes hides what an earlier one wrote beyond the step at which it goes on.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core import StepRecord

LOGGER = logging.getLogger("diff2flow")


class Curves:
    """Context manager that writes values of steps; without TensorBoard it does nothing.

    Args:
        folder: folder of the run; nothing is created before the first value.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        self._works = find_spec("tensorboard") is not None

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._try(lambda: self._writer and self._writer.close())

    def add(self, record: StepRecord, validation: float | None = None) -> None:
        """Write a step, and its validation loss if there is one. A disk that is full ends the curves, not the run."""
        values = {"loss": record.loss, "learning_rate": record.learning_rate, "gradient_norm": record.grad_norm}
        self._try(lambda: self._add(record.step, {**values, "validation_loss": validation}))

    def _add(self, step: int, values: Mapping[str, float | None]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def _try(self, write: Any) -> None:
        if not self._works:
            return
        try:
            write()
        except (OSError, ImportError) as error:
            self._works = False
            LOGGER.warning("TensorBoard's event file of %s is not written any more: %s", self.folder.name, error)
