"""The policy of a mesh as people work with it: what is in force, and edits that are judged before they are signed.

It reads the history of the document and who is who, and writes document edits; storage, signatures and sync are the
replica's. An edit that does not fit one change goes in parts, under a mark that keeps it from coming into force before
it is whole; one that a power cut left behind is cleared away by the next edit.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from appliance.core.clock import hlc_ms
from appliance.core.errors import StateError, X0tError, error
from appliance.policy import bounds
from appliance.policy.directory import Directory
from appliance.policy.document import MARKER_BYTES, Part, Reader, edit, parts
from appliance.policy.explain import Provenance
from appliance.policy.model import EMPTY, Policy, RuleId
from appliance.policy.revisions import Course, Revision, Revisions, content_at
from appliance.policy.roster import Roster, roster_of
from appliance.policy.trial import Failure, run_tests
from appliance.policy.wording import expectation_text, flow_service
from appliance.replica.document_kinds import POLICY, Name
from appliance.replica.history import DocumentChange
from appliance.replica.operations import DocumentEdit
from appliance.replica.reports import NetworkView, Receipt

T = TypeVar("T")
ATTEMPTS = 3  # at an edit, where others write at the same time
_RULE = "rule/"
_SHOWN_DIGITS = 16  # of a revision


class Source(Protocol):
    """What is read of the replica."""

    async def history(self, name: Name) -> tuple[DocumentChange, ...]:
        """Changes of a document with effect, in fold order; the same tuple while there is no other."""
        ...

    async def network(self) -> NetworkView:
        """Who is who, as of one moment."""
        ...


class Editor(Protocol):
    """What writes to the replica."""

    async def edit_document(self, edit: DocumentEdit) -> Receipt:
        """Sign one change of a document."""
        ...


class Written(msgspec.Struct, frozen=True):
    """An edit that was written: its batches, the revision that it made, and where the policy stands now."""

    batches: tuple[bytes, ...]
    revision: bytes
    course: Course


class Snapshot(msgspec.Struct, frozen=True):
    """The policy and who is who, as of one moment."""

    course: Course
    roster: Roster
    history: tuple[DocumentChange, ...]


class PolicyService:
    """The policy of one mesh. `aside` runs what may take long outside the event loop."""

    def __init__(
        self,
        source: Source,
        editor: Editor,
        now_ms: Callable[[], int],
        aside: Callable[[Callable[[], object]], Awaitable[object]],
    ) -> None:
        self._source = source
        self._editor = editor
        self._now_ms = now_ms
        self._aside = aside
        self._revisions = Revisions()
        self._followed: tuple[DocumentChange, ...] | None = None
        self._course = Course()
        self._turn = asyncio.Lock()  # of whoever reads the revisions
        self._writing = asyncio.Lock()

    # -- reading

    async def current(self) -> Course:
        """Where the policy stands."""
        return (await self._follow())[0]

    async def snapshot(self) -> Snapshot:
        """The policy, its history and who is who."""
        course, history = await self._follow()
        return Snapshot(course, roster_of(await self._source.network()), history)

    async def directory(self) -> Directory:
        """Who is who now."""
        return roster_of(await self._source.network()).directory

    async def standings(self, limit: int) -> tuple[Revision, ...]:
        """The latest revisions, newest first."""
        await self._follow()
        async with self._turn:
            return await self._do(lambda: self._revisions.standings(limit))

    async def find(self, text: str) -> Revision:
        """The revision whose id begins so (hex). Raises `policy.no_revision`."""
        _, history = await self._follow()
        places = [place for place, each in enumerate(history) if each.change.hex().startswith(text.lower())]
        if len(places) != 1 or not text:
            raise error("policy.no_revision", revision=text)
        wanted = history[places[0]].change
        for revision in await self.standings(len(history) - places[0]):
            if revision.change == wanted:
                return revision
        raise error("policy.no_revision", revision=text)  # it lost its effect at this moment

    async def content(self, revision: bytes) -> Policy:
        """The policy as a revision left it. Raises `policy.no_revision`, `policy.document`."""
        _, history = await self._follow()
        return await self._do(lambda: Reader().read(content_at(history, revision)))

    def judge(self, policy: Policy) -> tuple[Failure, ...]:
        """The tests of a policy that fail now. Raises `policy.bounds` for one that is too large to be judged."""
        bounds.check(policy)
        return run_tests(policy, self._now_ms())

    # -- writing

    async def apply(self, policy: Policy, if_head: bytes | None = None) -> Written:
        """Make this the policy. `if_head`: only if that is the newest revision; empty: only if there is none yet.

        Raises `policy.bounds`, `policy.tests`, `policy.unchanged`, `grant.role`, and `policy.changed` where somebody
        else wrote meanwhile; then nothing has come into force.
        """
        failures = await self._do(lambda: self.judge(policy))
        if failures:
            raise tests_error(failures, await self.directory())
        async with self._writing:
            batches = await self._write(policy, if_head)
        course, history = await self._follow()
        mine = [each for each in history if each.batch in batches]
        if not mine:
            raise error("policy.overtaken")
        return Written(batches, mine[-1].change, course)

    async def undo(self, before: bytes, after: bytes) -> Written:
        """Take back what an edit changed between two revisions, and leave alone what others wrote since.

        `before` is empty for the first edit of all.
        """
        was = await self.content(before) if before else EMPTY
        made = await self.content(after)
        _, history = await self._follow()
        now = await self.content(history[-1].change)
        return await self.apply(
            Policy(
                rules=_undone(now.rules, was.rules, made.rules),
                tests=_undone(now.tests, was.tests, made.tests),
                groups=_undone(now.groups, was.groups, made.groups),
                services=_undone(now.services, was.services, made.services),
            )
        )

    async def _write(self, policy: Policy, if_head: bytes | None) -> tuple[bytes, ...]:
        """The edit that leads from what there is to the policy, one change after another."""
        for _ in range(ATTEMPTS):
            head, planned = await self._plan(policy, if_head)
            try:
                first = await self._put(planned[0], after=head)
            except StateError as err:
                if err.key != "document.changed":
                    raise
                continue  # somebody wrote since we read
            return (first, *await self._put_rest(planned))
        raise await self._changed()

    async def _plan(self, policy: Policy, if_head: bytes | None) -> tuple[bytes, tuple[Part, ...]]:
        """The head that an edit starts from, and its parts."""
        _, history = await self._follow()
        head = history[-1].change if history else b""
        if if_head is not None and if_head != head:
            raise await self._changed()
        marker = secrets.token_bytes(MARKER_BYTES)
        old = content_at(history, head) if head else {}
        planned = await self._do(lambda: parts(*edit(old, policy), marker))
        if not planned:
            raise error("policy.unchanged")
        return head, planned

    async def _put_rest(self, planned: Sequence[Part]) -> list[bytes]:
        """All parts but the first. The mark that this one set must still be there, or somebody wrote over it."""
        mark = next((key for key in planned[0].puts if key.startswith("part/")), "")
        try:
            return [await self._put(part, holding=mark) for part in planned[1:]]
        except StateError as err:
            if err.key != "document.changed":
                raise
            raise await self._changed() from err

    async def _put(self, part: Part, *, after: bytes | None = None, holding: str = "") -> bytes:
        wanted = DocumentEdit(POLICY, part.puts, part.deletes, after=after, holding=holding)
        receipt = await self._editor.edit_document(wanted)
        reason = next((effect.reason for effect in receipt.effects if effect.reason), None)
        if reason is not None:
            raise error("replica.no_effect", batch=receipt.hash, reason=reason)
        return receipt.hash

    async def _changed(self) -> X0tError:
        _, history = await self._follow()
        return error("policy.changed", revision=history[-1].change.hex()[:_SHOWN_DIGITS] if history else "none")

    async def _follow(self) -> tuple[Course, tuple[DocumentChange, ...]]:
        async with self._turn:
            history = await self._source.history(POLICY)
            if history is not self._followed:
                self._course = await self._do(lambda: self._revisions.update(history))
                self._followed = history
            return self._course, history

    async def _do(self, work: Callable[[], T]) -> T:
        return await self._aside(work)  # type: ignore[return-value]  # it returns what the work does


def tests_error(failures: tuple[Failure, ...], directory: Directory) -> X0tError:
    """`policy.tests`, with the first failure in words."""
    first = f"{expectation_text(failures[0].test, directory)}, but {found_text(failures[0])}"
    return error("policy.tests", count=len(failures), first=first)


def found_text(failure: Failure) -> str:
    """What came out instead of what a test expects: `tcp/502 is no rule`."""
    return f"{flow_service(failure.protocol, failure.port)} is {failure.found.value.replace('_', ' ')}"


def provenance(snapshot: Snapshot, names: Mapping[bytes, str]) -> dict[RuleId, Provenance]:
    """Who brought each rule that is in force into the policy, and when."""
    found: dict[str, Provenance] = {}
    revision = snapshot.course.in_force
    for change in snapshot.history if revision is not None else ():
        signed = Provenance(
            author=change.author,
            name=names.get(change.author, ""),
            since_ms=hlc_ms(change.hlc),
            batch=change.batch,
        )
        for key in change.deletes:
            found.pop(key, None)
        found.update((key, signed) for key in change.puts if key.startswith(_RULE))
        if revision is not None and change.change == revision.change:
            break
    return {bytes.fromhex(key.removeprefix(_RULE)): signed for key, signed in found.items()}


K = TypeVar("K")
V = TypeVar("V")


def _undone(now: dict[K, V], was: dict[K, V], made: dict[K, V]) -> dict[K, V]:
    """Without what an edit added, with what it removed or replaced; what is another by now stays."""
    undone = {key: value for key, value in now.items() if key in was or made.get(key) != value}
    return undone | {k: v for k, v in was.items() if made.get(k) != v and now.get(k) == made.get(k)}
