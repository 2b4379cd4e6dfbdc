"""What works without a daemon: checking an archive, and discarding a read model that cannot be opened.

Both are for a bad day, when the daemon does not start or a file is all that is left. The data directory is touched only
under its lock, so never beside a daemon.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from appliance.core import paths
from appliance.core.errors import error


def discard_view(data_dir: Path | None) -> str:
    """Remove the read models in a data directory; returns what was removed. Raises `replica.locked`."""
    base = data_dir or Path(paths.data_dir(os.environ, os.geteuid()))
    views = sorted(base.glob("mesh1*/view.db*"))
    if not views:
        raise error("replica.not_found", what=f"read model below {base}")
    lock = os.open(base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for view in views:
            view.unlink()
    except BlockingIOError as err:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        raise error("replica.locked", path=base, pid=holder) from err
    finally:
        os.close(lock)
    return ", ".join(str(view) for view in views)
