"""Replay of a node's admission: what happened to it, in fold order, through the table of states.

The state of a node is what comes out. So it follows from the set of facts alone, and a fact that arrives late counts at
its own place. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from appliance.replica.admission_states import Event, State, after
from appliance.replica.marks import Key, covers

IMPOSSIBLE = "admission.state"
OUT_OF_SCOPE = "admission.scope"
OTHER_ENROLMENT = "admission.enrolment"

_WITHOUT = frozenset({State.REJECTED, State.REVOKED, State.EVICTED, State.BANNED})  # no certificate counts in these


class Fact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened to a node."""

    key: Key  # its place in the fold
    event: Event
    kind: str  # of the entry
    actor: bytes  # its author
    note: str = ""
    rule: str = ""  # by which it was decided; empty for a person
    reason: str = ""  # of what holds a node back: an error key
    winner: bytes | None = None  # of an EXCEED: who has what this node did not get
    scope: frozenset[str] | None = None  # tags of the nodes that its author may touch (none: all); None: no matter
    token: bytes | None = None
    enrolment: bytes | None = None  # that it makes, or that a certificate is for
    tags: tuple[str, ...] = ()  # that it gives
    level: str = ""
    fault: str = ""  # why it has no effect, whatever the state


class Admission:
    """How a node stands after what happened so far."""

    def __init__(self) -> None:
        self.state = State.UNKNOWN
        self.entered: Fact | None = None  # what brought it to the state
        self.enrolment: Fact | None = None  # by which it is here
        self.certificate: Fact | None = None  # that counts, or will once the node is not suspended
        self.tags: tuple[str, ...] = ()  # of its last certificate, or else of its token
        self.level = ""
        self.course: list[tuple[Fact, str]] = []  # everything, with why it had no effect

    def fault(self, fact: Fact) -> str:
        """Why this would have no effect now; empty if it would."""
        if fact.fault:
            return fact.fault
        if after(self.state, fact.event) is None:
            return IMPOSSIBLE
        if fact.scope is not None and not covers(fact.scope, frozenset(self.tags)):
            return OUT_OF_SCOPE
        if fact.event is Event.CERTIFY and not self._is_for_this(fact):
            return OTHER_ENROLMENT
        return ""

    def take(self, fact: Fact) -> str:
        """Let it happen; returns why it had no effect."""
        if fact.event is Event.CERTIFY and self.state is State.UNKNOWN and not self._is_for_this(fact):
            fact = msgspec.structs.replace(fact, event=Event.ORPHAN, reason=OTHER_ENROLMENT)
        fault = self.fault(fact)
        self.course.append((fact, fault))
        state = after(self.state, fact.event)
        if fault or state is None:
            return fault
        if state.shown != self.state.shown:
            self.entered = fact
        if fact.event in (Event.CERTIFY, Event.ORPHAN):
            self.certificate = fact
            self.tags, self.level = fact.tags, fact.level
        elif fact.enrolment is not None:
            self.enrolment, self.certificate = fact, None
            self.tags, self.level = fact.tags, fact.level
        elif state in _WITHOUT:
            self.certificate = None
        self.state = state
        return ""

    def _is_for_this(self, fact: Fact) -> bool:
        """True if a certificate is for the enrolment by which the node is here, if any."""
        return fact.enrolment == (None if self.enrolment is None else self.enrolment.enrolment)


def replay(facts: Iterable[Fact]) -> Admission:
    """How a node stands after all this, given in any order."""
    admission = Admission()
    for fact in sorted(facts, key=lambda fact: fact.key):
        admission.take(fact)
    return admission
