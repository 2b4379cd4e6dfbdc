"""The firewall of one mesh in nf_tables: implements `Firewall` of `appliance.policy.enforcement`.

All that blocks runs in threads: changes one after the other in one, the endings of conversations in another, looks in a
third, so that no change waits behind what takes long. A caller that is cancelled does not cut a step in half. Here are
only the threads, the sockets that wait (notices of foreign changes, dropped packets) and their order. When the process
dies the table stays and goes on judging.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, TypeVar, TypeVarTuple

import msgspec

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.netstack.nft import droplog
from appliance.netstack.nft.access import Access, Ground
from appliance.netstack.nft.channel import Channel, LostError, RefusedError, connect, force_receive_buffer, join_group
from appliance.netstack.nft.conntrack import Conversation
from appliance.netstack.nft.endings import Endings
from appliance.netstack.nft.enforcer import Enforcer
from appliance.netstack.nft.looks import PIECES, Look, Looks
from appliance.netstack.nft.raw import GRANTS
from appliance.netstack.nft.skeleton import SNAP_BYTES, MeshTable
from appliance.netstack.nft.turns import Rank, Turns
from appliance.netstack.nft.watch import EVENT_BYTES, GROUP, UNKNOWN, Watch
from appliance.policy.enforcement import Applied, Count, Difference, Drop
from appliance.policy.filter import Filter, Key

_DATAGRAM_BYTES: Final = 1 << 16
_DROP_BYTES: Final = 1 << 20  # of receive buffer: some thousand dropped packets
_A = TypeVarTuple("_A")
_T = TypeVar("_T")


def wall_clock_ms() -> int:
    """Now, ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


