"""Engines of one mesh in one process, on real stores: what tests of the replica are written with.

Keys come from seeds and time is a number, so a test does the same each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

from appliance.core.ids import NodeId, mesh_id, node_id
from appliance.replica.authoring import Identity
from appliance.replica.batch import SignedBatch, parse_batch
from appliance.replica.change_codec import Scalar
from appliance.replica.document_kinds import NODES, Name
from appliance.replica.engine import Engine, Taken
from appliance.replica.entries import (
    AnnounceEntry,
    ChangeEntry,
    CheckpointEntry,
    EntryBody,
    GrantEntry,
    RevokeEntry,
    make,
)
from appliance.replica.epochs import covered_digest
from appliance.replica.fold import Effect
from appliance.replica.intake import Admitted
from appliance.replica.reports import Progress
from appliance.replica.stores import Log, View
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.trust.grants import Grant, Role, grant_id, sign_grant
from appliance.trust.pqc import Provider, SigningKey, provider

START_MS = 1_700_000_000_000
YEAR_MS = 365 * 86_400_000

R = TypeVar("R")


def result(work: Generator[Progress | R, None, None]) -> R:
    """What long work ends with."""
    *_, last = work
    assert not isinstance(last, Progress)
    return last


class Member:
    """One node: its key, its engine and its stores."""

    def __init__(self, mesh: Mesh, name: str, open_stores: Callable[[], tuple[Log, View]]) -> None:
        self.mesh = mesh
        self.name = name
        self.key = mesh.key(name)
        self.id = node_id(self.key.public_key).raw
        self.grant = b""  # the blob of the grant that it got first
        self.parent = b""  # its id
        self._open_stores = open_stores
        self.start()

    def start(self) -> None:
        """Open the stores and load."""
        self.log, self.view = self._open_stores()
        self.engine = Engine(self.mesh.identity, self.log, self.view, self.mesh.by.mldsa_verify)
        self.engine.load()

    def restart(self) -> None:
        """Close and start again."""
        self.engine.close()
        self.start()

    def write(self, *bodies: EntryBody, raw: Sequence[tuple[str, bytes]] = ()) -> tuple[Effect, ...]:
        """One batch of these entries; what became of each."""
        admitted = self.author(*bodies, raw=raw)
        self.commit()
        return self.engine.fold().effects[admitted.meta.hash]

    def author(self, *bodies: EntryBody, raw: Sequence[tuple[str, bytes]] = ()) -> Admitted:
        """Sign a batch and admit it, no more."""
        entries = [*(make(body) for body in bodies), *raw]
        return self.engine.author(self.id, entries, self.key.sign, self.mesh.tick())

    def say(self, name: str) -> tuple[Effect, ...]:
        """A batch that announces."""
        return self.write(AnnounceEntry(name=name, endpoints=("10.0.0.1:7700",), software="x0t 1"))

    def give(self, other: Member, *roles: Role, delegate: int = 0) -> tuple[Effect, ...]:
        """Grant roles to another node."""
        other.grant = self.mesh.grant(self, other, roles, delegate)
        other.parent = grant_id(other.grant)
        return self.write(GrantEntry(other.grant))

    def revoke(self, other: Member, cut: SignedBatch | None = None, reason: str = "") -> tuple[Effect, ...]:
        """Take all roles from another node, from a cut on."""
        seq, head = (cut.batch.seq, cut.hash) if cut else (0, None)
        return self.write(RevokeEntry(target=other.id, roles=(), cut_seq=seq, cut_head=head, reason=reason))

    def tag(self, other: Member, tag: str, name: Name = NODES) -> tuple[Effect, ...]:
        """Give a tag to a node."""
        key = f"{NodeId(other.id)}/tag/{tag}"
        return self.edit({key: True}, name)

    def edit(self, puts: dict[str, Scalar], name: Name = NODES) -> tuple[Effect, ...]:
        """Change a document."""
        chunk = self.engine.documents.edit(name, puts, [], self.id, self.mesh.now_ms // 1000)
        return self.write(ChangeEntry(document=name[0], epoch=name[1], chunk=chunk))

    def close_epoch(self, horizon: int | None = None) -> tuple[Effect, ...]:
        """Write a checkpoint of all that is here, or of what is not after a horizon."""
        horizon = self.engine.max_hlc if horizon is None else horizon
        covered = self.engine.epochs().up_to(horizon)
        digest = covered_digest(covered.values())
        return self.write(CheckpointEntry(self.engine.authority.epoch() + 1, horizon, len(covered), digest))

    def blobs(self) -> list[bytes]:
        """Signed bytes of all batches here that have them, in order of arrival."""
        return [blob for _, _, blob in self.log.after(0, 1 << 30) if blob is not None]

    def take(self, blobs: Sequence[bytes]) -> Taken:
        """Batches from elsewhere: checked, made durable and folded."""
        taken = self.engine.take([(parse_batch(blob), False) for blob in blobs], self.mesh.now_ms)
        self.commit()
        self.engine.fold()
        return taken

    def pull(self, *others: Member) -> None:
        """Take all that these have."""
        for other in others:
            self.take(other.blobs())

    def commit(self) -> None:
        """Make durable what was taken in."""
        self.engine.commit()

    def last(self) -> SignedBatch:
        """The node's own newest batch."""
        head = self.engine.ancestry.head(self.id)
        assert head is not None
        indexed = self.view.lookup(head.hash)
        assert indexed is not None
        return self.engine.read(indexed.arrival)

    def dump(self) -> list[tuple[object, ...]]:
        """Index, journal and all rows."""
        return list(self.view.dump_all())


