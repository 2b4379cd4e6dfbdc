"""Records of the control API, version 1: policy and network. The rules of `records` hold here too.

Names of nodes are for people, ids for programs; both are given. Rule ids are 32 hex digits.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from appliance.core.limits import LIMITS
from appliance.core.records import Line, Record

PolicyText = Annotated[str, Meta(max_length=LIMITS.policy_text_bytes)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


# ---- what a command asks


class PolicyAsk(Record, frozen=True):
    """A whole policy as YAML or HuJSON, to judge or to put in force."""

    text: PolicyText
    if_revision: str = ""  # refuse if the policy was changed since; `none`: if there is one; empty takes it as it is
    confirm_s: Annotated[int, Meta(ge=0, le=3_600)] | None = None  # undo unless confirmed; None: only if it cuts us off


class FlowAsk(Record, frozen=True):
    """A flow: from and to a node (name or id) or an address, and a service such as tcp/443."""

    source: Line
    target: Line
    service: Line


class ImportAsk(Record, frozen=True):
    """Translate the policy of another system; `template` asks for a mapping file to fill in instead."""

    text: PolicyText
    mapping: PolicyText = ""
    template: bool = False


class ProbeAsk(Record, frozen=True):
    """Send one thing from this node to another, and say where it ended."""

    target: Line
    service: Line
    size_bytes: Annotated[int, Meta(ge=0, le=65_000)] = 56
    timeout_s: Annotated[int, Meta(ge=1, le=30)] = 3


class CaptureAsk(Record, frozen=True):
    """Write what crosses the mesh interface to a file, within bounds of size and time."""

    path: Annotated[str, Meta(pattern="^/")]
    max_bytes: Annotated[int, Meta(ge=1_024, le=1 << 30)] = 16 << 20
    max_s: Annotated[int, Meta(ge=1, le=3_600)] = 30


class SubnetsAsk(Record, frozen=True):
    """Change the subnets behind a node."""

    add: tuple[Line, ...] = ()
    remove: tuple[Line, ...] = ()


# ---- what the daemon answers: policy


class PolicyFailure(Record, frozen=True):
    """A test of a policy that does not come out as its author expects."""

    test: str
    expected: str
    found: str
    rules: tuple[str, ...]


class PolicyTried(Record, frozen=True):
    """What judging a policy brought; it may be put in force if there are no failures."""

    rules: int
    tests: int
    warnings: tuple[str, ...]
    failures: tuple[PolicyFailure, ...]


class PolicyBlocked(Record, frozen=True):
    """Why the newest revision is not in force, and the edits that do not go together."""

    revision: str
    edits: tuple[str, ...]  # batches, the failing one first
    authors: tuple[str, ...]  # node ids, in the same order
    reason: str


class PolicyState(Record, frozen=True):
    """The policy in force. `revision` is empty where there is none yet: then everything is denied."""

    revision: str
    head: str  # newest revision; another one than `revision` while it is blocked or open
    author: str
    time: str
    rules: int
    tests: int
    text: str
    blocked: PolicyBlocked | None = None
    confirm_by: str = ""  # RFC 3339; undone then, unless confirmed


class PolicyContent(Record, frozen=True):
    """The policy as a revision left it, as text."""

    revision: str
    text: str


class PolicyDone(Record, frozen=True):
    """A change of policy that was written."""

    batches: tuple[str, ...]
    revision: str
    warnings: tuple[str, ...]
    confirm_by: str
    cuts_off: tuple[str, ...]  # nodes that this node cannot reach any more, nor be reached by


class PolicyImported(Record, frozen=True):
    """A translated policy, as text; and what the other system had that is not carried over, with its place."""

    text: str  # empty where something is refused
    rules: int
    tests: int
    left: tuple[str, ...]
    refused: tuple[str, ...] = ()
    template: str = ""  # a mapping file to fill in, where one would help


class PolicyRevision(Record, frozen=True):
    """A revision of the policy; the newest comes first."""

    revision: str
    author: str
    name: str
    time: str
    standing: str
    reason: str
    added: int
    removed: int


class PreviewRow(Record, frozen=True):
    """Flows that change their verdict: between which nodes, and for what."""

    change: str  # gains or loses
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    services: tuple[str, ...]


class Preview(Record, frozen=True):
    """Who gains and who loses which flow; rules that come and go."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    rows: tuple[PreviewRow, ...]
    left_out: int
    cuts_off: tuple[str, ...]
    failures: tuple[PolicyFailure, ...]
    warnings: tuple[str, ...]
    head: str  # newest revision, beside which all this was found; empty where there is none yet


class RuleView(Record, frozen=True):
    """A rule that decided, or nearly did."""

    rule: str
    text: str
    through: tuple[str, ...]  # the selectors that matched, source then target
    author: str
    since: str
    packets: int | None = None  # on this node, of the flows that this rule allows; None: not counted here
    bytes: int | None = None


class Explanation(Record, frozen=True):
    """Why a flow is allowed or not."""

    allowed: bool
    sentence: str
    allows: tuple[RuleView, ...]
    denies: tuple[RuleView, ...]
    near: tuple[RuleView, ...]


# ---- what the daemon answers: network


class NetworkState(Record, frozen=True):
    """The mesh network on this node: what is wanted, what is, since when, and what blocks it."""

    interface: str
    address: str
    subnet: str
    public_key: str
    phase: str
    since: str
    blocked: str
    firewall: str
    members: int
    rules: int
    entries: int
    drops: int
    repairs: int  # times that our table was not as we left it, since the daemon started
    disturbed: str  # who changed it last, and when; empty if nobody did


class MeshPeer(Record, frozen=True):
    """A Yggdrasil peer."""

    node: str
    name: str
    uri: str
    direction: str
    up: bool
    latency_ms: float
    cost: int
    rx_bytes: int
    tx_bytes: int
    uptime_s: int
    note: str


class MeshRoute(Record, frozen=True):
    """How a member is reached."""

    node: str
    name: str
    address: str
    subnets: tuple[str, ...]
    path: str  # ports of the tree from here; empty while none is known
    session: bool


class Conversation(Record, frozen=True):
    """A conversation that crosses the mesh interface now."""

    source: str
    target: str
    service: str
    state: str
    packets: int
    bytes: int


class DropLine(Record, frozen=True):
    """A sampled packet that was dropped, with the reason in words."""

    time: str
    source: str
    target: str
    service: str
    stage: str
    reason: str


class Probed(Record, frozen=True):
    """Where a probe ended."""

    reached: bool
    died_at: str  # empty, or: no-route, sender-rule, receiver-rule, no-listener, unknown
    round_trip_ms: float | None
    sentence: str
    hint: str


class Captured(Record, frozen=True):
    """A finished capture."""

    path: str
    packets: int
    size_bytes: int
    dropped: int
    ended: str  # why: size, time, or interface


class Check(Record, frozen=True):
    """A check of the network, the issue behind a failed one, and the command that mends it."""

    check: str
    ok: bool
    code: str
    sentence: str
    evidence: str
    fix: str
