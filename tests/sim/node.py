"""Node: the real engine over the real stores on a disk that loses power.

Honest nodes live on recorded files (tests/faults/crash_vfs.py): what was not flushed may be lost or torn when the power
goes. `acknowledged` are the batches of which the node said that they are safe; they must be there for ever.
"""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance.core.errors import X0tError
from appliance.core.limits import Limits
from appliance.replica.authoring import Identity
from appliance.replica.batch import SignedBatch, parse_batch
from appliance.replica.engine import Engine
from appliance.replica.entries import EntryBody, make
from appliance.replica.paging import read_batches
from appliance.replica.reports import Received
from appliance.replica.rows import TABLES
from appliance.replica.vector import Vector
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from tests.faults.crash_vfs import Disk, Recorder
from tests.sim.world import Dump, Member, Mesh, log_rows

MEMORY = Path(":memory:")
_RECORDERS: dict[str, Recorder] = {}  # a VFS is registered once in a process


@functools.cache
def _empty_files() -> dict[str, bytes]:
    """The databases of a node that has seen nothing: made once, for it takes milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        for store in (LogStore(Path(folder) / "log.db"), ViewStore(Path(folder) / "view.db")):
            store.close()
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


_parse = functools.lru_cache(4096)(parse_batch)  # each node gets the same bytes


class PowerCutError(Exception):
    """The node is gone in the middle of its work."""


class Node:
    """One replica. Whoever calls brings the time."""

    def __init__(self, mesh: Mesh, member: Member, name: str, folder: Path | None) -> None:
        """Without a folder the node lives in memory, and its power stays on."""
        self.mesh = mesh
        self.member = member
        self.name = name
        self.acknowledged: set[bytes] = set()
        self._folder = folder
        if name not in _RECORDERS:
            _RECORDERS[name] = Recorder(f"sim-{name}")
        self._recorder = _RECORDERS[name]
        self._recorder.ops.clear()
        self._disk = Disk()
        self._dies_at: int | None = None
        if folder is not None:
            self._disk._safe = {file: bytearray(data) for file, data in _empty_files().items()}
            self._write_files()
        self.start()

    @property
    def limits(self) -> Limits:
        return self.mesh.limits

    def start(self) -> None:
        """Open what is on the disk."""
        if self._folder is None:
            self.log, self.view = LogStore(MEMORY), ViewStore(MEMORY)
        else:
            self.log = LogStore(self._folder / "log.db", vfs=self._recorder.vfs_name)
            self.view = ViewStore(self._folder / "view.db", vfs=self._recorder.vfs_name)
        identity = Identity(self.mesh.id, self.mesh.authority_key)
        self.engine = Engine(identity, self.log, self.view, self.mesh.verify, self.limits)
        self.engine.load()
        heads = [meta for meta in self.engine.ancestry.heads if meta is not None]
        self.vector = Vector.from_rows((meta.author, meta.seq, meta.hash) for meta in heads)
        self.committed: list[bytes] = []  # since the start, in order
        self.logs: dict[bytes, list[SignedBatch]] = {}
        for _, _, blob in log_rows(self.log):
            self._remember(parse_batch(blob or b"", self.limits))
        self._flushed()

    def stop(self) -> None:
        self.engine.close()

    # -- work

    def receive(self, blobs: Sequence[bytes], now_ms: int) -> Received:
        """As `service.Replica.receive`."""
        checked: list[tuple[SignedBatch, bool]] = []
        refused: list[tuple[bytes | None, str]] = []
        for blob in blobs:
            try:
                checked.append((_parse(blob, self.limits), False))
            except X0tError as err:
                refused.append((None, err.key))
        taken = self.engine.take(checked, now_ms)
        self._make_durable()
        given = {signed.hash for signed, _ in checked}
        return Received(
            new=tuple(item.meta.hash for item in taken.admitted if item.meta.hash in given),
            refused=(*refused, *(refusal for refusal in taken.refused if refusal[0] in given)),
            parked=taken.parked,
            wanted=taken.wanted,
        )

    def write(self, now_ms: int, *bodies: EntryBody) -> bytes:
        """As an honest node does; returns the hash of what is now durable."""
        admitted = self.engine.author(self.member.id, [make(body) for body in bodies], self.member.sign, now_ms)
        self.mesh.batches[admitted.meta.hash] = admitted.signed
        self._make_durable()
        return admitted.meta.hash

    def blobs(self, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Signed batches by hash."""
        return {digest: blob for digest, blob in read_batches(self.log, self.view, hashes) if blob is not None}

    def dump(self) -> Dump:
        return [(table.TABLE, list(self.view.dump(table))) for table in TABLES]

    def hashes(self) -> set[bytes]:
        """Everything in the log."""
        return {digest for _, digest, _ in log_rows(self.log)}

    def _make_durable(self) -> None:
        written = self.engine.commit()
        safe_after = len(self._recorder.ops)
        folded = self.engine.fold()
        if self._dies_at is not None:
            reached = self._dies_at % (len(self._recorder.ops) + 1)
            self._dies_at = None
            if reached >= safe_after:
                self.acknowledged.update(item.meta.hash for item in written)
            self._lose_power(reached)
            raise PowerCutError(self.name)
        self._flushed()
        self.acknowledged.update(item.meta.hash for item in written)
        for item in folded.batches:
            batch = item.signed.batch
            self.vector.add(batch.author, batch.seq, item.meta.hash, batch.prev)
            self.committed.append(item.meta.hash)
            self._remember(item.signed)

    def _remember(self, signed: SignedBatch) -> None:
        self.logs.setdefault(signed.batch.author, []).append(signed)

    # -- power

    def die_at(self, call: int | None) -> None:
        """The power goes at this call to the disk of the next piece of work, counted round; None: it does not."""
        self._dies_at = call

    def cut_power(self) -> None:
        """The power goes now, between two pieces of work."""
        self._dies_at = None
        self._lose_power(0)

    def come_back(self, rng: random.Random) -> None:
        """After a power cut: what the disk kept is opened."""
        assert self._folder is not None
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self._disk.cut(self._folder, rng)
        self._disk = Disk()
        for path in self._folder.iterdir():
            self._disk._safe[path.name] = bytearray(path.read_bytes())
        self._recorder.ops.clear()
        self.start()

    def _lose_power(self, reached: int) -> None:
        for op in self._recorder.ops[:reached]:
            self._disk.do(op)
        self.engine.close()  # what closing writes never reaches the disk

    def _write_files(self) -> None:
        assert self._folder is not None
        self._folder.mkdir()
        for file, data in self._disk._safe.items():
            (self._folder / file).write_bytes(data)

    def _flushed(self) -> None:
        for op in self._recorder.ops:
            self._disk.do(op)
        self._recorder.ops.clear()
