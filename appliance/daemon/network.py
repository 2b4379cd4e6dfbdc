"""The mesh network of this node: brings firewall and Yggdrasil to what the folded state says, again and again.

Each round reads who is a member and which policy is in force, compiles what this node must enforce, and hands both
down; the parts below make the smallest change. A round follows each commit, each expiry of a rule, and each time that
somebody else touched our table. What fails is tried again and shown in `state`; what was in force stays in force
meanwhile. The table that denies is there before Yggdrasil starts, so the interface is never open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec
import structlog

from appliance.core.clock import hlc_ms
from appliance.core.errors import X0tError
from appliance.daemon import events
from appliance.daemon.pace import Pace
from appliance.daemon.supervisor import Job
from appliance.netstack.yggdrasil.config import peer_password
from appliance.netstack.yggdrasil.records import Candidate, Wanted
from appliance.policy.compile import Compiler, next_change_ms
from appliance.policy.directory import Directory
from appliance.policy.enforcement import Applied, Firewall
from appliance.policy.filter import Filter
from appliance.policy.model import Policy
from appliance.policy.narrow import narrowed
from appliance.policy.roster import Roster, RosterIssue, roster_of
from appliance.policy.service import PolicyService
from appliance.replica.entries import AttachEntry
from appliance.replica.operations import Operations
from appliance.replica.queries import Queries
from appliance.replica.reports import NetworkView
from appliance.replica.rows import AttachmentRow
from appliance.replica.service import Replica
from appliance.trust.grants import Role

if TYPE_CHECKING:  # their drivers take 8 MiB, which a node without a network need not spend
    from appliance.netstack.nft.claim import Claim
    from appliance.netstack.nft.conntrack import Conversation
    from appliance.netstack.yggdrasil.key import YggdrasilKey
    from appliance.netstack.yggdrasil.manager import Yggdrasil

ALWAYS: Final = 1_000_000  # restarts: what enforces is never given up
RETRY_MIN_S: Final = 0.25
RETRY_MAX_S: Final = 10.0
ATTACH_S: Final = 1.0  # between two looks at what we said of our key
SWEEP_S: Final = 60.0  # between two comparisons of the whole table, also without a notice
GRANT_END_S: Final = 5.0  # between two looks for members whose grants ran out: nothing else tells of that


class RunningFirewall(Firewall, Protocol):
    """A firewall that also has work of its own, such as reading dropped packets."""

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    async def flows(self) -> Sequence[Conversation]:
        """Conversations that cross the mesh interface now."""
        ...

    async def close(self) -> None:
        """Give back threads and sockets; the table stays in force."""
        ...


class Mesh(NamedTuple):
    """The parts of the replica that the network follows."""

    replica: Replica
    queries: Queries
    operations: Operations
    policy: PolicyService


class Kernel(NamedTuple):
    """What the network acts on."""

    firewall: RunningFirewall
    yggdrasil: Yggdrasil
    key: YggdrasilKey
    claim: Claim | None = None  # of interface and table, where others could want them


class Announcement(NamedTuple):
    """What this node says of its place in the network; `may_speak` is false until the replica has met the mesh."""

    uris: tuple[str, ...]
    relay: bool
    may_speak: Callable[[], bool]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How enforcement stands; times are ms since the Unix epoch."""

    is_prepared: bool = False  # the table that denies is there
    enforced_at_ms: int = 0  # when what is in force was applied; 0: nothing yet
    rules: int = 0
    entries: int = 0
    members: int = 0
    blocked: str = ""  # why the latest state is not in force
    owed: str = ""  # why conversations that nothing allows any more are not ended yet
    disturbed_by: str = ""  # who touched our table last
    disturbed_at_ms: int = 0
    repairs: int = 0
    issues: tuple[RosterIssue, ...] = ()


