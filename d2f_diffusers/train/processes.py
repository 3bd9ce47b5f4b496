"""accelerate's processes as those of ``d2f_core``: a sum over all of them, with a sentence if one is gone."""

from typing import Any

import torch
from torch import Tensor

from d2f_core import install_command


class AcceleratedProcesses:
    """The processes that ``accelerate launch`` or ``torchrun`` has started.

    Args:
        accelerator: accelerate's Accelerator.
        sharded: whether the trained weights are shards (FSDP).
    """

    def __init__(self, accelerator: Any, sharded: bool = False) -> None:
        self.accelerator, self.sharded = accelerator, sharded
        self.rank, self.count = int(accelerator.process_index), int(accelerator.num_processes)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, where the values are.

        Raises:
            RuntimeError: another process has ended.
        """
        if self.count == 1:
            return values
        try:
            return self.accelerator.reduce(values.to(self.accelerator.device), "sum").to(values.device)
        except (RuntimeError, torch.distributed.DistBackendError) as error:
            raise RuntimeError(
                f"another of the {self.count} processes of this run has ended ({str(error).splitlines()[0]}); what was "
                "learned since the last checkpoint is lost: start again with --resume_from_checkpoint latest"
            ) from error


def check_tracker(name: str | None) -> None:
    """Raise ValueError for a tracker that accelerate lacks, or whose package is missing, as it would be silent."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name is None or name == "all" or name in map(str, get_available_trackers()):
        return
    if name in LOGGER_TYPE_TO_CLASS:
        raise ValueError(
            f"--report_to {name} needs a package that is missing: run {install_command(name)}, or leave it out"
        )
    choices = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
    raise ValueError(f"--report_to {name} is no tracker of accelerate's; choose one of {choices}, or leave it out")


def make_accelerator(report_to: str | None, folder: Any) -> Any:
    """accelerate's Accelerator; on the CPU where there is no accelerator."""
    from accelerate import Accelerator

    mps = getattr(torch.backends, "mps", None)
    xpu = getattr(torch, "xpu", None)
    found = torch.cuda.is_available() or (mps is not None and mps.is_available()) or (xpu and xpu.is_available())
    return Accelerator(cpu=not found, log_with=report_to, project_dir=str(folder))
