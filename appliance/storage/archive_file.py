"""Archive files on disk: private, and either whole and durable under their name or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from appliance.core.errors import error

BUFFER = 1 << 20  # bytes


class ArchiveFile:
    """A file by its path; it is never overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def exists(self) -> bool:
        """True if there is something under this name."""
        return os.path.lexists(self.path)

    @contextmanager
    def create(self) -> Iterator[IO[bytes]]:
        """Write beside the name, fsync, then take the name. A failure, or a kill, leaves nothing under the name."""
        self._check_name()
        try:
            if self.exists():
                raise error("archive.exists", path=self.path)
            part = self.path.with_name(self.path.name + ".part")
            with _sole(part) as out:
                try:
                    yield out
                    out.flush()
                    os.fsync(out.fileno())
                    part.rename(self.path)
                    _sync_directory(self.path.parent)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
        except OSError as err:
            raise error("archive.write", path=self.path, reason=err.strerror or err) from err

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Read it."""
        self._check_name()
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # NONBLOCK: no wait at a FIFO
            with os.fdopen(descriptor, "rb", buffering=BUFFER) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise error("archive.form", reason="it is no regular file")
                yield file
        except OSError as err:
            raise error("archive.write", path=self.path, reason=err.strerror or err) from err

    def _check_name(self) -> None:
        if not self.path.name or "\0" in self.name:
            raise error("archive.write", path=self.path, reason="no file can have this name")


@contextmanager
def _sole(part: Path) -> Iterator[IO[bytes]]:
    """A file for us alone: mode 0600, and locked, so that two writers never share what one left behind.

    What somebody else put in its place is not taken: a pipe, a file of theirs, or a second name of another file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(part, flags, 0o600)
    with os.fdopen(descriptor, "wb", buffering=BUFFER) as out:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_nlink != 1:
            raise FileExistsError(errno.EEXIST, f"{part.name} is in the way")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        yield out


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
