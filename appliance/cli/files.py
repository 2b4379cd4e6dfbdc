"""Files that commands write for people to carry: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from appliance.core.errors import error


def write_file(target: Path, data: bytes) -> None:
    """Write through a temporary file in the same directory and rename it, durably. Raises `control.file`."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".x0t-", delete=False) as part:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
        Path(part.name).replace(target)
        _sync_directory(target.parent)
    except OSError as err:
        if part is not None:
            Path(part.name).unlink(missing_ok=True)
        raise error("control.file", path=str(target), reason=err.strerror or str(err)) from err


def _sync_directory(path: Path) -> None:
    """Only then is the new name on the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
