"""A disk that loses power: records what SQLite writes and flushes, and makes files as a power cut may leave them.

What was flushed is there. Of what was not, each write is there, missing, or torn at a sector of 512 bytes, whatever
came before or after it; so the order of unflushed writes means nothing, as on a real disk with a cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

SECTOR = 512  # bytes that a disk writes as one
LOST, TORN = 0.4, 0.2  # of the writes that were not flushed


class Op(NamedTuple):
    """One call: `data` is of a write; `number` is the offset, the size, or 1 for a deletion that is flushed."""

    kind: Literal["write", "truncate", "sync", "delete"]
    file: str
    number: int = 0
    data: bytes = b""


class Recorder(apsw.VFS):
    """Passes all through to the real disk and keeps the calls."""

    def __init__(self, name: str) -> None:
        self.ops: list[Op] = []
        self.vfs_name = name
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(name, flags, self.ops)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.ops.append(Op("delete", Path(filename).name, int(syncdir)))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], ops: list[Op]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path or "temporary").name
        self._ops = ops
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._ops.append(Op("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._ops.append(Op("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._ops.append(Op("sync", self._name))
        super().xSync(flags)


class Disk:
    """What is safely on the disk, and what is on its way there."""

    def __init__(self) -> None:
        self._safe: dict[str, bytearray] = {}
        self._pending: dict[str, list[Op]] = {}

    def do(self, op: Op) -> None:
        """The next call of the recording."""
        pending = self._pending.setdefault(op.file, [])
        pending.append(op)
        if op.kind == "sync" or (op.kind == "delete" and op.number):
            for earlier in pending:
                _apply(self._safe, earlier)
            pending.clear()

    def cut(self, folder: Path, rng: random.Random) -> None:
        """Write the files as a power cut at this moment may leave them."""
        files = {name: bytearray(data) for name, data in self._safe.items()}
        for pending in self._pending.values():
            for op in pending:
                if (survivor := _survivor(op, rng)) is not None:
                    _apply(files, survivor)
        for name, data in files.items():
            (folder / name).write_bytes(data)


def _survivor(op: Op, rng: random.Random) -> Op | None:
    chance = rng.random()
    if op.kind == "write":
        if chance < LOST:
            return None
        if chance < LOST + TORN:
            sectors = rng.randrange(len(op.data) // SECTOR + 1)
            return op._replace(data=op.data[: sectors * SECTOR])
    elif chance < 0.5:
        return None
    return op


def _apply(files: dict[str, bytearray], op: Op) -> None:
    if op.kind == "delete":
        files.pop(op.file, None)
    elif op.kind == "truncate":
        del files.setdefault(op.file, bytearray())[op.number :]
    elif op.kind == "write":
        data = files.setdefault(op.file, bytearray())
        if len(data) < op.number:
            data.extend(bytes(op.number - len(data)))
        data[op.number : op.number + len(op.data)] = op.data


def cuts(ops: Sequence[Op], points: Sequence[int]) -> Iterator[tuple[int, Disk]]:
    """The disk after so many calls, for each point in rising order."""
    disk = Disk()
    done = 0
    for point in points:
        for op in ops[done:point]:
            disk.do(op)
        done = point
        yield point, disk