class Mesh:
    """The authority, the clock, and the nodes."""

    def __init__(self, directory: Path, by: Provider | None = None, authority: str = "authority") -> None:
        self.directory = directory
        self.by = by or provider("auto")
        self.now_ms = START_MS
        self.authority = self.key(authority)
        self.id = mesh_id(self.authority.public_key).raw
        self.identity = Identity(self.id, self.authority.public_key)
        self._nonce = 0

    def key(self, name: str) -> SigningKey:
        """A key that follows from a name."""
        return self.by.mldsa_keypair(hashlib.sha256(name.encode()).digest())

    def tick(self, ms: int = 10) -> int:
        """Let time pass; the new time."""
        self.now_ms += ms
        return self.now_ms

    def member(self, name: str, open_stores: Callable[[], tuple[Log, View]] | None = None) -> Member:
        """A node that knows nothing yet."""
        return Member(self, name, open_stores or (lambda: self.stores(name)))

    def stores(self, name: str, vfs: str | None = None) -> tuple[LogStore, ViewStore]:
        """Its log and its view, on the disk."""
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        return LogStore(folder / "log.db", vfs=vfs), ViewStore(folder / "view.db", vfs=vfs)

    def founder(self, name: str, open_stores: Callable[[], tuple[Log, View]] | None = None) -> Member:
        """The first owner, by the authority's own grant."""
        node = self.member(name, open_stores)
        self.open_by_authority(node)
        return node

    def open_by_authority(self, node: Member) -> None:
        """Make a node the first owner."""
        node.grant = self.grant(None, node, (Role.OWNER,), 3)
        node.parent = grant_id(node.grant)
        node.write(GrantEntry(node.grant))

    def grant(self, issuer: Member | None, subject: Member, roles: Sequence[Role], delegate: int) -> bytes:
        """A signed grant; by the authority if there is no issuer."""
        self._nonce += 1
        grant = Grant(
            mesh=self.id,
            issuer=issuer.id if issuer else self.id,
            subject=subject.id,
            subject_key=subject.key.public_key,
            roles=tuple(sorted(roles)),
            scope=(),
            delegate=delegate,
            not_before_ms=START_MS - 1000,
            not_after_ms=START_MS + YEAR_MS,
            parent=issuer.parent if issuer else None,
            nonce=self._nonce.to_bytes(16, "big"),
        )
        return sign_grant(grant, issuer.key.sign if issuer else self.authority.sign)
