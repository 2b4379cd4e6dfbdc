"""Records of the control API, version 1: tokens, admission and this node's own enrolment. The rules of `records` hold.

Names of nodes are for people, ids for programs; both are given. A reason is an error key; `explanation` says it in
words.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from appliance.core.records import Line, Lines, Record

Note = Annotated[str, Meta(max_length=256)]
Lifetime = Annotated[int, Meta(ge=1, le=2**47)]  # ms


# ---- what a command asks


class TokenAsk(Record, frozen=True):
    """Make a token. A gateway is a node as `x0t node list` shows it, or nodeid@host:port; none: this node."""

    uses: Annotated[int, Meta(ge=1, le=10_000)] = 1
    lifetime_ms: Lifetime = 86_400_000
    tags: Lines = ()
    level: Literal["none", "tpm", "sgx"] = "none"
    device: str = ""  # key:HEX, ek:HEX or serial:HEX, of SHA-256; only this device may use it
    gateways: Annotated[tuple[Line, ...], Meta(max_length=8)] = ()
    redeemer: str = ""  # the one gateway that may take it
    note: Note = ""
    short: bool = False  # a short form, too, which is fetched from this node


class ReasonAsk(Record, frozen=True):
    """Why; everybody in the mesh can read it."""

    reason: Note = ""


class ApproveAsk(Record, frozen=True):
    """Make a node a member. Without tags with those of its token; without a lifetime for as long as is allowed."""

    tags: Lines | None = None
    lifetime_ms: Lifetime | None = None


class DecideAsk(Record, frozen=True):
    """Decide on a node: reject, suspend, resume, revoke, evict, ban or unban."""

    action: Line
    reason: Note = ""


class EnrolAsk(Record, frozen=True):
    """Ask to be admitted with a token, or its short form; an empty name is this node's own."""

    token: Annotated[str, Meta(min_length=1, max_length=65_536)]
    name: Annotated[str, Meta(max_length=64)] = ""


# ---- what the daemon answers


class Token(Record, frozen=True):
    """A token that the mesh knows; nobody can redeem it with what stands here."""

    token: str
    issuer: str
    state: str  # open, early, spent, expired, retired or revoked
    uses: int
    used: int
    tags: tuple[str, ...]
    level: str
    device: str
    gateways: tuple[str, ...]  # nodeid@host:port
    redeemer: str
    not_before: str
    not_after: str
    note: str
    nodes: tuple[str, ...]  # who enrolled with it, in the order that counts
    explanation: str = ""


class TokenMade(Record, frozen=True):
    """A new token. Its text holds the secret and is shown this once."""

    token: str
    text: str
    short: str  # empty unless it was asked for
    not_after: str
    batch: str


class Admission(Record, frozen=True):
    """How a node stands with the mesh."""

    node: str
    name: str
    state: str
    since: str
    reason: str
    explanation: str
    note: str  # what the one who decided wrote
    token: str
    tags: tuple[str, ...]
    level: str
    actor: str  # who brought it to this state
    until: str  # end of its certificate
    certificate: str


class AdmissionEvent(Record, frozen=True):
    """One thing that happened to a node's admission; `effect` is empty or says why it had none."""

    time: str
    event: str
    state: str  # in which it left the node
    actor: str
    note: str
    rule: str  # by which it was decided; empty for a person
    batch: str
    reason: str  # an error key, where the mesh itself held the node back
    effect: str


class Enrolment(Record, frozen=True):
    """This node's own way into a mesh."""

    node: str
    mesh: str
    name: str
    state: str
    over: bool  # nothing will come of it any more without somebody's help
    since: str
    gateway: str  # host:port that answered last, or was tried last
    reason: str
    detail: dict[str, str]  # what the words of the reason name
    explanation: str
    hint: str
    note: str  # what the one who decided wrote
    tries: int
