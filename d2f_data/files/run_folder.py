"""The folder of a training run: what a resume needs, what happened, what it looked like.

    settings.json         the configuration: a run goes on under the same one only
    state.safetensors     weights, averages, optimizer, schedule and step of the last save
    log.jsonl             a line a save: step, loss, learning rate
    preview_000100.jpg    pictures drawn while training

Runs of one name are numbered: ``portrait``, ``portrait_00002``, ... so that nothing is overwritten.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .names import check_name
from .training_state import check_resumable, differences, load_state, save_state

RESUME = ("auto", "continue", "new")
"""auto: go on if the settings are those of the last run of the name, else a new run; continue: go on, or an error."""

Config = Mapping[str, str | int | float | bool | None]


class RunFolder:
    """Where one run lives.

    Args:
        root: folder of all runs.
        name: of the run; may have subfolders.
        config: settings, and what says which data and model, that must stay the same over a resume.
        resume: one of ``RESUME``.

    Attributes:
        previous: the run that ``auto`` did not go on with, as its settings are others; empty if there is none.
        differs: its differences, a line a setting.

    Raises:
        ValueError: a bad name, "continue" without a run, or under other settings; lists the differences.
    """

    def __init__(self, root: Path, name: str, config: Config, resume: str = "auto") -> None:
        if resume not in RESUME:
            raise ValueError(f"unknown choice {resume!r} for resume; allowed are {', '.join(map(repr, RESUME))}")
        self.config = dict(config)
        base = Path(root) / check_name(name, "the name of the training run")
        runs = _runs(base)
        last = runs[-1] if runs else None
        if resume == "continue":
            last = _existing(base, runs)
            check_resumable(last / "settings.json", _settings(last), self.config)
        self.differs = differences(_settings(last), self.config) if last is not None and resume == "auto" else []
        self.previous = last.name if last is not None and self.differs else ""
        goes_on = last is not None and resume != "new" and not self.differs
        self.path = last if last is not None and goes_on else _next(base, runs)
        if not goes_on:
            text = json.dumps(self.config, indent=2, sort_keys=True)
            atomic_write(self.path / "settings.json", lambda file: _write(file, text))

    def __repr__(self) -> str:
        return f"<training run {self.path.name}>"

    @property
    def name(self) -> str:
        """Name with its number."""
        return self.path.name

    def load(self) -> dict[str, Any] | None:
        """The state of the last save; None before the first one."""
        path = self.path / "state.safetensors"
        return load_state(path)[0] if path.is_file() else None

    def save(self, state: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Keep the state, whole or not at all, and a line about it."""
        save_state(self.path / "state.safetensors", state, self.config)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(dict(record)) + "\n")

    def discard_if_empty(self) -> None:
        """Remove the folder of a run that ended before anything was saved or drawn."""
        if [file.name for file in self.path.iterdir()] == ["settings.json"]:
            (self.path / "settings.json").unlink()
            self.path.rmdir()

    def save_picture(self, picture: Any, step: int) -> Path:
        """Keep a PIL picture of a step."""
        path = self.path / f"preview_{step:06}.jpg"
        atomic_write(path, lambda file: picture.save(file, "JPEG", quality=90))
        return path


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _runs(base: Path) -> list[Path]:
    """Folders of the runs of a name, by number."""
    numbered = re.compile(re.escape(base.name) + r"(?:_(\d{5,}))?")
    there = base.parent.iterdir() if base.parent.is_dir() else ()
    found = [(int(match[1] or 1), path) for path in there if (match := numbered.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found)]


def _existing(base: Path, runs: list[Path]) -> Path:
    """The last run of a name. Raises ValueError that names the runs there are."""
    if runs:
        return runs[-1]
    others = sorted(file.parent.name for file in base.parent.glob("*/settings.json"))
    there = f"there are {', '.join(others[:10])}" if others else "there is none yet"
    raise ValueError(
        f"resume is 'continue', but there is no run {base.name!r} in {base.parent} ({there}): correct run_name or set "
        "resume to 'auto'"
    )


def _next(base: Path, runs: list[Path]) -> Path:
    if not runs:
        return base
    last = runs[-1].name[len(base.name) + 1 :]
    return base.with_name(f"{base.name}_{int(last or 1) + 1:05}")


def _settings(run: Path) -> dict[str, Any]:
    """The configuration of a run; empty if the folder has none."""
    path = run / "settings.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove the folder {run}, or choose another name") from error
