"""What works without a daemon: checking an archive, and discarding a read model that cannot be opened.

Both are for a bad day, when the daemon does not start or a file is all that is left. The data directory is touched only
under its lock, so never beside a daemon.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from appliance.core import paths
from appliance.core.errors import error
from appliance.core.ids import MeshId
from appliance.core.records import ArchiveReport, Progress
from appliance.replica import reports
from appliance.replica.archive_check import verify_files
from appliance.trust.descriptor import open_descriptor
from appliance.trust.pqc import provider


def verify_archives(files: Sequence[Path], trust: Path | None, show: Callable[[Progress], None]) -> ArchiveReport:
    """Check archives, earlier ones first. `trust`: the descriptor of the mesh; without it a person compares the id."""
    by = provider()
    authority = open_descriptor(trust.read_bytes(), by.mldsa_verify).authority_key if trust is not None else None
    with ExitStack() as stack:
        opened = [stack.enter_context(file.open("rb")) for file in files]
        for item in verify_files(opened, by.mldsa_verify, authority):
            if not isinstance(item, reports.Progress):
                return ArchiveReport(
                    mesh=str(MeshId(item.mesh)),
                    epoch=item.epoch,
                    after=item.after,
                    batches=item.batches,
                    authors=item.authors,
                    digest=item.digest.hex(),
                    faults=item.faults,
                )
            show(Progress(stage="checking", done=item.done, total=item.total))
    raise error("archive.form", reason="it ends too early")


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
