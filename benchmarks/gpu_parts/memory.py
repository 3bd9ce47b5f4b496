"""The settings in docs/settings.md under memory caps: torch gives out no more than the cap, and the host believes it.

A cap is torch's fraction of the card for this process, and the rest as the host's reserve for other programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from trainers.ours import Ours

from .cases import Case, free
from .meter import peak_mb
from .trainer import measured

GB = 1 << 30
# (cap in GB, pixels, batch, how), those that matter most first.
SETTINGS: dict[str, tuple[tuple[int, int, int, str], ...]] = {
    "demo": ((8, 96, 2, "checkpointing"), (24, 96, 2, "plain"), (8, 96, 2, "checkpointing, offload")),
    "sdxl": (
        (8, 1024, 1, "checkpointing"), (6, 1024, 1, "checkpointing, offload"), (8, 1024, 4, "checkpointing, offload"),
        (8, 768, 1, "checkpointing"), (12, 1024, 4, "checkpointing"), (24, 1024, 8, "checkpointing"),
        (24, 1024, 2, "plain"), (16, 1024, 4, "checkpointing"), (6, 768, 1, "checkpointing"),
        (8, 1024, 1, "checkpointing, offload"),
    ),
    "sd15": (
        (8, 512, 4, "plain"), (6, 512, 1, "plain"), (8, 512, 1, "plain"), (12, 512, 8, "plain"),
        (16, 512, 8, "plain"),
    ),
}  # fmt: skip
RUNNERS = {"plain": "ours", "checkpointing": "ours_checkpointing", "checkpointing, offload": "ours_offload"}


def rows(case: Case) -> Iterator[dict[str, Any]]:
    for cap, pixels, batch, how in SETTINGS[case.model]:
        chosen = replace(case, pixels=pixels, batch=batch)
        about = {"runner": RUNNERS[how], "batch": batch, "size": pixels, "cap_gb": cap}
        with capped(cap):
            yield about | tried(chosen, how)
        free()


def tried(case: Case, how: str) -> dict[str, Any]:
    """Whether a setting fits, and how fast it is if it does; `plain`, or names of switches of the trainer."""
    try:
        trainer = Ours(case)
        trainer.node.change(targets="attention_and_conv", checkpointing="checkpointing" in how)
        trainer.node.change(offload="offload" in how)
        return {"fits": True, **measured(trainer, quick=True)}
    except torch.OutOfMemoryError:
        return {"fits": False, "peak_mb": peak_mb()}


@contextmanager
def capped(gigabytes: int) -> Iterator[None]:
    """A card of that many gigabytes for this process; the card itself, or no card, if it is smaller."""
    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    if total <= gigabytes * GB:
        yield
        return
    management = comfy.model_management
    before = management.EXTRA_RESERVED_VRAM
    torch.cuda.set_per_process_memory_fraction(gigabytes * GB / total)
    management.EXTRA_RESERVED_VRAM = before + total - gigabytes * GB
    try:
        yield
    finally:
        management.EXTRA_RESERVED_VRAM = before
        torch.cuda.set_per_process_memory_fraction(1.0)
