"""One writer at a time: a lock file that names its holder.

The operating system holds the lock, so it goes with its process whatever ends that; the text in the file is for people.
A text that is left behind without a lock is a writer that was killed: the next one takes over and says so.
"""

import errno
import json
import logging
import os
import socket
from datetime import datetime
from pathlib import Path
from types import TracebackType

LOGGER = logging.getLogger("diff2flow")

# What file systems without locks (some network drives) answer.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_BEHIND_THE_TEXT = 1 << 30  # Windows locks bytes against reading, so one that is never written


class WriterLock:
    """``with WriterLock(path): ...`` has the lock, or raises ValueError that names the holder.

    Args:
        path: of the lock file; it stays there, empty when nobody has the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = -1

    def __enter__(self) -> "WriterLock":
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take()
            left = self._read()
            if left:
                LOGGER.warning("%s: the last writer (%s) was killed; its lock is taken over", self.path.parent, left)
            self._write(json.dumps(_me()))
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write("")
        os.close(self._file)

    def _take(self) -> None:
        try:
            _lock(self._file)
        except OSError as error:
            if error.errno in _HELD:
                raise ValueError(
                    f"the pairs in {self.path.parent} are being written by {self._read() or 'another process'}; wait "
                    "until it is done, stop it, or choose another name"
                ) from error
            if error.errno not in _UNSUPPORTED:
                raise
            LOGGER.warning("%s: this disk knows no locks (%s); do not write there twice", self.path.parent, error)

    def _read(self) -> str:
        """Who has or had the lock, in words; empty if nobody."""
        os.lseek(self._file, 0, os.SEEK_SET)
        text = os.read(self._file, 4096).decode("utf-8", "replace")
        try:
            holder = json.loads(text)
            return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
        except (ValueError, KeyError, TypeError):
            return text.strip()

    def _write(self, text: str) -> None:
        os.lseek(self._file, 0, os.SEEK_SET)
        os.truncate(self._file, 0)
        os.write(self._file, text.encode())


def _me() -> dict[str, str | int]:
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


if os.name == "nt":

    def _lock(file: int) -> None:
        import msvcrt

        os.lseek(file, _BEHIND_THE_TEXT, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:

    def _lock(file: int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