class NftFirewall:
    """Give it to the policy service as its `Firewall`; `run` reads dropped packets and belongs to a supervisor.

    The sockets are made in the network namespace of the thread that calls `connect`, which tests use.
    """

    def __init__(
        self,
        table: MeshTable,
        limits: Limits = LIMITS,
        connect: Callable[[], socket.socket] = connect,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._table = table
        self._connect = connect
        self._now_ms = now_ms
        self._is_closed = False
        self._ports: set[int] = set()
        self._watch = Watch(table.name, self._ports)
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"{table.name}-{rank.name.lower()}") for rank in Rank]
        self._drops: deque[Drop] = deque(maxlen=limits.firewall_drops)
        self._notices: socket.socket | None = None  # for `disturbed`
        self._glance: _Glance | None = None  # for who writes, and must know before
        access = Access(table, limits, Ground(connect, now_ms, self._was_touched, self._ports.add))
        self._turns = Turns()
        self._endings = Endings(access.another(), self._turns, lambda: self._enforcer.standing().in_force)
        self._enforcer = Enforcer(access, self._endings.owe)
        self._looks = Looks(access.another(), self._turns, self._enforcer)

    async def prepare(self) -> None:
        """See `Firewall`. Raises `firewall.unavailable` where the kernel has no nf_tables or we have no right to it."""
        if self._notices is None:
            self._notices = await self._do(Rank.CHANGE, self._listen)
        await self._do(Rank.CHANGE, self._enforcer.prepare)

    async def apply(self, wanted: Filter) -> Applied:
        """See `Firewall`. Concurrent calls happen one after the other."""
        done = await self._do(Rank.CHANGE, self._enforcer.apply, wanted)
        if not self._endings.is_due:
            return done
        try:
            ended = await self._do(Rank.ENDING, self._endings.end)
            self._submit(Rank.ENDING, self._endings.end_late)  # nobody waits, and a failure is made up for
        except X0tError as err:  # the filter is in force all the same
            return msgspec.structs.replace(done, owed=err.message)
        return msgspec.structs.replace(done, ended=ended)

    async def verify(self) -> Sequence[Difference]:
        """See `Firewall`."""
        return [one for piece in PIECES for one in await self._look(self._looks.differences(piece))]

    async def counters(self) -> Mapping[tuple[str, Key], Count]:
        """See `Firewall`."""
        inbound, outbound = [await self._look(self._looks.counters(name)) for name in GRANTS]
        return {**inbound, **outbound}

    async def flows(self) -> Sequence[Conversation]:
        """Conversations that cross the mesh interface now; bounded."""
        return await self._look(self._looks.conversations())

    async def disturbed(self) -> str:
        """See `Firewall`. To mend the table, apply the filter again: it finds out what is needed.

        Where notices were lost the table is compared, and it counts as disturbed only if it differs.
        """
        if self._notices is None:
            raise error("firewall.closed", interface=self._table.interface)
        while True:
            try:
                datagram = await asyncio.get_running_loop().sock_recv(self._notices, _DATAGRAM_BYTES)
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                if await self.verify():
                    return UNKNOWN
            else:
                if others := [*self._watch.read(datagram)]:
                    return others[-1]

    def drops(self) -> Sequence[Drop]:
        """See `Firewall`. Empty unless `run` runs."""
        return tuple(self._drops)

    async def run(self) -> None:
        """Read dropped packets for ever. Raises `firewall.unavailable` if another process reads our log group."""
        reader = await self._do(Rank.LOOK, self._read_log)
        with reader:
            while True:
                try:
                    datagram = await asyncio.get_running_loop().sock_recv(reader, _DATAGRAM_BYTES)
                except OSError as err:
                    if err.errno != errno.ENOBUFS:  # more dropped packets than we can read: a sample is enough
                        raise
                else:
                    self._drops.extend(droplog.drops(datagram, self._now_ms()))

    async def remove(self) -> None:
        """See `Firewall`."""
        await self._do(Rank.CHANGE, self._enforcer.remove)

    async def close(self) -> None:
        """End the threads and the sockets, after what has begun; the table stays in force. Harmless when repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        for rank, part in ((Rank.LOOK, self._looks), (Rank.CHANGE, self._enforcer), (Rank.ENDING, self._endings)):
            await self._do(rank, part.close)
            self._threads[rank].shutdown(wait=False)
        for one in (self._notices, self._glance):
            if one is not None:
                one.close()
        self._notices = self._glance = None

    async def _look(self, look: Look[_T]) -> _T:
        found = await self._do(Rank.LOOK, self._looks.beside, look)
        return await self._do(Rank.CHANGE, self._looks.in_turn, look) if found is None else found

    async def _do(self, rank: Rank, work: Callable[[*_A], _T], *arguments: *_A) -> _T:
        """Do it in the thread of that rank; lower ranks make way until the caller has the result."""
        with self._turns.taken(rank):
            return await asyncio.wrap_future(self._submit(rank, work, *arguments))

    def _submit(self, rank: Rank, work: Callable[[*_A], _T], *arguments: *_A) -> Future[_T]:
        def turn() -> _T:
            with self._turns.taken(rank):  # also when the caller is gone
                return work(*arguments)

        try:
            return self._threads[rank].submit(turn)
        except RuntimeError as err:
            raise error("firewall.closed", interface=self._table.interface) from err

    # ---- in the threads

    def _listen(self) -> socket.socket:
        """Open both ends of the notices before the first look at the table, so that no change is missed."""
        self._glance = _Glance(self._subscribed(), Watch(self._table.name, self._ports))
        return self._subscribed()

    def _subscribed(self) -> socket.socket:
        def prepared(opened: socket.socket) -> None:
            force_receive_buffer(opened, EVENT_BYTES)
            join_group(opened, GROUP)

        return self._opened(prepared)

    def _was_touched(self) -> bool:
        return self._glance is None or self._glance.was_touched()

    def _read_log(self) -> socket.socket:
        def prepared(opened: socket.socket) -> None:
            channel = Channel(opened)
            force_receive_buffer(opened, _DROP_BYTES)
            for request in droplog.subscription(self._table.log_group, SNAP_BYTES):
                channel.ask(request)

        return self._opened(prepared)

    def _opened(self, prepare: Callable[[socket.socket], None]) -> socket.socket:
        """A socket that does not block, made ready."""
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(self._connect())
                prepare(opened)
            except (OSError, LostError, RefusedError) as err:
                raise error("firewall.unavailable", reason=str(err)) from err
            opened.settimeout(0)
            stack.pop_all()
        return opened


class _Glance:
    """A look at the notices that have come, without waiting."""

    def __init__(self, notices: socket.socket, watch: Watch) -> None:
        self._notices = notices
        self._watch = watch

    def was_touched(self) -> bool:
        """True if somebody else changed our table since the last look, or if notices were lost."""
        touched = False
        while True:
            try:
                touched |= any([*self._watch.read(self._notices.recv(_DATAGRAM_BYTES))])
            except BlockingIOError:
                return touched
            except (OSError, ValueError):
                touched = True

    def close(self) -> None:
        self._notices.close()
