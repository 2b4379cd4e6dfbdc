"""Which policy is in force: the states of its document after each change, and the last of them that may be.

A revision comes into force if no edit is under way in it, it can be read, it keeps the bounds, and it passes its own
tests, judged at the time that its change carries. That is a function of the history alone, so all replicas that have
folded the same batches agree, whatever came in which order. Nothing here reads a clock or writes a document.

Verdicts are not kept over a restart: an arrival from the past moves what stands behind it, so that a verdict would have
to be kept by all that a document held and not by the name of its change. Instead little is judged: from the last
revision back to the one that is in force, and of those before the last only until one of their tests fails, which are
tried first that failed in a later revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import TypeAlias

import msgspec

from appliance.core.clock import hlc_ms
from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS, Limits
from appliance.policy.document import Reader, is_open
from appliance.policy.model import EMPTY, Policy, PolicyTest
from appliance.policy.trial import Failure, failing, run_tests
from appliance.replica.change_codec import Scalar
from appliance.replica.history import DocumentChange

Content: TypeAlias = dict[str, Scalar]


class Standing(StrEnum):
    """What became of a revision."""

    IN_FORCE = "in_force"
    SUPERSEDED = "superseded"  # it could be in force, but a later one is
    FAILED = "failed"  # it does not pass its own tests
    OPEN = "open"  # an edit of several changes is not complete
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"  # it is beyond a bound


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """The document after one change."""

    change: bytes  # hash: the name of the revision
    author: bytes  # node id
    hlc: int
    batch: bytes  # hash
    standing: Standing
    reason: str = ""  # why it is not in force; empty if it is or was superseded


class Edit(msgspec.Struct, frozen=True):
    """Who changed the policy, and with what."""

    batch: bytes
    author: bytes
    change: bytes


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """Why the last revision is not in force, and the edits that brought that about, the failing one first."""

    revision: Revision
    reason: str
    edits: tuple[Edit, ...]
    failures: tuple[Failure, ...] = ()


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """Where the policy stands. `policy` is the same object while the same revision is in force."""

    policy: Policy = EMPTY
    in_force: Revision | None = None
    head: Revision | None = None  # the last one
    blocked: Blocked | None = None  # why that is not in force; None if it is


class _Finding(msgspec.Struct, frozen=True):
    """The judgement of one revision: its standing, except that only the course tells what is superseded."""

    standing: Standing
    reason: str = ""
    failures: tuple[Failure, ...] = ()
    culprits: frozenset[str] = frozenset()  # keys that must not be as they are
    is_whole: bool = True  # all failures are there, and not the first alone


class Revisions:
    """Follows one history. Judges a revision when it is asked for, and once; not thread-safe."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._reader = Reader(limits)
        self._changes: list[DocumentChange] = []
        self._undo: list[Content] = []  # what each change put an end to; what it only added is in its puts
        self._content: Content = {}  # after the last change
        self._findings: dict[int, _Finding] = {}
        self._likely: set[PolicyTest] = set()  # that failed before
        self._in_force: int | None = None
        self._policy: tuple[int, Policy] | None = None  # of the revision that is in force

    def update(self, history: Sequence[DocumentChange]) -> Course:
        """The course after a whole history, in fold order. Costs what is new since the last time."""
        self._follow(history)
        self._in_force = None
        if not self._changes:
            return Course()
        head = len(self._changes) - 1
        for place, content in self._backwards():
            if self._finding(place, content, whole=place == head).standing is Standing.IN_FORCE:
                self._in_force = place
                self._keep(place, content)
                break
        return Course(
            policy=EMPTY if self._policy is None or self._in_force is None else self._policy[1],
            in_force=None if self._in_force is None else self._revision(self._in_force),
            head=self._revision(head),
            blocked=None if self._in_force == head else self._blocked(head),
        )

    def standings(self, limit: int | None = None) -> tuple[Revision, ...]:
        """The revisions of the last history, newest first; all of them, or the newest so many."""
        found: list[Revision] = []
        for place, content in self._backwards():
            if limit is not None and len(found) >= limit:
                break
            self._finding(place, content, whole=False)
            found.append(self._revision(place))
        return tuple(found)

    # -- states

    def _follow(self, history: Sequence[DocumentChange]) -> None:
        common = 0
        for old, new in zip(self._changes, history, strict=False):
            if old is not new and old != new:
                break
            common += 1
        while len(self._changes) > common:
            self._step_back(self._content, len(self._changes) - 1)
            self._changes.pop()
            self._undo.pop()
        self._findings = {place: found for place, found in self._findings.items() if place < common}
        if self._policy is not None and self._policy[0] >= common:
            self._policy = None
        for change in history[common:]:
            touched = (*change.puts, *change.deletes)
            self._undo.append({key: self._content[key] for key in touched if key in self._content})
            self._changes.append(change)
            _apply(self._content, change)

    def _step_back(self, content: Content, place: int) -> None:
        """From the content after a change to the content before it."""
        for key in self._changes[place].puts:
            content.pop(key, None)
        content.update(self._undo[place])

    def _backwards(self) -> Iterator[tuple[int, Content]]:
        """Places and contents from the last one on. A content is good until the next step."""
        content = dict(self._content)
        for place in reversed(range(len(self._changes))):
            yield place, content
            self._step_back(content, place)

    # -- judgement

    def _finding(self, place: int, content: Content, *, whole: bool) -> _Finding:
        """The judgement of a revision; `whole`: with all tests that fail, as the last one needs it."""
        found = self._findings.get(place)
        if found is None or (whole and not found.is_whole):
            found = self._findings[place] = self._judged(place, content, whole=whole)
        return found

    def _judged(self, place: int, content: Content, *, whole: bool) -> _Finding:
        if is_open(content):
            markers = frozenset(key for key in content if key.startswith("part/"))
            author = self._edits_of(place, markers)[0].author
            return _Finding(Standing.OPEN, f"an edit by {NodeId(author)} is not complete", culprits=markers)
        try:
            policy = self._reader.read(content)
        except X0tError as err:
            said = err.message.removesuffix(".")
            if err.key == "policy.bounds":
                return _Finding(Standing.TOO_LARGE, said)
            if err.key != "policy.document":
                raise
            reason = f"{said}; it may be written by newer software"
            return _Finding(Standing.UNREADABLE, reason, culprits=frozenset({err.detail["key"]}))
        failures = self._failures(policy, hlc_ms(self._changes[place].hlc), whole=whole)
        if failures:
            return _Finding(Standing.FAILED, "it fails tests of its own", failures, is_whole=whole)
        return _Finding(Standing.IN_FORCE)

    def _failures(self, policy: Policy, at_ms: int, *, whole: bool) -> tuple[Failure, ...]:
        """The tests that fail, or one of them."""
        found = run_tests(policy, at_ms) if whole else tuple(islice(failing(policy, at_ms, self._likely), 1))
        if len(self._likely) > self._limits.policy_tests:
            self._likely.clear()
        self._likely.update(failure.test for failure in found)
        return found

    def _keep(self, place: int, content: Content) -> None:
        if self._policy is None or self._policy[0] != place:
            self._policy = place, self._reader.read(content)

    def _revision(self, place: int) -> Revision:
        change, found = self._changes[place], self._findings[place]
        superseded = found.standing is Standing.IN_FORCE and place != self._in_force
        return Revision(
            change=change.change,
            author=change.author,
            hlc=change.hlc,
            batch=change.batch,
            standing=Standing.SUPERSEDED if superseded else found.standing,
            reason=found.reason,
        )

    # -- who did it

    def _blocked(self, head: int) -> Blocked:
        found = self._findings[head]
        edits = self._edits_of(head, found.culprits)
        if not edits:
            edits = tuple(_edit(self._changes[place]) for place in (head, *_concurrent(self._changes, head)))
        reason = found.reason
        if found.failures:
            count = len(found.failures)
            reason = "1 of its tests fails" if count == 1 else f"{count} of its tests fail"
        return Blocked(revision=self._revision(head), reason=reason, edits=edits, failures=found.failures)

    def _edits_of(self, place: int, keys: frozenset[str]) -> tuple[Edit, ...]:
        """The changes that put these keys as they are after a place, newest first."""
        missing, found = set(keys), []
        for change in reversed(self._changes[: place + 1]):
            if not missing:
                break
            if not missing.isdisjoint(change.puts):
                found.append(_edit(change))
                missing.difference_update(change.puts)
        return tuple(found)


def content_at(history: Sequence[DocumentChange], change: bytes) -> dict[str, Scalar]:
    """What the document held after a change. Raises `policy.no_revision`."""
    content: Content = {}
    for made in history:
        _apply(content, made)
        if made.change == change:
            return content
    raise error("policy.no_revision", revision=change)


def _apply(content: Content, change: DocumentChange) -> None:
    content.update(change.puts)
    for key in change.deletes:
        content.pop(key, None)


def _edit(change: DocumentChange) -> Edit:
    return Edit(change.batch, change.author, change.change)


def _concurrent(changes: Sequence[DocumentChange], place: int) -> list[int]:
    """The changes that neither knew the one at a place nor were known to it, in fold order.

    A change stands behind all that it follows.
    """
    known = {changes[place].change}  # it and what it follows, however far back
    for change in reversed(changes[: place + 1]):
        if change.change in known:
            known.update(change.deps)
    later = {changes[place].change}  # it and what follows it
    for change in changes[place + 1 :]:
        if not later.isdisjoint(change.deps):
            later.add(change.change)
    return [number for number, change in enumerate(changes) if change.change not in known | later]
