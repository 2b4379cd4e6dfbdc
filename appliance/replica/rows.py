"""Rows: the read model, one frozen record a table row.

The fold writes them, people and programs query them; they hold nothing that is local to a replica, so two replicas with
the same batches hold the same rows, byte for byte. Storage keeps one SQLite table for each class: `TABLE` names it and
the first `KEY` fields are its key. Hashes, ids and keys are raw bytes; times are ms since the Unix epoch.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row of the read model. Fields are int, str, bytes, None or a tuple of str (kept as a JSON array)."""

    TABLE: ClassVar[str]
    KEY: ClassVar[int]


class GrantRow(Row, frozen=True):
    """A published grant. `reason` is empty while it has effect."""

    TABLE: ClassVar[str] = "grants"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    grant_id: bytes
    subject: bytes
    issuer: bytes
    roles: tuple[str, ...]
    scope: tuple[str, ...]
    delegate: int
    depth: int
    not_before_ms: int
    not_after_ms: int
    reason: str


class RevocationRow(Row, frozen=True):
    """A published revocation. `reason` is empty while it has effect."""

    TABLE: ClassVar[str] = "revocations"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    target: bytes
    author: bytes
    roles: tuple[str, ...]
    cut_seq: int
    note: str
    reason: str


class ThawRow(Row, frozen=True):
    """An owner's decision on a forked log."""

    TABLE: ClassVar[str] = "thaws"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    author: bytes
    owner: bytes
    keep: bytes
    note: str
    reason: str


class CheckpointRow(Row, frozen=True):
    """A checkpoint that closes an epoch."""

    TABLE: ClassVar[str] = "checkpoints"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    epoch: int
    owner: bytes
    horizon: int
    count: int
    digest: bytes
    reason: str


class TokenRow(Row, frozen=True):
    """A published token. `state` of a token follows from this, the enrolments with it, and the time."""

    TABLE: ClassVar[str] = "tokens"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    token: bytes  # its id
    issuer: bytes
    grant_id: bytes  # of the issuer, on which it rests
    tags: tuple[str, ...]
    level: str
    uses: int
    redeemer: bytes | None
    not_before_ms: int
    not_after_ms: int
    note: str
    hlc: int


class RetirementRow(Row, frozen=True):
    """An approver's word that a token has ended. It reaches tokens whose tags lie within `scope` (none: all)."""

    TABLE: ClassVar[str] = "retirements"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    token: bytes
    author: bytes
    scope: tuple[str, ...]
    note: str
    hlc: int


class EnrolmentRow(Row, frozen=True):
    """A gateway's word that a node asked with a token. Of several for one node and token the first counts."""

    TABLE: ClassVar[str] = "enrolments"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    token: bytes
    node: bytes
    gateway: bytes
    issuer: bytes  # of the token, as what follows
    grant_id: bytes
    tags: tuple[str, ...]
    level: str
    uses: int
    name: str  # that the node gives itself
    hlc: int


class DecisionRow(Row, frozen=True):
    """A decision of an approver, who may decide about nodes whose tags lie within `scope` (none: about all)."""

    TABLE: ClassVar[str] = "decisions"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    node: bytes
    action: str
    author: bytes
    scope: tuple[str, ...]
    note: str
    rule: str
    hlc: int


class CertificateRow(Row, frozen=True):
    """A published node certificate. `reason` is empty while it has effect; which one counts, its node's state says."""

    TABLE: ClassVar[str] = "certificates"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    certificate: bytes  # its id
    subject: bytes
    issuer: bytes
    parent: bytes  # id of the issuer's grant
    enrolment: bytes | None
    mesh_key: bytes
    tunnel_key: bytes
    name: str
    tags: tuple[str, ...]
    level: str
    not_before_ms: int
    not_after_ms: int
    rule: str
    hlc: int
    reason: str


class NodeRow(Row, frozen=True):
    """The latest of what a member said of itself."""

    TABLE: ClassVar[str] = "nodes"
    KEY: ClassVar[int] = 1
    node: bytes
    name: str
    endpoints: tuple[str, ...]
    software: str
    batch: bytes


