"""Power cuts at any call of the real stores: nothing acknowledged is lost, and no node contradicts itself afterwards.

One run of a replica is recorded with every write and flush of its two databases: appends, folds, arrivals in the
past, WAL checkpoints, a restart, a rebuild, and the pruning after an archive. Then the power is cut at seeded points,
and what is left is opened by the real engine.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.replica import maintenance
from appliance.replica.archive import archive
from appliance.replica.stores import View
from appliance.storage.archive_file import ArchiveFile
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.trust.grants import Role
from tests.faults.crash_vfs import Recorder, cuts
from tests.mesh_rig import Member, Mesh

POINTS = 1_600
CONTROL_POINTS = 200  # of the run that shows that the harness can fail
AUTOCHECKPOINT = 12  # pages; SQLite's own 1,000 would hardly come up in a short run
PHASES = ("opening", "writing", "past", "rebuild", "restart", "prune", "after")


class Ack(msgspec.Struct, frozen=True):
    """After so many calls, the engine said that the log is durable up to this arrival number."""

    calls: int
    arrivals: int
    own_head: bytes
    own_seq: int


class Run(msgspec.Struct, frozen=True):
    """A recorded run."""

    recorder: Recorder
    mesh: Mesh
    hashes: tuple[bytes, ...]  # of all batches, in order of arrival
    acks: tuple[Ack, ...]
    phases: tuple[tuple[int, str], ...]  # after so many calls this began
    peer: Member  # knows every batch of the run

    def acked(self, calls: int) -> Ack | None:
        """The last word that was given before a call."""
        return next((ack for ack in reversed(self.acks) if ack.calls <= calls), None)

    def phase(self, calls: int) -> str:
        """What was going on."""
        return next(name for begun, name in reversed(self.phases) if begun <= calls)


class Recorded(Member):
    """The node whose disk is recorded."""

    def __init__(self, mesh: Mesh, recorder: Recorder, log_level: str) -> None:
        self.recorder = recorder
        self.acks: list[Ack] = []
        self._level = log_level
        super().__init__(mesh, "a", self._stores)

    def _stores(self) -> tuple[LogStore, ViewStore]:
        log, view = self.mesh.stores("a", vfs=self.recorder.vfs_name)
        log._db.execute(f"PRAGMA synchronous={self._level}")
        for store in (log, view):
            store._db.execute(f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT}")
        return log, view

    def commit(self) -> None:
        self.engine.commit()
        head = self.engine.ancestry.head(self.id)
        arrivals = self.log.last_arrival()
        self.acks.append(Ack(len(self.recorder.ops), arrivals, head.hash if head else b"", head.seq if head else 0))


def record(folder: Path, name: str, log_level: str = "FULL") -> Run:
    """One run of everything that writes."""
    mesh = Mesh(folder)
    recorder = Recorder(name)
    phases = [(0, "opening")]

    def begin(phase: str) -> None:
        phases.append((len(recorder.ops), phase))

    a = Recorded(mesh, recorder, log_level)
    b, c = mesh.member("b"), mesh.member("c")
    mesh.open_by_authority(a)
    begin("writing")
    a.give(b, Role.ADMIN, delegate=1)
    a.give(c, Role.MEMBER)
    for number in range(12):
        a.say(f"gateway {number}")
        if number % 4 == 0:
            a.tag(c, f"tag-{number}")
    for node in (b, c):
        node.pull(a)
    begin("past")
    for number in range(8):
        a.say(f"ahead {number}")
        b.say(f"behind {number}")
        c.say(f"robot {number}")
        b.tag(c, f"b-{number}")
        if number % 2:
            a.pull(b, c)
    begin("rebuild")
    with pytest.MonkeyPatch.context() as small:
        small.setattr(maintenance, "STEP", 20)
        for number, _ in enumerate(maintenance.rebuild(a.engine)):
            a.say(f"while rebuilding {number}")
    begin("restart")
    a.restart()
    a.say("restarted")
    a.close_epoch()
    begin("prune")
    for _ in archive(a.engine, ArchiveFile(folder / "one.x0t"), 1, mesh.by.mldsa_verify):
        a.say("while archiving")
    begin("after")
    a.say("the end")
    peer = mesh.member("peer")
    hashes = tuple(digest for _, digest, _ in a.log.after(0, 10_000))
    a.engine.close()
    for node in (b, c):
        node.engine.close()
    return Run(recorder, mesh, hashes, tuple(a.acks), tuple(phases), peer)


class Survivor:
    """What the real engine makes of the files after a cut."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.node = run.mesh.member("survivor", lambda: _quick(folder))

    def integrity(self) -> list[str]:
        view = self.node.view
        assert isinstance(view, ViewStore)
        return [
            *self.node.log.check(),
            *(row[0] for row in view._db.execute("PRAGMA integrity_check") if row[0] != "ok"),
        ]


def _quick(folder: Path) -> tuple[LogStore, ViewStore]:
    """Opened without waiting for the disk: what is tested is what was written before."""
    log, view = LogStore(folder / "log.db"), ViewStore(folder / "view.db")
    for store in (log, view):
        store._db.execute("PRAGMA synchronous=OFF")
    return log, view


