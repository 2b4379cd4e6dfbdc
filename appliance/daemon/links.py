"""Links: one connection to each peer, dialled or accepted, with sync running on it.

Two nodes that dial each other at once would hold two connections; both keep the one that the node with the smaller id
dialled, so they agree without a word. A peer that breaks the protocol is left alone for a while that doubles each time.
`cut` closes all and refuses new ones until `restore`: it is how a demonstration or a test takes a node off the network.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from appliance.core.errors import DeniedError, IntegrityError, X0tError
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.daemon import events
from appliance.daemon.changes import Changes
from appliance.daemon.supervisor import contain
from appliance.daemon.target import Target
from appliance.replica.sync_pacing import PeerLedger
from appliance.transport.address import Address
from appliance.transport.dialler import backoff_s
from appliance.transport.peers import PeerIdentity
from appliance.transport.stream import Stream

SETTLED_S = 10.0  # a link that held this long starts the next backoff from its minimum


Dial = Callable[[Target], Awaitable[Stream]]
Drive = Callable[[Stream, bool], Awaitable[None]]  # (stream, dialled): syncs until the peer leaves


class Up:
    """A link in use."""

    def __init__(self, stream: Stream, address: Address | None) -> None:
        self.stream = stream
        self.address = address
        self.dialled = address is not None
        self.since_ms = time.time_ns() // 1_000_000
        self.gone = asyncio.Event()
        self.replaced = False


class Dialling:
    """How dialling one target stands."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.node = target.node  # learnt from the first answer where it was not given
        self.state = "dialling"
        self.note = ""
        self.failures = 0