class AttachmentRow(Row, frozen=True):
    """The latest that a member said of its Yggdrasil key and where it may be peered with; the proof was checked."""

    TABLE: ClassVar[str] = "attachments"
    KEY: ClassVar[int] = 1
    node: bytes
    key: bytes  # Ed25519 public key
    uris: tuple[str, ...]
    relay: int  # 1: it carries the traffic of others
    hlc: int
    batch: bytes


class SecretRow(Row, frozen=True):
    """A secret of the mesh. In key order the first of an epoch is the one that counts."""

    TABLE: ClassVar[str] = "secrets"
    KEY: ClassVar[int] = 3
    epoch: int
    batch: bytes
    entry: int
    author: bytes
    secret: bytes  # last, where nothing that shows the beginning of a row gets to

    def __repr__(self) -> str:
        return f"SecretRow(epoch={self.epoch}, batch={self.batch.hex()}, secret=***)"


class ChangeRow(Row, frozen=True):
    """A change of a document that has effect, at its place in the fold."""

    TABLE: ClassVar[str] = "document_changes"
    KEY: ClassVar[int] = 3
    document: str
    epoch: int
    change: bytes
    batch: bytes
    entry: int
    hlc: int


class NoEffectRow(Row, frozen=True):
    """An entry that is kept and has no effect, with the reason."""

    TABLE: ClassVar[str] = "no_effect"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    author: bytes
    seq: int
    hlc: int
    kind: str
    reason: str


class FrozenRow(Row, frozen=True):
    """An author whose log forked, with the first two batches (by hash) that prove it."""

    TABLE: ClassVar[str] = "frozen"
    KEY: ClassVar[int] = 1
    author: bytes
    seq: int
    proof_a: bytes
    proof_b: bytes
    decided: int  # 1 once an owner's decision in force clears a branch


class DocumentRow(Row, frozen=True):
    """One key of a document: the winning value as JSON text, and the other values that were set at the same time."""

    TABLE: ClassVar[str] = "document_values"
    KEY: ClassVar[int] = 3
    document: str
    epoch: int
    key: str
    value: str
    rivals: tuple[str, ...]  # JSON texts other than the winner, sorted; each once


class AdmissionRow(Row, frozen=True):
    """How a node stands with the mesh, by all that has effect; a node that nobody admitted by these means has none."""

    TABLE: ClassVar[str] = "admissions"
    KEY: ClassVar[int] = 1
    node: bytes
    state: str  # a State of admission_states, as it is shown
    since_hlc: int
    reason: str  # an error key, where the mesh itself held the node back
    note: str  # what the one who decided wrote
    rule: str  # by which it was decided; empty for a person
    actor: bytes  # who brought the node to this state
    token: bytes | None  # with which it asked, and what comes of the two
    enrolment: bytes | None
    tags: tuple[str, ...]  # of its last certificate, or of the token
    level: str
    certificate_batch: bytes | None  # the certificate that counts, or will once the node is not suspended
    certificate_entry: int | None
    winner: bytes | None  # who has what this node did not get


class SurplusRow(Row, frozen=True):
    """An enrolment that its token does not carry: it was spent, had ended, or was not its issuer's to give."""

    TABLE: ClassVar[str] = "surplus"
    KEY: ClassVar[int] = 2
    token: bytes
    node: bytes
    reason: str  # an error key
    winner: bytes | None


class IdleRow(Row, frozen=True):
    """An entry that is sound by itself and changed nothing, because of how its node stood at that place in the fold."""

    TABLE: ClassVar[str] = "idle"
    KEY: ClassVar[int] = 2
    batch: bytes
    entry: int
    node: bytes
    author: bytes
    seq: int
    hlc: int
    kind: str
    reason: str


FOLDED: tuple[type[Row], ...] = (
    GrantRow,
    RevocationRow,
    ThawRow,
    CheckpointRow,
    NodeRow,
    AttachmentRow,
    SecretRow,
    TokenRow,
    RetirementRow,
    EnrolmentRow,
    DecisionRow,
    CertificateRow,
    ChangeRow,
    NoEffectRow,
)
LATEST: tuple[type[Row], ...] = (NodeRow, AttachmentRow)  # of each key the last in the fold stays, whatever came before
DERIVED: tuple[type[Row], ...] = (FrozenRow, DocumentRow, AdmissionRow, SurplusRow, IdleRow)
TABLES = FOLDED + DERIVED
