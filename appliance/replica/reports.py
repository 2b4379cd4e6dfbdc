"""Reports: what a replica tells about itself, as frozen records with raw ids; people see them through the CLI."""

from __future__ import annotations

import msgspec

from appliance.replica.fold import Effect
from appliance.replica.rows import AttachmentRow, SecretRow


class Receipt(msgspec.Struct, frozen=True):
    """A batch of our own, durable and folded."""

    hash: bytes
    seq: int
    hlc: int
    effects: tuple[Effect, ...]


class Received(msgspec.Struct, frozen=True):
    """What became of just these batches from a peer: `wanted` are the unknown parents of those that were parked."""

    new: tuple[bytes, ...]
    refused: tuple[tuple[bytes | None, str], ...]
    parked: int
    wanted: tuple[bytes, ...]


class Page(msgspec.Struct, frozen=True):
    """Some of the log in fold order. `cursor` is the place of the last batch that was looked at."""

    blobs: tuple[bytes, ...]
    heads: tuple[tuple[bytes, int, bytes], ...]  # (author, seq, hash) of each blob
    cursor: tuple[int, bytes]
    done: bool
    archived_epoch: int | None = None  # the last archived epoch, if some that are missing lie in an archive


class Status(msgspec.Struct, frozen=True):
    """The replica as a whole. `digest` is over the read model: equal on replicas that hold the same batches."""

    mesh: bytes
    batches: int
    authors: int
    digest: bytes
    vector: bytes
    parked: int
    refused: dict[str, int]
    no_effect: int
    frozen: tuple[bytes, ...]
    epoch: int
    log_bytes: int
    max_hlc: int


class LogLine(msgspec.Struct, frozen=True):
    """One batch in the log."""

    arrival: int
    hash: bytes
    author: bytes
    seq: int
    hlc: int
    kinds: tuple[str, ...]
    bytes: int  # without the signature, once it is archived


class EntryView(msgspec.Struct, frozen=True):
    """One entry of a batch, with its body as JSON text and what became of it."""

    index: int
    kind: str
    body: str
    reason: str | None


class BatchView(msgspec.Struct, frozen=True):
    """One batch, whole."""

    line: LogLine
    prev: bytes | None
    parents: tuple[bytes, ...]
    entries: tuple[EntryView, ...]


class ConflictView(msgspec.Struct, frozen=True):
    """Something that people should look at: a value, a forked log, a revocation that lost, a token that was overdrawn.

    Of a token the winner took the last use, and the loser is held back.
    """

    kind: str  # "value", "fork", "revocation" or "token"
    subject: str
    winner: str
    losers: tuple[str, ...]
    reason: str


class NodeView(msgspec.Struct, frozen=True):
    """A node that the mesh knows. `roles` are those in force; `frozen` until an owner decides on its forked log."""

    node: bytes
    name: str
    roles: tuple[str, ...]
    tags: tuple[str, ...]
    endpoints: tuple[str, ...]
    software: str
    frozen: bool
    subnets: tuple[str, ...] = ()
    state: str = ""  # of a node that asked to be admitted: see admission_states; its certificate may have ended


class NetworkView(msgspec.Struct, frozen=True):
    """What the network of a node follows from, as of one moment. Ids are in order."""

    members: tuple[NodeView, ...]
    attachments: tuple[AttachmentRow, ...]
    secret: SecretRow | None
    former: frozenset[bytes] = frozenset()  # nodes that are no members any more and may know the secret


class Progress(msgspec.Struct, frozen=True):
    """How far a long work is; `fault` says what it found."""

    done: int
    total: int
    fault: str = ""


class Verified(msgspec.Struct, frozen=True):
    """Result of reading a whole log or archive again. Sound if there are no faults."""

    batches: int
    archived: int
    faults: tuple[str, ...]
    digest: bytes


class Rebuilt(msgspec.Struct, frozen=True):
    """Result of a rebuild: the digest of the read model before and after, which must be equal."""

    batches: int
    before: bytes
    after: bytes


class Moved(msgspec.Struct, frozen=True):
    """Batches that were written to a file; `removed` of them lost their signed bytes here."""

    path: str
    batches: int
    size_bytes: int
    removed: int


class Imported(msgspec.Struct, frozen=True):
    """Batches that were read from a file: how many were new, wait for others, or were refused (by error key)."""

    path: str
    batches: int
    new: int
    waiting: int
    refused: dict[str, int]


class ArchiveReport(msgspec.Struct, frozen=True):
    """Result of checking a file without a replica. It is sound if there are no faults and the mesh is the one meant."""

    mesh: bytes
    authority_key: bytes
    epoch: int  # it is the archive of this epoch; 0: an export
    after: int  # it follows on the archives up to this epoch; 0: it stands alone
    batches: int
    authors: int
    digest: bytes  # SHA-256 of the file without its last 32 bytes
    faults: tuple[str, ...]
