"""Records of the control API, version 1: what `x0t` asks and what `x0td` answers, one class for each JSON object.

Identifiers are in their text form, moments are RFC 3339 UTC, public keys are key lines. Both ends decode strictly:
a field that is not known is refused, so a command and a daemon of different versions say so instead of guessing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Line = Annotated[str, Meta(min_length=1, max_length=256)]
Lines = Annotated[tuple[Line, ...], Meta(max_length=64)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object of the control API."""


# ---- what a command asks


class MeshCreate(Record, frozen=True):
    """Found a mesh on this node."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]


class MeshJoin(Record, frozen=True):
    """Take in the descriptor of a mesh, and the peers (host:port or nodeid@host:port) to meet it at."""

    descriptor: Annotated[str, Meta(max_length=65_536)]  # base64
    peers: Lines = ()


class GrantAsk(Record, frozen=True):
    """Bind roles to a key; without `lifetime_ms` the grant ends with the issuer's own."""

    roles: Lines
    public_key: str = ""  # a key line; needed when the node is not known here yet
    node: str = ""
    scope: Lines = ()
    delegate: Annotated[int, Meta(ge=0, le=16)] = 0
    lifetime_ms: Annotated[int, Meta(ge=1)] | None = None


class RevokeAsk(Record, frozen=True):
    """Take roles from a node; none named takes all."""

    node: str
    roles: Lines = ()
    reason: Annotated[str, Meta(max_length=256)] = ""


class TagsAsk(Record, frozen=True):
    """Change the tags of a node."""

    add: Lines = ()
    remove: Lines = ()


class NameAsk(Record, frozen=True):
    """The name of a node for people; empty takes it away."""

    name: Annotated[str, Meta(max_length=256)]  # one that is too long is refused with the reason


class ThawAsk(Record, frozen=True):
    """Decide on a frozen author: the branch that holds this batch counts again."""

    node: str
    keep: str
    reason: Annotated[str, Meta(max_length=256)] = ""


class FileAsk(Record, frozen=True):
    """An absolute path that the daemon writes or reads."""

    path: Annotated[str, Meta(pattern="^/")]


class ArchiveAsk(Record, frozen=True):
    """A file for the batches that a checkpoint covers; without `epoch` the last one that was closed."""

    path: Annotated[str, Meta(pattern="^/")]
    epoch: Annotated[int, Meta(ge=1, lt=2**32)] | None = None


class CheckpointAsk(Record, frozen=True):
    """Close the epoch for all that is older than this."""

    older_than_ms: Annotated[int, Meta(ge=0, le=2**47)]


class LogAsk(Record, frozen=True):
    """Part of the log, newest first."""

    author: str = ""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 50


class LinkAsk(Record, frozen=True):
    """All links, or those to one node."""

    node: str = ""


class WatchAsk(Record, frozen=True):
    """The watch stream: a line after each change, and one at least this often."""

    pulse_ms: Annotated[int, Meta(ge=50, le=60_000)] = 15_000


# ---- what the daemon answers


class Mesh(Record, frozen=True):
    """The mesh of this node."""

    mesh: str
    name: str
    authority: str  # key line
    created: str
    authority_here: bool  # its private key lies on this node
    descriptor: str  # base64
    warning: str = ""


class Key(Record, frozen=True):
    """This node's identity."""

    node: str
    public_key: str
    kept: str  # where the private key is: "file"


class Job(Record, frozen=True):
    """A job of the supervisor."""

    name: str
    phase: str
    rounds: int
    failures: int
    last_error: str


class Status(Record, frozen=True):
    """The daemon and its replica. `digest` is over the whole read model: equal on replicas with equal batches."""

    node: str
    mesh: str
    name: str
    software: str
    uptime_s: int
    digest: str
    vector: str
    batches: int
    authors: int
    epoch: int
    no_effect: int
    parked: int
    frozen: tuple[str, ...]
    refused: dict[str, int]  # batches, by error key
    turned_away: dict[str, int]  # connections, by error key
    log_bytes: int
    links_up: int
    cut: bool
    listen: str
    healthy: bool
    jobs: tuple[Job, ...]


class Batch(Record, frozen=True):
    """One line of the log."""

    batch: str
    author: str
    seq: int
    time: str
    kinds: tuple[str, ...]
    size_bytes: int


class Entry(Record, frozen=True):
    """One entry of a batch. `effect` is empty if it has effect, else the reason why not."""

    kind: str
    body: str  # JSON
    effect: str


class BatchDetail(Record, frozen=True):
    """A batch with all that it holds."""

    line: Batch
    prev: str
    parents: tuple[str, ...]
    entries: tuple[Entry, ...]


class NoEffect(Record, frozen=True):
    """An entry that is kept and has no effect."""

    batch: str
    entry: int
    author: str
    seq: int
    time: str
    kind: str
    reason: str
    explanation: str


class Conflict(Record, frozen=True):
    """What was written concurrently and does not agree: who won, over what, and why."""

    kind: str  # "value", "fork", "revocation" or "token"
    subject: str
    winner: str
    losers: tuple[str, ...]
    reason: str


class Grant(Record, frozen=True):
    """Roles bound to a key. `effect` is empty while it is in force."""

    grant: str
    node: str
    issuer: str
    roles: tuple[str, ...]
    scope: tuple[str, ...]
    delegate: int
    not_before: str
    not_after: str
    effect: str


class Node(Record, frozen=True):
    """A node that the mesh knows."""

    node: str
    name: str
    roles: tuple[str, ...]
    tags: tuple[str, ...]
    endpoints: tuple[str, ...]
    software: str
    member: bool
    frozen: bool


class Link(Record, frozen=True):
    """A peer, connected or wanted."""

    node: str
    address: str
    direction: str  # "out", "in"
    state: str  # "up", "dialling", "waiting", "cut"
    since: str
    note: str  # why it is not up


class Links(Record, frozen=True):
    """All links of this node."""

    cut: bool
    links: tuple[Link, ...]


class Receipt(Record, frozen=True):
    """A batch that is durable on this node; `effects` has "" or a reason for each entry."""

    batch: str
    seq: int
    time: str
    effects: tuple[str, ...]


class Verified(Record, frozen=True):
    """The outcome of reading a whole log or archive again: sound if there are no faults."""

    batches: int
    archived: int
    digest: str
    faults: tuple[str, ...]


class ArchiveReport(Record, frozen=True):
    """The outcome of checking archives without a daemon: sound if there are no faults and the mesh is the one meant."""

    mesh: str
    epoch: int  # 0: an export
    after: int  # it follows on the archives up to this epoch; 0: it stands alone
    batches: int
    authors: int
    digest: str
    faults: tuple[str, ...]


class Rebuilt(Record, frozen=True):
    """The outcome of a rebuild: the digest before and after, which must be equal."""

    batches: int
    before: str
    after: str


class Moved(Record, frozen=True):
    """Batches that went to a file; `removed` of them lost their signed bytes here."""

    path: str
    batches: int
    size_bytes: int
    removed: int


class Imported(Record, frozen=True):
    """Batches that came from a file: how many were new, wait for others, or were refused, by error key."""

    path: str
    batches: int
    new: int
    waiting: int
    refused: dict[str, int]


class Progress(Record, frozen=True, tag="progress", tag_field="event"):
    """A line of a stream while work goes on; `total` is 0 while it is not known."""

    stage: str
    done: int
    total: int


class Watch(Record, frozen=True):
    """A line of the watch stream: the state after something changed. Equal vectors are equal batches."""

    vector: str
    batches: int
    links_up: int
