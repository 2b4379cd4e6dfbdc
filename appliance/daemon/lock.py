"""The data directory: made safely, and held by one daemon at a time with flock(2).

Two daemons on one directory would sign two batches with the same number and be frozen as equivocators, so the second
one is refused. The kernel drops the lock when the process ends, however it ends: a stale file never blocks a start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from appliance.core.errors import error


class DataDir:
    """A locked data directory, as a context manager. Raises `config.data_dir` or `replica.locked` on entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def __enter__(self) -> DataDir:
        _make_private(self.path)
        try:
            self._fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._take()
        except OSError as err:
            self.__exit__(None, None, None)
            raise error("config.data_dir", path=str(self.path), reason=f"lock: {err.strerror}") from err
        return self

    def _take(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            self.__exit__(None, None, None)
            raise error("replica.locked", path=str(self.path), pid=holder or "unknown") from err
        os.ftruncate(self._fd, 0)
        try:
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as err:  # the name of the holder is a comfort: a full disk must not keep a node from reading
            if err.errno != errno.ENOSPC:
                raise

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _make_private(path: Path) -> None:
    """Create the directory 0700, or check that it is ours alone: it holds the private keys."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except (OSError, ValueError) as err:  # ValueError: a path with a null byte
        reason = getattr(err, "strerror", None) or err
        raise error("config.data_dir", path=str(path), reason=reason) from err
    if not stat.S_ISDIR(info.st_mode):
        raise error("config.data_dir", path=str(path), reason="it is not a directory")
    if info.st_uid != os.geteuid():
        raise error("config.data_dir", path=str(path), reason=f"it belongs to user id {info.st_uid}")
    if info.st_mode & 0o077:
        raise error("config.data_dir", path=str(path), reason=f"mode is {info.st_mode & 0o777:04o} and must be 0700")