def fingerprint(view: View) -> bytes:
    """Index, journal and rows as one digest."""
    digest = hashlib.sha256()
    for row in view.dump_all():
        digest.update(msgspec.msgpack.encode(row))
    return digest.digest()


class Laws:
    """Checks one survivor after the other and counts what it finds."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.found: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self._folds: dict[tuple[int, int], bytes] = {}

    def check(self, calls: int, folder: Path) -> None:
        self.phases[self.run.phase(calls)] += 1
        try:
            node = Survivor(self.run, folder)
        except X0tError as err:
            self.found[f"does not open: {err.key}"] += 1
            return
        try:
            self._check(calls, node)
        finally:
            node.node.engine.close()

    def _check(self, calls: int, survivor: Survivor) -> None:
        node, run = survivor.node, self.run
        if survivor.integrity():
            self.found["integrity"] += 1
        hashes = tuple(digest for _, digest, _ in node.log.after(0, 10_000))
        if hashes != run.hashes[: len(hashes)]:
            self.found["gap"] += 1
        ack = run.acked(calls)
        if ack is not None and len(hashes) < ack.arrivals:
            self.found["lost"] += 1
        key = (len(hashes), node.log.signed_up_to(len(hashes)))
        if key not in self._folds:
            with node.view.scratch() as scratch:
                blank = node.engine.blank(scratch)
                blank.load()
                self._folds[key] = fingerprint(scratch)
        if fingerprint(node.view) != self._folds[key]:
            self.found["fold differs"] += 1
        if ack is not None and ack.own_seq:
            self._write_on(node, ack)

    def _write_on(self, node: Member, ack: Ack) -> None:
        """The node goes on: with what it acknowledged in its past, or it contradicts itself."""
        node.key, node.id = self.run.mesh.key("a"), self._author
        try:
            node.say("after the cut")
        except X0tError as err:
            self.found[f"cannot write: {err.key}"] += 1
            return
        batch = node.last().batch
        seq, digest = batch.seq, batch.prev
        while seq - 1 > ack.own_seq and digest is not None:
            indexed = node.view.lookup(digest)
            assert indexed is not None
            seq, digest = indexed.meta.seq, node.engine.read(indexed.arrival).batch.prev
        if digest != ack.own_head:
            self.found["self-equivocation"] += 1

    @property
    def _author(self) -> bytes:
        return _author_of(self.run)


def _author_of(run: Run) -> bytes:
    from appliance.core.ids import node_id

    return node_id(run.mesh.key("a").public_key).raw


def points(run: Run, count: int, seed: int) -> list[int]:
    """Seeded points over the whole run: each phase gets its share, and every kind of call is cut before and after."""
    rng = random.Random(seed)
    calls = len(run.recorder.ops)
    starts = [begun for begun, _ in run.phases] + [calls]
    share = count // len(run.phases) // 2
    even = [rng.randrange(start, max(end, start + 1)) for start, end in pairwise(starts) for _ in range(share)]
    return sorted(even + [rng.randrange(1, calls) for _ in range(count - len(even))])


def survey(run: Run, count: int, folder: Path, seed: int = 1) -> Laws:
    laws = Laws(run)
    for number, (calls, disk) in enumerate(cuts(run.recorder.ops, points(run, count, seed))):
        folder.mkdir()
        disk.cut(folder, random.Random(seed << 32 | number))
        laws.check(calls, folder)
        shutil.rmtree(folder)
    return laws


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = record(tmp_path_factory.mktemp("crash"), "crash-full")
    yield made
    made.peer.engine.close()


@pytest.mark.timeout(300)
def test_no_power_cut_loses_what_was_acknowledged_or_splits_a_log(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    laws = survey(run, POINTS, tmp_path / "cut")
    phases = ", ".join(f"{count} {phase}" for phase, count in sorted(laws.phases.items()))
    record_property("counts", f"crash points: {sum(laws.phases.values())} ({phases}); broken laws: {dict(laws.found)}")
    assert laws.found == Counter()
    assert sum(laws.phases.values()) == POINTS
    assert set(laws.phases) == set(PHASES)
    assert min(laws.phases.values()) >= 100


def test_the_harness_finds_lost_batches_where_the_log_is_not_flushed(tmp_path: Path) -> None:
    made = record(tmp_path, "crash-normal", "NORMAL")
    laws = survey(made, CONTROL_POINTS, tmp_path / "cut")
    made.peer.engine.close()
    assert laws.found["lost"] > CONTROL_POINTS / 10
    assert laws.found["self-equivocation"] > 0


def test_a_peer_sees_no_fork_after_a_power_cut(run: Run, tmp_path: Path) -> None:
    """The same law, told by a real peer that had received all that was acknowledged."""
    ops = run.recorder.ops
    for number, (calls, disk) in enumerate(cuts(ops, points(run, 24, seed=2))):
        ack = run.acked(calls)
        if ack is None:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        disk.cut(folder, random.Random(number))
        node = run.mesh.member("survivor", partial(_quick, folder))
        node.key, node.id = run.mesh.key("a"), _author_of(run)
        peer = run.mesh.member(f"peer-{number}")
        peer.take(node.blobs()[: ack.arrivals])
        node.say("after the cut")
        peer.pull(node)
        assert peer.engine.authority.forked_authors() == []
        for one in (node, peer):
            one.engine.close()
