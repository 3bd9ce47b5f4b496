"""``accelerate launch -m d2f_diffusers.train ...``: reads the command line, loads the pipeline, trains."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2f_core import NonFiniteLossError, install_command

from .flags import FULL, read
from .network import PipelineNetwork


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line; what the user can repair is said in a sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return train(arguments)
    except ModuleNotFoundError as error:
        return fail(f"{error}; run {install_command('diff2flow-kit[train]')}")
    except (ValueError, OSError, NonFiniteLossError, RuntimeError, ImportError) as error:
        return fail(str(error))


def fail(message: str) -> int:
    print(f"d2f_diffusers.train: {message}", file=sys.stderr, flush=True)
    return 1


def train(arguments: Sequence[str] | None) -> int:
    """Train what a command line asks for."""
    environ = os.environ
    plan, run = read(arguments, int(environ.get("WORLD_SIZE", "1")), environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    from .processes import AcceleratedProcesses, check_tracker, make_accelerator
    from .run import TrainingRun

    check_tracker(run.report_to)
    pipeline = load(run.model)
    accelerator = make_accelerator(run.report_to, run.output)
    processes = AcceleratedProcesses(accelerator)
    network = PipelineNetwork(
        pipeline,
        accelerator.device,
        plan.precision,
        plan.checkpointing,
        plan.adapter == FULL,
        run.data.images is not None,
    )
    with accelerator.main_process_first():
        items = run.data.items(network)
    accelerator.init_trackers(plan.run_name, config=plan.config())
    training = TrainingRun(plan, run, network, items, processes, accelerator.print)
    network.move_encoders("cpu")
    accelerator.wait_for_everyone()
    code = training.train()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return code


def load(name: str) -> Any:
    """A pipeline of a folder or of the hub.

    Raises:
        ValueError: there is none, or one of a class that diffusers does not have; names it.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as messages

    messages.set_verbosity_error()
    messages.disable_progress_bar()
    looks_local = Path(name).exists() or name.startswith((".", "/", "~")) or "\\" in name
    if looks_local and not (Path(name) / "model_index.json").is_file():
        raise ValueError(
            f"--pretrained_model_name_or_path {name} is no diffusers pipeline: there is no model_index.json; name the "
            "folder of one (diff2flow export-demo makes one), or a model of the hub"
        )
    try:
        return DiffusionPipeline.from_pretrained(name)
    except AttributeError as error:  # what diffusers raises for a class that it does not have
        raise ValueError(
            f"--pretrained_model_name_or_path {name} is of a class that this diffusers does not have ({error}); name a "
            "pipeline of SD1.5, SD2.x or SDXL, or update diffusers"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
