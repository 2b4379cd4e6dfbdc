"""Archive files on disk: private, and either whole and durable under their name or not there at all."""

from __future__ import annotations

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
        part = self.path.with_name(self.path.name + ".part")
        try:
            if self.exists():
                raise error("archive.exists", path=self.path)
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
        try:
            with self.path.open("rb", buffering=BUFFER) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise error("archive.form", reason="it is no regular file")
                yield file
        except OSError as err:
            raise error("archive.write", path=self.path, reason=err.strerror or err) from err


@contextmanager
def _sole(part: Path) -> Iterator[IO[bytes]]:
    """A file for us alone: mode 0600, and locked, so that two writers never share what one left behind."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=BUFFER) as out:
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
