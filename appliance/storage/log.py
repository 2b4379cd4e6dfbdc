"""The log database: every accepted batch, in order of arrival. It is the truth; all else is rebuilt from it.

WAL with synchronous=FULL: a batch is on the disk when `append` returns. One row a batch and no index beside the key, so
that a group of appends costs little more than its bytes. One writer; never called from the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from appliance.core.errors import X0tError, error
from appliance.storage.migrations import LOG, open_database


class LogStore:
    """Append-only rows (arrival, hash, blob). A pruned batch keeps its hash and loses its blob."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self.path = path
        self._db = open_database(str(path), LOG, full=True, vfs=vfs)

    def append(self, batches: Sequence[tuple[bytes, bytes]]) -> int:
        """Store (hash, blob) pairs in one durable transaction; returns the arrival number of the last."""
        try:
            with self._db:
                self._db.executemany("INSERT INTO batches (hash, blob) VALUES (?, ?)", batches)
            return self._db.last_insert_rowid()
        except apsw.Error as err:
            raise storage_error(err, self.path) from err

    def blob(self, arrival: int) -> bytes | None:
        """The signed bytes of one batch; None if they were pruned."""
        row = self._db.execute("SELECT blob FROM batches WHERE arrival = ?", (arrival,)).get
        return row if isinstance(row, bytes) else None

    def after(self, arrival: int, limit: int) -> list[tuple[int, bytes, bytes | None]]:
        """Up to `limit` rows (arrival, hash, blob) that arrived later."""
        return list(
            self._db.execute(
                "SELECT arrival, hash, blob FROM batches WHERE arrival > ? ORDER BY arrival LIMIT ?",
                (arrival, limit),
            )
        )

    def scan(self, chunk: int = 500) -> Iterator[tuple[int, bytes, bytes | None]]:
        """All rows in order of arrival, read in chunks so that a long scan holds no transaction open."""
        arrival = 0
        while rows := self.after(arrival, chunk):
            yield from rows
            arrival = rows[-1][0]

    def last_arrival(self) -> int:
        """Arrival number of the newest batch; 0 in an empty log."""
        return int(self._db.execute("SELECT coalesce(max(arrival), 0) FROM batches").get)

    def prune(self, arrivals: Sequence[int]) -> None:
        """Drop the bytes of batches that an archive now holds."""
        with self._db:
            self._db.executemany("UPDATE batches SET blob = NULL WHERE arrival = ?", [(number,) for number in arrivals])

    def get(self, key: str) -> bytes | None:
        """A named value kept with the log (mesh, descriptor)."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """Keep a named value, durably."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def check(self) -> list[str]:
        """SQLite's own integrity check; empty if all is well."""
        return [str(row[0]) for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]

    def close(self) -> None:
        """Close the database; the WAL is folded back."""
        self._db.close()


def storage_error(err: apsw.Error, path: Path) -> X0tError:
    """The coded error for what SQLite reported."""
    if isinstance(err, apsw.FullError):
        return error("replica.disk_full", path=str(path))
    if isinstance(err, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)):
        return error("replica.read_only", path=str(path))
    return error("replica.corrupt", path=str(path), reason=str(err))