class Network:
    """One mesh's network on this node."""

    def __init__(self, mesh: Mesh, kernel: Kernel, said: Announcement) -> None:
        self.kernel: Final = kernel
        self.state = State()
        self.roster = Roster(Directory(), (), ())
        self.enforced: Filter | None = None  # what the kernel holds, as far as we know
        self.policy = Policy()  # what that came from
        self._mesh = mesh
        self._said = said
        self._compiler = Compiler()
        self._compiled_for = Directory()  # who was who when `enforced` was made
        self._pace = Pace()
        self._prepared = asyncio.Event()
        self._moved = asyncio.Event()
        self._is_attached = True  # until a round finds that the mesh has not heard of our key
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("network")

    def jobs(self) -> list[Job]:
        """What the supervisor keeps running."""
        return [
            Job(name="firewall", run=self._enforce, restarts=ALWAYS),
            Job(name="firewall-events", run=self._follow, restarts=ALWAYS),
            Job(name="firewall-guard", run=self._guard, restarts=ALWAYS),
            Job(name="firewall-sweep", run=self._sweep, period_s=SWEEP_S, restarts=ALWAYS),
            Job(name="firewall-drops", run=self._read_drops, restarts=ALWAYS),
            Job(name="grants", run=self._look_again, period_s=GRANT_END_S, restarts=ALWAYS),
            Job(name="attach", run=self._keep_attached, restarts=ALWAYS),
            Job(name="yggdrasil", run=self._run_yggdrasil, restarts=ALWAYS),
        ]

    async def close(self) -> None:
        """Let go; what is enforced stays enforced, and Yggdrasil runs on."""
        await self.kernel.firewall.close()
        if self.kernel.claim is not None:
            self.kernel.claim.release()

    # -- enforcement

    async def _enforce(self) -> None:
        """Prepare, then a round whenever something moved or a rule is over; a failed one is tried again."""
        wait_s: float | None = 0.0
        retry_s = RETRY_MIN_S
        while True:
            await self._after(wait_s)
            try:
                if not self._prepared.is_set():
                    await self._prepare()
                wait_s = await self._round()
            except X0tError as err:
                self._log.error(events.NETWORK_BLOCKED, error=str(err))
                self._say(blocked=str(err))
                wait_s = retry_s
            else:
                if not self.state.owed:
                    retry_s = RETRY_MIN_S
                    continue
                wait_s = retry_s if wait_s is None else min(wait_s, retry_s)
            retry_s = min(RETRY_MAX_S, retry_s * 2)

    async def _prepare(self) -> None:
        await self.kernel.firewall.prepare()
        self._say(is_prepared=True)
        self._prepared.set()

    async def _after(self, wait_s: float | None) -> None:
        """Wait for a move, or so long."""
        try:
            async with asyncio.timeout(wait_s):
                await self._moved.wait()
        except TimeoutError:
            pass
        self._moved.clear()

    async def _round(self) -> float | None:
        """Read, compile, apply; returns the seconds until the next rule is over, None if none will be."""
        view = await self._mesh.queries.network()
        course = await self._mesh.policy.current()
        now_ms = self._mesh.replica.now_ms()
        self.roster = roster_of(view)
        self._is_attached = any(self._is_ours(row) for row in view.attachments)
        self._want(view)  # first: whom we have links with does not hang on a policy that does not fit
        try:
            wanted = await asyncio.to_thread(self._compile, course.policy, now_ms)  # up to 0.3 s for a large site
        except X0tError:
            await self._narrow()
            raise
        applied = await self.kernel.firewall.apply(wanted)
        self._applied(wanted, applied, course.policy)
        due_ms = next_change_ms(course.policy, now_ms)
        return None if due_ms is None else max(0.0, (due_ms - now_ms) / 1000)

    def _compile(self, policy: Policy, now_ms: int) -> Filter:
        """What this node must enforce. A node that has no place in the mesh is a stranger itself: nothing passes.

        So is one whose place is still that of another key of the network.
        """
        own, address = self._mesh.replica.node, self.kernel.yggdrasil.state.address
        self._compiler.set_directory(self.roster.directory)
        self._compiler.set_policy(policy, now_ms)
        place = self.roster.directory.members.get(own)
        if place is None or place.address != address:
            return Filter(own=address)
        return self._compiler.filter(own)

    async def _narrow(self) -> None:
        """Where the policy does not fit, the filter before stays for those alone who are still what they were."""
        if self.enforced is None:
            return
        now = self.roster.directory
        narrower = narrowed(self.enforced, self._compiled_for, now, self._mesh.replica.node)
        applied = await self.kernel.firewall.apply(narrower)
        self.enforced, self._compiled_for = narrower, now
        self._say(owed=applied.owed)

    def _want(self, view: NetworkView) -> None:
        """Tell Yggdrasil who the members are; before the first secret of the mesh is known there is nothing to say."""
        if view.secret is None:
            return
        members = tuple(
            Candidate(key=each.key, uris=each.uris, relay=each.relay, since_s=hlc_ms(each.since[0]) / 1000)
            for each in self._pace.follow(self.roster.neighbours, _trusted(view), asyncio.get_running_loop().time())
        )
        keys = {each.key for each in members}
        former = frozenset(row.key for row in view.attachments if row.node in view.former) - keys
        password = peer_password(view.secret.secret, self._mesh.replica.mesh, view.secret.epoch)
        self.kernel.yggdrasil.want(Wanted(members=members, password=password, former=former))

    def _applied(self, wanted: Filter, applied: Applied, policy: Policy) -> None:
        changed = bool(applied.added or applied.removed or applied.rebuilt)
        if changed or applied.owed != self.state.owed:
            self._log.info(
                events.FIREWALL_APPLIED,
                added=applied.added,
                removed=applied.removed,
                rebuilt=applied.rebuilt,
                ended=applied.ended,
                owed=applied.owed,
            )
        since_ms = 0 if changed else self.state.enforced_at_ms
        self.enforced, self.policy, self._compiled_for = wanted, policy, self.roster.directory
        self._say(
            enforced_at_ms=since_ms or self._mesh.replica.now_ms(),
            rules=len(policy.rules),
            entries=len(wanted.inbound) + len(wanted.outbound),
            members=len(self.roster.directory.members),
            blocked="",
            owed=applied.owed,
            issues=self.roster.issues,
        )

    # -- what wakes it

    async def _follow(self) -> None:
        """Each commit of the replica may change who is who and who may do what."""
        async with self._mesh.replica.subscribe() as commits:
            while True:
                self._moved.set()
                await commits.get()

    async def _guard(self) -> None:
        """Somebody else's change of our table is repaired at once."""
        await self._prepared.wait()
        while True:
            who = await self.kernel.firewall.disturbed()
            self._log.warning(events.FIREWALL_DISTURBED, by=who)
            self._say(disturbed_by=who, disturbed_at_ms=self._mesh.replica.now_ms(), repairs=self.state.repairs + 1)
            self._moved.set()

    async def _sweep(self) -> None:
        """Compare the whole table, in case that a notice was lost."""
        if not self._prepared.is_set() or self.enforced is None:
            return
        differences = await self.kernel.firewall.verify()
        if differences:
            self._log.warning(events.FIREWALL_DIFFERS, count=len(differences), first=str(differences[0]))
            self._say(repairs=self.state.repairs + 1)
            self._moved.set()

    async def _look_again(self) -> None:
        self._moved.set()

    async def _read_drops(self) -> None:
        await self._prepared.wait()
        await self.kernel.firewall.run()

    # -- Yggdrasil

    async def _run_yggdrasil(self) -> None:
        await self._prepared.wait()
        await self.kernel.yggdrasil.run()

    async def _keep_attached(self) -> None:
        """Say to the mesh which key of the network is ours, until it has heard."""
        key, replica = self.kernel.key, self._mesh.replica
        proof = key.attach(replica.mesh, replica.node)
        entry = AttachEntry(key.public, proof, self._said.uris, self._said.relay)
        while True:
            if not self._is_attached and self._said.may_speak():
                try:
                    await self._mesh.operations.attach(entry)
                    self._log.info(events.ATTACHED, uris=self._said.uris)
                except X0tError as err:
                    self._log.warning(events.ATTACH_REFUSED, error=str(err))
            await asyncio.sleep(ATTACH_S)

    def _is_ours(self, row: AttachmentRow) -> bool:
        ours = (self._mesh.replica.node, self.kernel.key.public, self._said.uris, int(self._said.relay))
        return (row.node, row.key, row.uris, row.relay) == ours

    def _say(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)


def _trusted(view: NetworkView) -> frozenset[bytes]:
    """The members whose logs are sound."""
    return frozenset(each.node for each in view.members if Role.MEMBER.value in each.roles and not each.frozen)
