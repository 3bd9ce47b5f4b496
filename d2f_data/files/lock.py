"""Allows one writer of a folder at a time with a lock file, which names the process that holds it.

The lock itself is held by the operating system, so it ends with its process in any case; the text in the file is only
informative. Text in a file that is not locked was left by a killed writer: the next writer logs this and takes over.
"""

import errno
import json
import logging
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from .json_schema import InvalidJsonError, parse_json, record, text, whole

LOGGER = logging.getLogger("diff2flow")

# Error codes of file systems without locks, such as some network drives.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_HOLDER = record({"pid": whole(0), "host": text(), "started": text()})
_LOCKED_BYTE = 1 << 30  # beyond the text, as Windows allows nobody else to read a locked byte


class WriterLock:
    """Context manager that holds the lock of a folder.

    Args:
        path: path of the lock file; the file remains afterwards, empty.
        what: what is locked, for errors, such as "the pairs in /output/pairs/cats".
        remedy: what else the user can do, such as "choose another name".

    Raises:
        ValueError: on entering, if another process or another run of this one holds the lock; names the process.
        OSError: the lock file cannot be created; names it.
    """

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        self.path, self.what, self.remedy = Path(path), what, remedy
        self._file = -1

    def __enter__(self) -> "WriterLock":
        self._file = self._open()
        try:
            self._acquire()
            killed = self._read()
            if killed:
                LOGGER.warning("%s: the last writer (%s) was killed; its lock is taken over", self.path.parent, killed)
            self._write(json.dumps(_this_process()))
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write("")
        os.close(self._file)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot create {self.path} ({error.strerror}); make the folder writable, free some space, or "
                f"{self.remedy}",
            ) from error

    def _acquire(self) -> None:
        try:
            _lock(self._file)
        except OSError as error:
            if error.errno in _HELD:
                raise ValueError(
                    f"{self.what} being written by {self._read() or 'another process'}; wait until it has finished, "
                    f"cancel it, or {self.remedy}"
                ) from error
            if error.errno not in _UNSUPPORTED:
                raise
            LOGGER.warning(
                "%s: this file system has no locks (%s); do not run two writers there", self.path.parent, error
            )

    def _read(self) -> str:
        """Description of the process that holds or held the lock; empty if there is none."""
        os.lseek(self._file, 0, os.SEEK_SET)
        content = os.read(self._file, 4096).decode("utf-8", "replace").strip("\0 \r\n")
        try:
            holder = parse_json(content, _HOLDER)
            return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
        except InvalidJsonError:
            return content[:100]

    def _write(self, content: str) -> None:
        with suppress(OSError):  # the disk is full; the lock holds without its text
            os.lseek(self._file, 0, os.SEEK_SET)
            os.truncate(self._file, 0)
            os.write(self._file, content.encode())


def _this_process() -> dict[str, str | int]:
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


if os.name == "nt":

    def _lock(file: int) -> None:
        import msvcrt

        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:

    def _lock(file: int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
