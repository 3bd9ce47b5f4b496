"""Shared by the training scripts: import of ComfyUI, JSON-lines log, clock, thread choice, weight files, renders."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .render import render_batch
from .scenes import Scene

FOLDER = Path(__file__).resolve().parent
WEIGHTS = FOLDER / "weights"
LOG = FOLDER / "training_log.jsonl"


def import_host() -> None:
    """Make `comfy` importable from the folder in COMFYUI_PATH, in CPU mode if there is no GPU."""
    if "comfy" not in sys.modules:
        root = os.environ.get("COMFYUI_PATH", "")
        if not (Path(root) / "comfy").is_dir():
            raise SystemExit(f"COMFYUI_PATH is {root!r}; set it to a ComfyUI folder (the one with main.py)")
        sys.path.insert(0, root)
    import comfy.cli_args

    if not torch.cuda.is_available():
        comfy.cli_args.args.cpu = True


def half_precision(device: torch.device | str) -> torch.autocast:
    """bfloat16, but not on a processor without AVX-512, where it takes ten times as long as float32."""
    kind = torch.device(device).type
    is_slow = kind == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.autocast(kind, torch.bfloat16, enabled=not is_slow)


class Clock:
    """Training time in seconds, including the time before the run was resumed."""

    def __init__(self, before: float = 0.0):
        self._start = time.monotonic() - before

    def __call__(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self._start


class Threads:
    """Chooses between 1 and `most` threads by timing TRIAL steps of each every PERIOD steps.

    On a busy machine, threads that wait for each other can be slower than one thread, so `most` threads are
    used only if they are faster by the factor GAIN.
    """

    PERIOD, TRIAL, GAIN = 48, 3, 1.10

    def __init__(self, most: int):
        self._options, self._step, self._start, self._times = (1, most), 0, 0.0, [0.0, 0.0]
        torch.set_num_threads(most)

    def __call__(self) -> None:
        """Call once per training step."""
        phase, offset = divmod(self._step % self.PERIOD, self.TRIAL)
        if phase < 2 and offset == 0:
            torch.set_num_threads(self._options[phase])
        elif phase < 2 and offset == 1:
            self._start = time.monotonic()
        elif phase < 2 and offset == self.TRIAL - 1:
            self._times[phase] = time.monotonic() - self._start
        elif (phase, offset) == (2, 0):
            torch.set_num_threads(self._options[self.GAIN * self._times[1] < self._times[0]])
        self._step += 1


def log(stage: str, to: Path = LOG, **record) -> None:
    """Append one line to the training log `to` and print it."""
    line = json.dumps({"stage": stage, **{k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()}})
    print(line, flush=True)
    with to.open("a", encoding="ascii") as file:
        file.write(line + "\n")


def save_half(state_dict: dict[str, Tensor], path: Path) -> None:
    """Write a state dict in float16, replacing the old file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().to(torch.float16).contiguous() for k, v in state_dict.items()}, partial)
    partial.chmod(0o644)
    partial.replace(path)


def load_half(path: Path) -> dict[str, Tensor]:
    """The state dict of a float16 file in float32."""
    return {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}


def render_pool(scenes: list[Scene], size: int) -> tuple[Tensor, Tensor]:
    """Renders as uint8 images (B, 3, size, size) and float16 depths (B, size, size)."""
    images = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    depths = torch.empty(len(scenes), size, size, dtype=torch.float16)
    for start in range(0, len(scenes), 512):
        part = slice(start, start + 512)
        with torch.inference_mode():
            rgb, depth = render_batch(scenes[part], size)
        images[part] = (rgb * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2)
        depths[part] = depth
    return images, depths


def ema_update(average: dict[str, Tensor], model: torch.nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, in place."""
    state = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    with torch.no_grad():
        torch._foreach_lerp_([average[key] for key in state], list(state.values()), 1 - decay)


def generators(seed: int) -> tuple[np.random.Generator, torch.Generator]:
    """A numpy and a torch generator with the same seed."""
    return np.random.default_rng(seed), torch.Generator().manual_seed(seed)
