"""A process in which one runner trains: one JSON object a line in, one a line out, until the input ends.

The argument is a JSON object {runner, threads, task}; requests are {steps, objective, every}. What the host
prints goes to the standard error.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

FOLDER = Path(__file__).resolve().parent
sys.path[0] = str(FOLDER.parent)
from harness import ROOT, load  # noqa: E402

del sys.path[0]


def main() -> None:
    order = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    load("devtools", ROOT / "devtools" / "__init__.py")
    from devtools.pack import enter_host, load_pack

    with tempfile.TemporaryDirectory() as base:
        enter_host(Path(os.environ["COMFYUI_PATH"]), Path(base))
        load_pack()
        obey(order, answers)


def obey(order: dict[str, Any], answers: TextIO) -> None:
    """Load the runner, then train as often as asked."""
    import torch

    torch.set_num_threads(order["threads"])
    load("bench_shared", FOLDER.parent / "shared" / "__init__.py")
    trainers = load("trainers", FOLDER / "__init__.py")
    from trainers import measure
    from trainers.task import Task

    runner = trainers.RUNNERS[order["runner"]](Task(**order["task"]))
    loaded = measure.memory_mb()
    measure.forget_peak()
    for line in sys.stdin:
        request = json.loads(line)
        with measure.StepClock(request.get("every", 0)) as clock:
            runner.train(request["steps"], request["objective"])
        answer = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "memory_mb": clock.memory_mb}
        answer |= {"loaded_mb": loaded, "peak_mb": measure.peak_mb(), "settings": runner.settings}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
