"""States of a node on its way into the mesh and out of it, as one table: what may happen in each, and what it makes.

Whether a node is a member of the network follows from its state, so the table is a part of the format: replicas that
differ in it would differ in who is a member. Pure. A node whose certificate has ended is `expired`; that is a matter of
the moment at which one looks, and no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """How a node stands."""

    UNKNOWN = "unknown"  # nobody has said anything of it
    REQUESTED = "requested"  # it asked with a token that wants evidence, and gave none yet
    WANTED = "wanted"  # evidence was asked for
    PENDING = "pending"  # an approver is to decide
    APPROVED = "approved"  # it is a member for as long as its certificate lasts
    REJECTED = "rejected"
    HELD = "held"  # suspended before it was certified
    SUSPENDED = "suspended"  # suspended, with a certificate that counts again afterwards
    REVOKED = "revoked"  # its certificate was taken away; a new one may be given
    EVICTED = "evicted"  # it must ask again, with a new token
    BANNED = "banned"  # it may not even ask

    @property
    def shown(self) -> str:
        """As people and programs know it: whether a suspended node had a certificate, its certificate says."""
        return State.SUSPENDED.value if self is State.HELD else self.value


class Event(StrEnum):
    """What happens to a node."""

    ENROL = "enrol"  # it asks with a token that wants no evidence
    ASK = "ask"  # it asks with a token that wants evidence
    EXCEED = "exceed"  # it asks with a token that does not carry it: spent, retired, or not its issuer's to give
    WANT = "want"
    ACCEPT = "accept"
    REFUSE = "refuse"
    CERTIFY = "certify"
    ORPHAN = "orphan"  # it was certified for an enrolment that has no effect, or none any more
    REJECT = "reject"
    SUSPEND = "suspend"
    RESUME = "resume"
    REVOKE = "revoke"
    EVICT = "evict"
    BAN = "ban"
    UNBAN = "unban"


_ASKED: Final[Mapping[Event, State]] = {
    Event.ENROL: State.PENDING,
    Event.ASK: State.REQUESTED,
    Event.EXCEED: State.HELD,
}
_ENDED: Final[Mapping[Event, State]] = {
    Event.REVOKE: State.REVOKED,
    Event.EVICT: State.EVICTED,
    Event.BAN: State.BANNED,
}

# What is not here has no effect in that state. What leads back to the same state says it again and changes nothing,
# but that a certificate takes the place of the one before it.
TABLE: Final[Mapping[State, Mapping[Event, State]]] = {
    State.UNKNOWN: {
        **_ASKED,
        Event.CERTIFY: State.APPROVED,
        Event.ORPHAN: State.SUSPENDED,
        Event.BAN: State.BANNED,
    },
    State.REQUESTED: {
        **_ENDED,
        Event.WANT: State.WANTED,
        Event.ACCEPT: State.PENDING,
        Event.REFUSE: State.REJECTED,
        Event.REJECT: State.REJECTED,
    },
    State.WANTED: {
        **_ENDED,
        Event.WANT: State.WANTED,
        Event.ACCEPT: State.PENDING,
        Event.REFUSE: State.REJECTED,
        Event.REJECT: State.REJECTED,
    },
    State.PENDING: {
        **_ENDED,
        Event.CERTIFY: State.APPROVED,
        Event.REJECT: State.REJECTED,
        Event.SUSPEND: State.HELD,
    },
    State.APPROVED: {**_ENDED, Event.CERTIFY: State.APPROVED, Event.SUSPEND: State.SUSPENDED},
    State.REJECTED: {
        **_ASKED,
        Event.REJECT: State.REJECTED,
        Event.RESUME: State.PENDING,
        Event.BAN: State.BANNED,
    },
    State.HELD: {
        **_ENDED,
        Event.ENROL: State.PENDING,
        Event.ASK: State.REQUESTED,
        Event.CERTIFY: State.SUSPENDED,
        Event.REJECT: State.REJECTED,
        Event.SUSPEND: State.HELD,
        Event.RESUME: State.PENDING,
    },
    State.SUSPENDED: {
        **_ENDED,
        Event.CERTIFY: State.SUSPENDED,
        Event.SUSPEND: State.SUSPENDED,
        Event.RESUME: State.APPROVED,
    },
    State.REVOKED: {**_ENDED, **_ASKED, Event.CERTIFY: State.APPROVED},
    State.EVICTED: {**_ASKED, Event.REVOKE: State.EVICTED, Event.EVICT: State.EVICTED, Event.BAN: State.BANNED},
    State.BANNED: {
        Event.REVOKE: State.BANNED,
        Event.EVICT: State.BANNED,
        Event.BAN: State.BANNED,
        Event.UNBAN: State.EVICTED,
    },
}


def after(state: State, event: Event) -> State | None:
    """The state that an event leads to; None if it has no effect in this one."""
    return TABLE[state].get(event)