class Links:
    """All links of this node."""

    def __init__(self, node: NodeId, dial: Dial, drive: Drive, changes: Changes, limits: Limits) -> None:
        self.node = node
        self.changes = changes  # told when a link came up or went down
        self._dial = dial
        self._drive = drive
        self._limits = limits
        self._up: dict[NodeId, Up] = {}
        self._dialling: dict[Target, Dialling] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._cut_all = False
        self._cut: set[NodeId] = set()
        self._restored = asyncio.Event()
        self._ledger = PeerLedger(limits)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("links")

    # -- what others ask

    @property
    def is_cut(self) -> bool:
        """True while the operator has cut the node off from all peers."""
        return self._cut_all

    def up(self) -> dict[NodeId, Up]:
        """Links in use."""
        return self._up

    def dialling(self) -> list[Dialling]:
        """Targets, up or not."""
        return list(self._dialling.values())

    def nodes_of(self, targets: Iterable[Target]) -> set[NodeId]:
        """Node ids behind these targets, as far as they are known."""
        known = (self._dialling[target].node if target in self._dialling else target.node for target in targets)
        return {node for node in known if node is not None}

    def is_open_to(self, node: NodeId) -> bool:
        """True unless the operator cut this node off or it misbehaved a moment ago."""
        return not self._cut_all and node not in self._cut and self._ledger.may_connect(node.raw, _now_ms())

    async def cut(self, node: NodeId | None) -> int:
        """Close the link to a node, or all links, and keep them closed; returns how many were open."""
        if node is None:
            self._cut_all = True
        else:
            self._cut.add(node)
        closing = [up for peer, up in self._up.items() if node is None or peer == node]
        await asyncio.gather(*(up.stream.close() for up in closing))
        for up in closing:
            await up.gone.wait()
        self._log.info(events.LINKS_CUT, closed=len(closing))
        return len(closing)

    def restore(self, node: NodeId | None) -> None:
        """Allow links again; dialling starts at once."""
        if node is None:
            self._cut_all = False
            self._cut.clear()
        else:
            self._cut.discard(node)
        self._restored.set()
        self._restored = asyncio.Event()
        self._log.info(events.LINKS_RESTORED)

    # -- work

    async def run(self) -> None:
        """Dial and serve until cancelled; closes every link at the end."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for target in self._dialling:
                    self._start(target)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._tasks.clear()

    def want(self, targets: Iterable[Target]) -> None:
        """Dial exactly these from now on; links that are up to others stay."""
        wanted = dict.fromkeys(targets)
        for target in [known for known in self._dialling if known not in wanted]:
            del self._dialling[target]
            if (task := self._tasks.pop(target, None)) is not None:
                task.cancel()
        for target in wanted:
            if target not in self._dialling:
                self._dialling[target] = Dialling(target)
                if self._group is not None:
                    self._start(target)

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        """Serve a stream that a peer dialled until it ends; what it did wrong is raised, and told to it."""
        if self._group is None or not self.is_open_to(NodeId(peer.node_id)):
            self._log.info(events.LINK_REFUSED, peer=str(peer), reason="cut, or left alone for a while")
            await stream.close()
            return
        try:
            await self._serve(stream, None)
        except (OSError, TimeoutError):
            pass  # the peer is gone: the log has it, and there is nobody left to tell

    async def recheck(self, permitted: Callable[[NodeId], bool]) -> None:
        """Close links to nodes that may not talk to us any more."""
        closing = [up for node, up in self._up.items() if not permitted(node)]
        await asyncio.gather(*(up.stream.close("tls.peer_unknown") for up in closing))

    def _start(self, target: Target) -> None:
        assert self._group is not None
        self._tasks[target] = self._group.create_task(self._keep(self._dialling[target]), name=str(target))

    async def _keep(self, dialling: Dialling) -> None:
        """Keep a link to one target, whoever dialled it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_until_wanted(dialling)
            dialling.state = "dialling"
            started_s = loop.time()
            try:
                await contain(f"the link to {dialling.target}", self._reach(dialling))
            except (X0tError, OSError, TimeoutError) as err:
                dialling.note = str(err)
                self._log.debug(events.LINK_DIAL_FAILED, target=str(dialling.target), error=str(err))
            if dialling.node == self.node:
                dialling.state, dialling.note = "waiting", "this is the node itself"
                return
            dialling.failures = 0 if loop.time() - started_s > SETTLED_S else dialling.failures + 1
            dialling.state = "waiting"
            await self._pause(dialling.failures)

    async def _reach(self, dialling: Dialling) -> None:
        stream = await self._dial(dialling.target)
        dialling.node, dialling.note, dialling.state = NodeId(stream.peer.node_id), "", "up"
        if dialling.node == self.node:
            await stream.close()
        else:
            await self._serve(stream, dialling.target.address)

    async def _wait_until_wanted(self, dialling: Dialling) -> None:
        while True:
            node = dialling.node
            if self._cut_all or (node is not None and node in self._cut):
                dialling.state = "cut"
                await self._restored.wait()
                dialling.failures = 0
            elif node is not None and (up := self._up.get(node)) is not None:
                dialling.state = "up"
                await up.gone.wait()
                dialling.state = "waiting"
                await self._pause(1)  # the other side may be dialling again already
            elif node is not None and (rest_s := self._penalty_left_s(node)) > 0:
                dialling.state = "waiting"
                await self._sleep(rest_s)
            else:
                return

    async def _pause(self, failures: int) -> None:
        """Wait longer after each failure, with jitter so that peers do not knock in step."""
        jitter = random.random()  # noqa: S311 - not a secret
        await self._sleep(backoff_s(max(0, failures - 1), jitter, self._limits))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake when the operator restores links."""
        try:
            async with asyncio.timeout(seconds):
                await self._restored.wait()
        except TimeoutError:
            pass

    async def _serve(self, stream: Stream, address: Address | None) -> None:
        """Run sync on a stream unless a better one to the same peer is there. `address` if we dialled it."""
        peer = NodeId(stream.peer.node_id)
        dialled = address is not None
        preferred = self.is_open_to(peer) and await self._is_preferred(peer, dialled=dialled)
        if not preferred or not self.is_open_to(peer):  # again: a cut may have come while we waited
            await stream.close()
            return
        up = self._up[peer] = Up(stream, address)
        where = {"peer": peer, "address": str(address or ""), "direction": "out" if dialled else "in"}
        self._log.info(events.LINK_UP, **where)
        self.changes.tell()
        reason = "closed"
        try:
            await contain(f"the link to {peer}", self._drive(stream, dialled))
        except (X0tError, OSError, TimeoutError) as err:
            reason = "replaced" if up.replaced else str(err) or type(err).__name__
            self._judge(peer, err)
            raise
        finally:
            if self._up.get(peer) is up:
                del self._up[peer]
            up.gone.set()
            self._log.info(events.LINK_DOWN, **where, reason=reason)
            await stream.close()
            self.changes.tell()

    async def _is_preferred(self, peer: NodeId, *, dialled: bool) -> bool:
        """True if a new stream is to be used; the one that it replaces is closed first."""
        while (old := self._up.get(peer)) is not None:
            if old.dialled == dialled:
                wins = not dialled  # the peer dialled again, so its old stream is dead; ours still works
            else:
                wins = dialled == (self.node < peer)  # what the smaller id dialled stays
            if not wins:
                return False
            old.replaced = True
            await old.stream.close()
            await old.gone.wait()
        return True

    def _judge(self, peer: NodeId, err: BaseException) -> None:
        """Leave a peer alone that broke the protocol: who is denied, lies or stalls, not who is merely unreachable."""
        if isinstance(err, DeniedError | IntegrityError) or (isinstance(err, X0tError) and err.key.startswith("sync.")):
            self._ledger.record(peer.raw, err.key, _now_ms(), 1.0)

    def _penalty_left_s(self, peer: NodeId) -> float:
        grudge = self._ledger.grudge(peer.raw)
        return 0.0 if grudge is None else (grudge.until_ms - _now_ms()) / 1000


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)
