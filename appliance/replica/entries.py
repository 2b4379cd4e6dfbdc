"""Entries: the bodies that batches carry in this release, each a canonical CBOR array with its own strict schema.

An entry is a kind and a body. A kind that a replica does not know is kept and has no effect, so newer nodes may write
what older ones cannot read. This module only describes and parses; what an entry does is the fold's business.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from appliance.core import canonical
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.core.names import HOST_PORT
from appliance.replica.batch import Hash
from appliance.trust.grants import Role

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=LIMITS.text_bytes)]
Note = Annotated[str, msgspec.Meta(max_length=LIMITS.text_bytes)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
PEER_URI = rf"^(?:tls|quic)://{HOST_PORT.pattern}\Z"
PeerUri = Annotated[str, msgspec.Meta(max_length=LIMITS.text_bytes, pattern=PEER_URI)]
SECRET_BYTES = 32


class Action(StrEnum):
    """What an approver decides about a node. To approve it is to certify it."""

    BAN = "ban"
    EVICT = "evict"
    REJECT = "reject"
    RESUME = "resume"
    SUSPEND = "suspend"
    UNBAN = "unban"


class GrantEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="grant", gc=False):
    """Publishes a signed grant (COSE_Sign1, domain `x0t/grant/1`)."""

    grant: bytes


class RevokeEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="revoke", gc=False):
    """Takes roles from a key. The cut is the last batch of the target that keeps its effect; seq 0 keeps none."""

    target: Hash
    roles: tuple[Role, ...]  # sorted; () takes all
    cut_seq: Seq
    cut_head: Hash | None
    reason: Note


class ThawEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="thaw", gc=False):
    """An owner's decision on a forked log: the branch that holds `keep` counts again."""

    author: Hash
    keep: Hash
    reason: Note


class AnnounceEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="announce", gc=False):
    """What a member says of itself: a name for people, host:port endpoints, the software it runs."""

    name: Text
    endpoints: Annotated[tuple[Text, ...], msgspec.Meta(max_length=8)]
    software: Note


class ChangeEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="change", gc=False):
    """One Automerge change chunk of a document."""

    document: Text
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    chunk: Annotated[bytes, msgspec.Meta(min_length=1, max_length=LIMITS.change_bytes)]


class CheckpointEntry(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="checkpoint", gc=False
):
    """Closes an epoch: of the batches up to `horizon` only those in this batch's past count from now on."""

    epoch: Annotated[int, msgspec.Meta(ge=1, lt=2**32)]
    horizon: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]  # HLC
    count: Seq  # batches covered
    digest: Hash  # SHA-256 over their hashes in fold order


class AttachEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="attach", gc=False):
    """Binds the author's Yggdrasil key to it; `proof` is by that key (trust/attachment.py).

    `uris` are where others may peer with it, best first: scheme, host and port only, so that nobody can slip options
    into another node's configuration. `relay`: it is willing to carry the traffic of others.
    """

    key: Hash
    proof: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    uris: Annotated[tuple[PeerUri, ...], msgspec.Meta(max_length=8)]
    relay: bool


class SecretEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="secret", gc=False):
    """The secret of the mesh from an epoch on, of which the password of its Yggdrasil peers is made.

    Every member's replica holds it, and so does everybody who ever was one or reads a member's disk: it keeps strangers
    from being answered at all. What keeps an evicted member out are the keys that its neighbours allow.
    """

    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]

    def __repr__(self) -> str:
        return f"SecretEntry(epoch={self.epoch}, secret=***)"


class TokenEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="token", gc=False):
    """Publishes a signed token (COSE_Sign1, domain `x0t/token/1`), by its issuer. Its secret is in no entry."""

    token: bytes
    note: Note


class RetireEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="retire", gc=False):
    """Ends a token: who enrols with it after this is held back."""

    token: Hash
    reason: Note


class EnrolEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="enrol", gc=False):
    """A gateway's word that the holder of this token asked to be admitted: the signed token and the signed request."""

    token: bytes
    request: bytes


class DecideEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="decide", gc=False):
    """An approver's decision about a node; `rule` names the rule by which it was made, and is empty for a person."""

    node: Hash
    action: Action
    reason: Note
    rule: Note


class CertifyEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="certify", gc=False):
    """Publishes a node certificate (COSE_Sign1, domain `x0t/node-cert/1`), by the approver who signed it."""

    certificate: bytes
    rule: Note  # by which it was approved; empty for a person


EntryBody = (
    GrantEntry
    | RevokeEntry
    | ThawEntry
    | AnnounceEntry
    | ChangeEntry
    | CheckpointEntry
    | AttachEntry
    | SecretEntry
    | TokenEntry
    | RetireEntry
    | EnrolEntry
    | DecideEntry
    | CertifyEntry
)
AuthorityBody = GrantEntry | RevokeEntry | ThawEntry | CheckpointEntry | CertifyEntry

BODIES: dict[str, type[EntryBody]] = {
    "grant": GrantEntry,
    "revoke": RevokeEntry,
    "thaw": ThawEntry,
    "announce": AnnounceEntry,
    "change": ChangeEntry,
    "checkpoint": CheckpointEntry,
    "attach": AttachEntry,
    "secret": SecretEntry,
    "token": TokenEntry,
    "retire": RetireEntry,
    "enrol": EnrolEntry,
    "decide": DecideEntry,
    "certify": CertifyEntry,
}  # whoever adds a kind adds a step to the view's migrations: what was unknown before may have effect now
AUTHORITY_KINDS = frozenset({"grant", "revoke", "thaw", "checkpoint", "certify"})


def make(body: EntryBody) -> tuple[str, bytes]:
    """The (kind, body) pair that a batch carries."""
    fields = msgspec.to_builtins(body, builtin_types=(bytes,))
    return fields[0], canonical.encode(fields[1:])


def parse(kind: str, body: bytes, limits: Limits = LIMITS) -> EntryBody | None:
    """The body of an entry; None for a kind that this release does not know. Raises `entry.malformed`."""
    schema = BODIES.get(kind)
    if schema is None:
        return None
    try:
        fields = canonical.decode(body, limits=limits)
        if not isinstance(fields, list):
            raise error("entry.malformed", kind=kind, reason="not an array")
        return msgspec.convert([kind, *fields], schema, builtin_types=(bytes,))
    except (X0tError, msgspec.ValidationError) as err:
        raise error("entry.malformed", kind=kind, reason=str(err)) from err
