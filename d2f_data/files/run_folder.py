"""The folder of a training run: its settings, its last states, its log and its previews.

    settings.json                 the configuration, which a resume must match, and the name of the run
    state.safetensors             weights, averages, optimizer, schedule and step of the last save
    state.previous.safetensors    those of the previous save, in case the last one is damaged
    log.jsonl                     one line per save: step, loss, learning rate
    preview_000100.jpg            images sampled during training
    run.lock                      held by the process that trains the run

Runs with the same name are numbered, ``portrait``, ``portrait_00002``, ..., so that nothing is overwritten; the name in
the settings tells them from a run whose own name ends like that. The configuration is the identity of a run: two runs
with equal ones are the same computation, step by step.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from .atomic import append_line, atomic_write, make_folder
from .lock import WriterLock
from .names import check_name
from .run_settings import PREVIOUS, SETTINGS, STATE, Config, create_run, find_runs, read_config, repair_settings
from .training_state import check_resumable, differences, load_state, save_state

LOGGER = logging.getLogger("diff2flow")
RESUME = ("auto", "continue", "new")
"""auto: resume the last run with this name if its settings are the same, else start a new run; continue: resume it or
raise an error; new: start a new run."""

LOG, LOCK = "log.jsonl", "run.lock"


class RunFolder:
    """The folder of one run. As a context manager, it is locked: nobody else can train the run.

    Args:
        root: folder of all runs.
        name: name of the run; may contain subfolders.
        config: settings and fingerprints of data and model, which must be the same when the run is resumed.
        resume: one of ``RESUME``.

    Attributes:
        path: the folder.
        previous: name of the run that "auto" did not resume because its settings differ; empty if there is none.
        differs: the differences, one line per setting.
        note: what the user should know about how the run was resumed; empty if all is well.

    Raises:
        ValueError: the name is invalid, or "continue" found no run or one with other settings; lists the differences.
        OSError: the folder cannot be written to; names it, and leaves nothing behind.
    """

    def __init__(self, root: Path, name: str, config: Config, resume: str = "auto") -> None:
        if resume not in RESUME:
            raise ValueError(f"unknown choice {resume!r} for resume; allowed are {', '.join(map(repr, RESUME))}")
        self.config = dict(config)
        base = Path(root) / check_name(name, "the name of the training run")
        runs = find_runs(base)
        last = runs[-1] if runs else None
        if resume == "continue":
            last = _existing(base, runs)
            check_resumable(last / SETTINGS, read_config(last), self.config)
        self.differs = differences(read_config(last), self.config) if last is not None and resume == "auto" else []
        self.previous = last.name if last is not None and self.differs else ""
        resumed = last is not None and resume != "new" and not self.differs
        self.path = last if last is not None and resumed else create_run(base, self.config)
        self.note, self._intact = "", False
        if resumed:
            repair_settings(self.path, base.name, self.config)

    def __repr__(self) -> str:
        return f"<training run {self.path.name}>"

    def __enter__(self) -> "RunFolder":
        make_folder(self.path)
        self._lock = WriterLock(self.path / LOCK, f"the training run {self.name} is", "choose another run_name")
        self._lock.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.__exit__(kind, error, at)
        self.discard_if_empty()

    @property
    def name(self) -> str:
        """Name of the run with its number."""
        return self.path.name

    def load(self, accept: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any] | None:
        """The last saved state, or the one before if that is damaged, which ``note`` says; None if there is none.

        Args:
            accept: takes the state; raises ValueError if it is not one of this run.

        Raises:
            ValueError: no state can be used; names the files.
        """
        faults: list[ValueError] = []
        for path in (self.path / STATE, self.path / PREVIOUS):
            if not path.is_file():
                continue
            try:
                state = self._load(path)
                if accept is not None:
                    accept(state)
            except ValueError as error:
                LOGGER.warning("%s", error)
                faults.append(error)
                continue
            self._intact = path.name == STATE
            if not self._intact:
                fault = "is damaged" if faults else "is missing"
                self.note = f"; {STATE} {fault}, so the run goes on from the save before ({PREVIOUS})"
                LOGGER.warning("%s%s", self.name, self.note)
            return state
        if faults:
            raise ValueError(
                ". ".join(map(str, faults)) + f". No saved state of the run {self.name} can be used: delete the folder "
                f"{self.path} to start from step 0, or change run_name; the LoRA files of the run are not affected"
            )
        return None

    def _load(self, path: Path) -> dict[str, Any]:
        """The state in a file. Raises ValueError if it is damaged or that of another run."""
        state, config = load_state(path)
        lines = differences(config, self.config)
        if lines:
            raise ValueError(f"{path} is the state of another run ({'; '.join(lines)}); move it away")
        return state

    def save(self, state: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Save the state atomically, keep the one before, and append a line to the log."""
        # A state that is not known to be intact must not replace an intact one.
        save_state(self.path / STATE, state, self.config, self.path / PREVIOUS if self._intact else None)
        self._intact = True
        append_line(self.path / LOG, json.dumps(dict(record)))

    def discard_if_empty(self) -> None:
        """Remove the folder if the run ended before its first save and preview."""
        with suppress(OSError):  # somebody else is using it
            if {file.name for file in self.path.iterdir()} <= {SETTINGS, LOCK}:
                for name in (LOCK, SETTINGS):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()

    def save_picture(self, picture: Any, step: int) -> Path:
        """Save a PIL image as the preview of a step."""
        path, content = self.path / f"preview_{step:06}.jpg", BytesIO()
        picture.save(content, "JPEG", quality=90)  # writing straight into a file, it would not notice a full disk
        atomic_write(path, lambda file: file.write_bytes(content.getvalue()))
        return path


def _existing(base: Path, runs: list[Path]) -> Path:
    """The last run with a name. Raises ValueError that lists the existing runs if there is none."""
    if runs:
        return runs[-1]
    others = sorted(file.parent.name for file in base.parent.glob(f"*/{SETTINGS}"))
    existing = f"existing runs: {', '.join(others[:10])}" if others else "there are no runs yet"
    raise ValueError(
        f"resume is 'continue', but there is no run {base.name!r} in {base.parent} ({existing}); correct run_name or "
        "set resume to 'auto'"
    )
