"""A mesh in one process: keys, grants and batches that a test writes as it likes, and replicas that take them in.

Replicas are the real engine over the real stores, in memory. Signatures are a fast stand-in of the right length (a
keyed hash): they tell a true signature from a false one, and the same seed gives the same bytes.
Whoever holds a Member can write anything as that member; only `Replica` has rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core.clock import hlc_pack
from appliance.core.ids import mesh_id, node_id
from appliance.core.limits import LIMITS, Limits
from appliance.replica.authoring import Identity
from appliance.replica.batch import Batch, Sign, SignedBatch, Verify, build_batch, parse_batch
from appliance.replica.engine import Engine, Taken
from appliance.replica.entries import EntryBody, RevokeEntry, ThawEntry, make
from appliance.replica.rows import TABLES
from appliance.replica.stores import Value
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.trust.grants import Grant, Role, grant_id, sign_grant

START_MS = 1_700_000_000_000
FAR_MS = START_MS + 10 * 365 * 86_400_000
SIGNATURE_BYTES = 3309
KEY_BYTES = 1952

Dump = list[tuple[str, list[tuple[Value, ...]]]]


def log_rows(log: LogStore) -> list[tuple[int, bytes, bytes | None]]:
    """Everything in a log: (arrival, hash, signed bytes)."""
    return log.after(0, log.last_arrival())


class FastSignatures:
    """Signatures for tests where the arithmetic of ML-DSA is not the point: SHA-256 under a secret, padded."""

    def __init__(self) -> None:
        self._secrets: dict[bytes, bytes] = {}

    def key(self, seed: bytes) -> tuple[bytes, Sign]:
        """(public key, sign)."""
        public = hashlib.shake_256(b"public" + seed).digest(KEY_BYTES)
        self._secrets[public] = seed
        return public, lambda message, context=b"": _seal(seed, message, context)

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes = b"") -> bool:
        seed = self._secrets.get(public_key)
        return seed is not None and signature == _seal(seed, message, context)


def _seal(seed: bytes, message: bytes, context: bytes) -> bytes:
    return hashlib.sha256(seed + len(context).to_bytes(1) + context + message).digest().ljust(SIGNATURE_BYTES, b"\0")


@dataclass(eq=False)
class Member:
    """A key and, as its holder sees it, the end of its log."""

    name: str
    public_key: bytes
    sign: Sign
    id: bytes
    head: SignedBatch | None = None

    def __repr__(self) -> str:
        return self.name


@dataclass
class Mesh:
    """The authority and its members. `write` makes batches; it does not ask whether anybody will accept them."""

    seed: bytes = b"mesh"
    limits: Limits = LIMITS
    seals: FastSignatures = field(default_factory=FastSignatures)

    def __post_init__(self) -> None:
        self.authority_key, self.authority_sign = self.seals.key(self.seed + b"/authority")
        self.id = mesh_id(self.authority_key).raw
        self.members: dict[str, Member] = {}
        self.batches: dict[bytes, SignedBatch] = {}
        self._nonce = 0

    @property
    def verify(self) -> Verify:
        return self.seals.verify

    def member(self, name: str) -> Member:
        if name not in self.members:
            public, sign = self.seals.key(self.seed + b"/" + name.encode())
            self.members[name] = Member(name, public, sign, node_id(public).raw)
        return self.members[name]

    def grant(  # noqa: PLR0913  # what a grant says
        self,
        issuer: Member | None,
        subject: Member,
        *roles: Role,
        parent: bytes | None = None,
        delegate: int = 0,
        scope: Sequence[str] = (),
        times: tuple[int, int] = (START_MS, FAR_MS),
    ) -> bytes:
        """A signed grant; `issuer` None is the authority. `parent` is the signed grant that the issuer rests on."""
        self._nonce += 1
        body = Grant(
            version=1,
            mesh=self.id,
            issuer=self.id if issuer is None else issuer.id,
            subject=subject.id,
            subject_key=subject.public_key,
            roles=tuple(sorted(roles)),
            scope=tuple(sorted(scope)),
            delegate=delegate,
            not_before_ms=times[0],
            not_after_ms=times[1],
            parent=None if parent is None else grant_id(parent),
            nonce=self._nonce.to_bytes(16),
        )
        return sign_grant(body, self.authority_sign if issuer is None else issuer.sign, self.limits)

    def write(
        self,
        author: Member,
        *bodies: EntryBody | tuple[str, bytes],
        after: Iterable[SignedBatch] = (),
        prev: SignedBatch | str | None = "head",
        at_ms: int = 0,
        hlc: int | None = None,
    ) -> SignedBatch:
        """A batch of this author on `prev` (its own last one, unless said otherwise), with `after` as parents.

        Its clock is `at_ms` after the start, or just above all that it follows.
        """
        before = author.head if isinstance(prev, str) else prev
        parents = {batch.hash: batch for batch in after if before is None or batch.hash != before.hash}
        if hlc is None:
            named = [self.batches[digest] for digest in _named(bodies) if digest in self.batches]
            known = [batch.batch.hlc for batch in (*parents.values(), *named, *([before] if before else []))]
            hlc = max([hlc_pack(START_MS + at_ms, 0), *(past + 1 for past in known)])
        signed = build_batch(
            Batch(
                version=1,
                mesh=self.id,
                channel="control",
                author=author.id,
                seq=before.batch.seq + 1 if before else 1,
                prev=before.hash if before else None,
                parents=tuple(sorted(parents)),
                hlc=hlc,
                entries=tuple(body if isinstance(body, tuple) else make(body) for body in bodies),
            ),
            author.sign,
            self.limits,
        )
        author.head = signed
        self.batches[signed.hash] = signed
        return signed

    def replica(self) -> Replica:
        return Replica(self)


def _named(bodies: Iterable[EntryBody | tuple[str, bytes]]) -> set[bytes]:
    named = {body.cut_head for body in bodies if isinstance(body, RevokeEntry) and body.cut_head is not None}
    return named | {body.keep for body in bodies if isinstance(body, ThawEntry)}


class Replica:
    """The real engine over databases in memory."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.log = LogStore(Path(":memory:"))
        self.view = ViewStore(Path(":memory:"))
        self.engine = self._engine()
        self.now_ms = FAR_MS

    def _engine(self) -> Engine:
        engine = Engine(
            Identity(self.mesh.id, self.mesh.authority_key), self.log, self.view, self.mesh.verify, self.mesh.limits
        )
        engine.load()
        return engine

    def take(self, *batches: SignedBatch) -> Taken:
        """Admit, make durable, fold."""
        taken = self.engine.take([(parse_batch(batch.blob, self.mesh.limits), False) for batch in batches], self.now_ms)
        self.engine.commit()
        self.engine.fold()
        return taken

    def write(self, author: Member, *bodies: EntryBody, at_ms: int = 0) -> SignedBatch:
        """As an honest node does: after all that it knows."""
        entries = [make(body) for body in bodies]
        admitted = self.engine.author(author.id, entries, author.sign, START_MS + at_ms)
        self.engine.commit()
        self.engine.fold()
        author.head = admitted.signed
        self.mesh.batches[admitted.signed.hash] = admitted.signed
        return admitted.signed

    def restart(self) -> None:
        """As after a stop: everything in memory is gone."""
        self.engine = self._engine()

    def rebuild(self) -> None:
        """As after the loss of the view."""
        self.view = ViewStore(Path(":memory:"))
        self.engine = self._engine()

    def dump(self) -> Dump:
        """All rows of the read model."""
        return [(table.TABLE, list(self.view.dump(table))) for table in TABLES]

    def reasons(self) -> dict[tuple[bytes, int], str]:
        """Why entries have no effect: (batch, entry) -> reason."""
        rows = dict(self.dump())["no_effect"]
        return {(bytes(row[0]), int(row[1])): str(row[6]) for row in rows}  # type: ignore[arg-type]

    def reason(self, batch: SignedBatch, entry: int = 0) -> str | None:
        """None if the entry took effect, else why not."""
        assert self.view.lookup(batch.hash) is not None, "the batch is not in the log"
        return self.reasons().get((batch.hash, entry))
