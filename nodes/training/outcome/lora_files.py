"""The LoRA files of a training run.

    diff2flow/runs/NAME/loras/NAME_step000250.safetensors    one per save, in the run's own folder
    loras/diff2flow/NAME.safetensors                         the newest of them, in the list of every LoRA loader
    loras/diff2flow/NAME.png                                 its samples, where LoRA managers look for a picture

So a run is one entry of that list. It is replaced by later steps of the same run alone: the run's state holds the name.
"""

import os
import re
import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from ....d2f_data.files.atomic import atomic_write
from ....d2f_data.files.lora_file import LoraModel, save_lora, smallest_dtype
from ....d2f_data.files.names import unused_path
from ... import host

FOLDER, SUFFIX = "diff2flow", ".safetensors"
_OWN = "diff2flow.run"  # key in the metadata of our pictures


class RunLora:
    """Writes them.

    Args:
        run: folder of the run.

    Attributes:
        name: name of the newest file without its suffix; empty before ``claim``.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.name = Path(run), ""

    def claim(self) -> str:
        """The name, which is a free one at the first call."""
        self.name = self.name or unused_path(host.lora_folder() / FOLDER, self.run.name, SUFFIX).stem
        return self.name

    def resume(self, name: Any) -> bool:
        """Go on with the name that a state of the run has; whether the file is still there."""
        if not isinstance(name, str) or not re.fullmatch(re.escape(self.run.name) + r"(_\d{5,})?", name):
            return False
        self.name = name
        return self.path.is_file()

    @property
    def listed(self) -> str:
        """As loaders list the newest file."""
        return f"{FOLDER}/{self.name}{SUFFIX}"

    @property
    def path(self) -> Path:
        """The newest file."""
        return host.lora_folder() / self.listed

    def save(self, lora: LoraModel, step: int) -> None:
        """Write the LoRA of a step. Raises OSError that names the file."""
        kept = self.run / "loras" / f"{self.run.name}_step{step:06}{SUFFIX}"
        save_lora(kept, lora, title=self.run.name, dtype=smallest_dtype(lora))
        self.claim()
        atomic_write(self.path, lambda part: _link(kept, part))

    def save_picture(self, picture: Any) -> None:
        """Write a PIL image beside the newest file, unless there is one of the user's. Raises OSError that names it."""
        from PIL.PngImagePlugin import PngInfo

        path, info, content = self.path.with_suffix(".png"), PngInfo(), BytesIO()
        if path.exists() and not _is_ours(path):
            return
        info.add_text(_OWN, self.run.name)
        picture.save(content, "PNG", pnginfo=info)
        atomic_write(path, lambda part: part.write_bytes(content.getvalue()))


def _link(file: Path, other: Path) -> None:
    """Make ``other`` the same file, or a copy where the file system has no links, or it is on another one."""
    with suppress(OSError, NotImplementedError):
        os.link(file, other)
        return
    shutil.copyfile(file, other)


def _is_ours(path: Path) -> bool:
    from PIL import Image

    with suppress(OSError, ValueError, SyntaxError), Image.open(path) as image:
        return _OWN in image.info
    return False
