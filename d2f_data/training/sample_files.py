"""The samples that a training run has drawn: files in its folder, and the contact sheet that is made of them.

    samples/step000100_0.png    a sample of step 100; its metadata say which prompt it is of, and how it was sampled
    samples/sheet.png           the contact sheet: a row per prompt, a column per step

A file belongs to the prompt that its metadata name, whatever its number: prompts may be moved, added and changed from
session to session. Nothing but the sheet is overwritten.
"""

import logging
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..files.atomic import atomic_write
from ..plots.sample_sheet import TILE, fit, sample_sheet, tile_size
from .sample_prompts import SamplePrompt

LOGGER = logging.getLogger("diff2flow")
FOLDER, SHEET = "samples", "sheet.png"
PROMPT_KEY, STEP_KEY = "diff2flow.sample", "diff2flow.step"
MOST_COLUMNS = 64

_NAME = re.compile(r"step(\d{6,})_(\d+)\.png")


class SampleFiles:
    """The samples of a run for its prompts.

    Args:
        run: folder of the run.
        prompts: one per row.
    """

    def __init__(self, run: Path, prompts: Sequence[SamplePrompt]) -> None:
        self.folder, self.prompts = Path(run) / FOLDER, tuple(prompts)
        self._paths: dict[tuple[int, int], Path] = {}  # (row, step) -> file
        self._thumbnails: dict[Path, Any] = {}
        for path, step in self._existing():
            identity = _identity(path)
            self._paths |= {(row, step): path for row, one in enumerate(prompts) if one.identity == identity}

    def _existing(self) -> list[tuple[Path, int]]:
        """The files of samples, and their steps."""
        found = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [(path, int(match[1])) for path in found if (match := _NAME.fullmatch(path.name))]

    def missing(self, step: int) -> list[int]:
        """Rows without a picture of a step."""
        return [row for row in range(len(self.prompts)) if (row, step) not in self._paths]

    def save(self, row: int, step: int, picture: Any) -> None:
        """Write a PIL image as the sample of a row at a step. Raises OSError that names the file."""
        taken = {path.name for path, at in self._existing() if at == step}
        numbers = [row, *range(len(taken) + len(self.prompts) + 1)]
        name = next(name for number in numbers if (name := f"step{step:06}_{number}.png") not in taken)
        content = _png(picture, {PROMPT_KEY: self.prompts[row].identity, STEP_KEY: str(step)})
        atomic_write(self.folder / name, lambda file: file.write_bytes(content))
        self._paths[row, step] = self.folder / name

    def of_step(self, step: int) -> list[Any]:
        """The pictures of a step as PIL images that fit a tile."""
        found = [self._paths.get((row, step)) for row in range(len(self.prompts))]
        return [picture for path in found if path is not None and (picture := self._thumbnail(path, TILE)) is not None]

    def sheet(self) -> Any:
        """The contact sheet as a PIL image; of more than ``MOST_COLUMNS`` steps, some at equal distances."""
        steps = sorted({step for _, step in self._paths})
        if len(steps) > MOST_COLUMNS:
            steps = [steps[i * (len(steps) - 1) // (MOST_COLUMNS - 1)] for i in range(MOST_COLUMNS)]
        tile, columns = tile_size(len(steps), len(self.prompts)), {step: column for column, step in enumerate(steps)}
        shown = {(row, columns[step]): path for (row, step), path in self._paths.items() if step in columns}
        pictures = {place: self._thumbnail(path, tile) for place, path in shown.items()}
        self._thumbnails = {path: self._thumbnails[path] for path in shown.values() if path in self._thumbnails}
        names = [f"step {step}" if step else "untrained" for step in steps]
        return sample_sheet([_title(prompt) for prompt in self.prompts], names, pictures, tile)

    def save_sheet(self) -> None:
        """Write the contact sheet. Raises OSError that names the file."""
        content = _png(self.sheet(), {})
        atomic_write(self.folder / SHEET, lambda file: file.write_bytes(content))

    def _thumbnail(self, path: Path, tile: int) -> Any:
        """The picture in a file, to fit a tile; None if the file is gone or damaged."""
        from PIL import Image

        kept = self._thumbnails.get(path)
        if kept is None or max(kept.size) < tile:
            try:
                with Image.open(path) as image:
                    kept = fit(image, tile)
            except (OSError, ValueError, SyntaxError) as error:
                LOGGER.warning("the sample %s is left out of the contact sheet: %s", path, error)
                return None
        self._thumbnails[path] = kept if max(kept.size) == tile else fit(kept, tile)
        return self._thumbnails[path]


def _title(prompt: SamplePrompt) -> str:
    """The prompt and how it is sampled, in a line."""
    negative = f" | not: {prompt.negative}" if prompt.negative and prompt.cfg != 1 else ""
    size = f"{prompt.width}x{prompt.height}, {prompt.steps} steps, CFG {prompt.cfg:g}, seed {prompt.seed}"
    return f"{prompt.text or '(empty prompt)'} ({size}){negative}"


def _identity(path: Path) -> str | None:
    """The prompt that a file says it is of; None if it does not."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return str(image.info.get(PROMPT_KEY))
    except (OSError, ValueError, SyntaxError) as error:
        LOGGER.warning("%s is not a sample: %s", path, error)
        return None


def _png(picture: Any, metadata: dict[str, str]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info, content = PngInfo(), BytesIO()
    for key, value in metadata.items():
        info.add_text(key, value)
    picture.save(content, "PNG", pnginfo=info)
    return content.getvalue()
