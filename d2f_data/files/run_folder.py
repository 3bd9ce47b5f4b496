"""The folder of a training run: its settings, its last state, its log and its previews.

    settings.json         the configuration, with which alone the run can be resumed, and the name of the run
    state.safetensors     weights, averages, optimizer, schedule and step of the last save
    log.jsonl             one line per save: step, loss, learning rate
    preview_000100.jpg    images sampled during training

Runs with the same name are numbered, ``portrait``, ``portrait_00002``, ..., so that nothing is overwritten. The name in
the settings tells them from a run whose own name ends like that.
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
"""auto: resume the last run with this name if its settings are the same, else start a new run; continue: resume it or
raise an error; new: start a new run."""

Config = Mapping[str, str | int | float | bool | None]

_NAME = "run_name"
"""Key of the name, without a number, in settings.json."""


class RunFolder:
    """The folder of one run.

    Args:
        root: folder of all runs.
        name: name of the run; may contain subfolders.
        config: settings and fingerprints of data and model, which must be the same when the run is resumed.
        resume: one of ``RESUME``.

    Attributes:
        path: the folder.
        previous: name of the run that "auto" did not resume because its settings differ; empty if there is none.
        differs: the differences, one line per setting.

    Raises:
        ValueError: the name is invalid, or "continue" found no run or one with other settings; lists the differences.
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
        resumed = last is not None and resume != "new" and not self.differs
        self.path = last if last is not None and resumed else _next(base, runs)
        if not resumed:
            text = json.dumps({**self.config, _NAME: base.name}, indent=2, sort_keys=True)
            atomic_write(self.path / "settings.json", lambda file: _write(file, text))

    def __repr__(self) -> str:
        return f"<training run {self.path.name}>"

    @property
    def name(self) -> str:
        """Name of the run with its number."""
        return self.path.name

    def load(self) -> dict[str, Any] | None:
        """The last saved state; None if there is none."""
        path = self.path / "state.safetensors"
        return load_state(path)[0] if path.is_file() else None

    def save(self, state: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Save the state atomically, and append a line to the log."""
        save_state(self.path / "state.safetensors", state, self.config)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(dict(record)) + "\n")

    def discard_if_empty(self) -> None:
        """Remove the folder if the run ended before its first save and preview."""
        if [file.name for file in self.path.iterdir()] == ["settings.json"]:
            (self.path / "settings.json").unlink()
            self.path.rmdir()

    def save_picture(self, picture: Any, step: int) -> Path:
        """Save a PIL image as the preview of a step."""
        path = self.path / f"preview_{step:06}.jpg"
        atomic_write(path, lambda file: picture.save(file, "JPEG", quality=90))
        return path


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _runs(base: Path) -> list[Path]:
    """Folders of all runs with a name, sorted by number."""
    return [path for path in _numbered(base) if path == base or _belongs(path, base)]


def _belongs(run: Path, base: Path) -> bool:
    """Whether a numbered folder is of this name; earlier versions left the name out of the settings of all of them."""
    name = _name_in(run)
    return name == base.name or (name is None and base.is_dir() and _name_in(base) is None)


def _name_in(run: Path) -> str | None:
    """The name in the settings of a run; None if they cannot be read, or hold none."""
    try:
        return json.loads((run / "settings.json").read_text(encoding="utf-8")).get(_NAME)
    except (OSError, ValueError, AttributeError):
        return None


def _numbered(base: Path) -> list[Path]:
    """All folders that are called like a run with this name, sorted by number."""
    numbered = re.compile(re.escape(base.name) + r"(?:_(\d{5,}))?")
    existing = base.parent.iterdir() if base.parent.is_dir() else ()
    found = [
        (int(match[1] or 1), path) for path in existing if (match := numbered.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def _existing(base: Path, runs: list[Path]) -> Path:
    """The last run with a name. Raises ValueError that lists the existing runs if there is none."""
    if runs:
        return runs[-1]
    others = sorted(file.parent.name for file in base.parent.glob("*/settings.json"))
    existing = f"existing runs: {', '.join(others[:10])}" if others else "there are no runs yet"
    raise ValueError(
        f"resume is 'continue', but there is no run {base.name!r} in {base.parent} ({existing}); correct run_name or "
        "set resume to 'auto'"
    )


def _next(base: Path, runs: list[Path]) -> Path:
    """The folder of a new run: numbered after all that are called like it, unless those are runs of other names."""
    existing = _numbered(base)
    if not runs and all(_name_in(path) is not None for path in existing):
        return base
    last = existing[-1].name[len(base.name) + 1 :]
    return base.with_name(f"{base.name}_{int(last or 1) + 1:05}")


def _settings(run: Path) -> dict[str, Any]:
    """The configuration in the folder of a run; empty if there is none."""
    path = run / "settings.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: value for name, value in found.items() if name != _NAME}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove the folder {run}, or change run_name") from error
