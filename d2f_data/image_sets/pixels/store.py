"""Keeps the resized pixels of images that were decoded to check them, so that the encoder need not decode them again.

Every image is decoded and checked before the first one is encoded, as the user may want to stop at a damaged one. The
pixels in between, 8-bit RGB in the size of the placement, are kept in memory up to ``MEMORY`` bytes and behind that in
a temporary file without a name; beyond ``MOST`` bytes, or on a full disk, the images are decoded again.
"""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

MEMORY, MOST = 1 << 29, 1 << 34


class PixelStore:
    """Pixels under keys; a context manager that drops all of them at its end.

    Args:
        folder: where the temporary file lies; created if it is needed.
        memory: number of bytes that are kept in memory.
        most: number of bytes that are kept at all.
    """

    def __init__(self, folder: Path, memory: int = MEMORY, most: int = MOST) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.SpooledTemporaryFile(max_size=memory, dir=str(folder))  # noqa: SIM115
        self._most = most
        self._places: dict[str, tuple[int, tuple[int, int]]] = {}
        self._end = 0

    def __enter__(self) -> "PixelStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def keep(self, key: str, image: Any) -> None:
        """Keep a Pillow image in mode RGB under a key, unless there is no room for it."""
        data = image.tobytes()
        if key in self._places or self._end + len(data) > self._most:
            return
        try:
            self._file.seek(self._end)
            self._file.write(data)
        except OSError:  # a full disk
            self._most = 0
            return
        self._places[key] = (self._end, image.size)
        self._end += len(data)

    def get(self, key: str) -> Tensor | None:
        """The image of a key, (3, height, width) in [0, 1]; None if it was not kept."""
        if key not in self._places:
            return None
        start, (width, height) = self._places[key]
        self._file.seek(start)
        data = bytearray(self._file.read(width * height * 3))
        if len(data) != width * height * 3:
            return None
        values = torch.frombuffer(data, dtype=torch.uint8).view(height, width, 3)
        return values.to(torch.float32).div(255).movedim(-1, 0)
