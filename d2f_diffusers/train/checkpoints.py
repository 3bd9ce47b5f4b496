"""Checkpoints of a run, as diffusers' scripts name them.

    <output>/checkpoint-250/state.safetensors    all that a resume needs, as the training node saves it
    <output>/settings.json, log.jsonl

and what was learned (``outputs``). A checkpoint counts when its state is complete; the state is written last. One that
was cut off is passed over.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d2f_data.files.atomic import atomic_write
from d2f_data.files.training_state import Config, check_resumable, load_state, save_state

LOGGER = logging.getLogger("diff2flow")
STATE, SETTINGS = "state.safetensors", "settings.json"
LATEST = "latest"


class Checkpoints:
    """The checkpoints in an output folder.

    Args:
        folder: the output folder.
        name: of the run.
        config: what must be the same on a resume.
        limit: how many are kept; None for all.
    """

    def __init__(self, folder: Path, name: str, config: Config, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"--checkpoints_total_limit must be at least 1, got {limit}; leave it out to keep all")
        self.folder, self.name, self.config, self.limit = Path(folder), name, config, limit

    def all(self) -> list[Path]:
        """Folders of the checkpoints, the latest first."""
        found = self.folder.glob("checkpoint-*") if self.folder.is_dir() else ()
        named = [(int(match[1]), path) for path in found if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))]
        return [path for _, path in sorted(named, reverse=True)]

    def begin(self) -> None:
        """Write the settings of a new run.

        Raises:
            ValueError: the folder holds checkpoints.
        """
        if self.all():
            raise ValueError(
                f"--output_dir {self.folder} holds checkpoints of a run; add --resume_from_checkpoint latest to go on "
                "with it, or choose a new folder"
            )
        self._write_settings()

    def _write_settings(self) -> None:
        text = json.dumps({**self.config, "run_name": self.name}, indent=2, sort_keys=True)
        atomic_write(self.folder / SETTINGS, lambda file: file.write_text(text, encoding="utf-8"))

    def save(self, step: int, state: Any, write: Callable[[Path], None]) -> Path:
        """Write checkpoint-``step``, with what ``write`` puts there, and remove the oldest beyond the limit."""
        folder = self.folder / f"checkpoint-{step}"
        write(folder)
        save_state(folder / STATE, state, self.config)
        for old in self.all()[self.limit or len(self.all()) :]:
            shutil.rmtree(old)
        return folder

    def resume(self, which: str, put: Callable[[Mapping[str, Any]], None]) -> Path | None:
        """Put the state of a checkpoint into a run: ``latest``, or a folder; None if there is none yet.

        Raises:
            ValueError: the checkpoint is damaged, or one of a run with other settings, data or model; lists them.
        """
        if which != LATEST:
            self._load(Path(which) if Path(which).is_dir() else self.folder / which, put)
            return Path(which)
        for folder in self.all():
            if not (folder / STATE).is_file():
                LOGGER.warning("%s was cut off before it was complete, so it is passed over", folder)
                continue
            self._load(folder, put)
            return folder
        self.begin() if not self.all() else self._write_settings()
        return None

    def _load(self, folder: Path, put: Callable[[Mapping[str, Any]], None]) -> None:
        if not folder.is_dir():
            raise ValueError(
                f"--resume_from_checkpoint {folder}: there is no such folder; use latest, or a checkpoint's"
            )
        state, saved = load_state(folder / STATE)
        check_resumable(folder / STATE, saved, self.config)
        put(state)
