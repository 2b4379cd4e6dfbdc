"""A firewall in force whose sockets fail as planned, and somebody who knocks meanwhile."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from appliance.core.limits import LIMITS, Limits
from appliance.core.prefix import address_text
from appliance.lab.host import Host
from appliance.netstack.nft.firewall import NftFirewall
from appliance.netstack.nft.turns import Rank
from appliance.policy.filter import Filter
from tests.faults.firewall_child import OLD
from tests.faults.firewall_faults import (
    Fault,
    FaultySocket,
    Plan,
    answers,
    cuts_the_answer,
    holds,
    interrupts_the_dump,
    loses_the_answer,
    refuses,
)
from tests.firewall_rig import FAR, OTHER, OWN, TABLE, KernelTalk, Pair

DENIED_PORT, GRANTED_PORT = 2500, 1500

FAULTS: dict[str, Fault] = {
    "no buffer": refuses(errno.ENOBUFS),
    "no memory": refuses(errno.ENOMEM),
    "interrupted": refuses(errno.EINTR),
    "answer lost": loses_the_answer(errno.ENOBUFS),
    "answer interrupted": loses_the_answer(errno.EINTR),
    "no answer": loses_the_answer(errno.EAGAIN),
    "half an answer": cuts_the_answer,
    "kernel has no memory": answers(errno.ENOMEM),
    "dump interrupted or overtaken": interrupts_the_dump,
}
STEPS = 8  # at least so many requests are in a change


class Bench:
    """A firewall whose sockets follow a plan."""

    def __init__(self, pair: Pair, limits: Limits = LIMITS) -> None:
        self.pair = pair
        self.node: Host = pair.node
        self.plan = Plan()
        self.firewall = NftFirewall(TABLE, limits, self._socket)

    def _socket(self) -> FaultySocket:
        with self.node.enter():
            return FaultySocket.made(self.plan)

    async def to_old(self) -> None:
        """Bring it to the old filter, without faults."""
        self.plan.arm(None)
        await self.firewall.apply(OLD)
        await self.calm()

    async def calm(self) -> None:
        """Wait for the late look at conversations, for which no caller waits."""
        await asyncio.wrap_future(self.firewall._submit(Rank.ENDING, int))

    async def holds(self, wanted: Filter) -> bool:
        """True if `nft` sees this filter."""
        return await asyncio.to_thread(holds, self.node, wanted)

    async def nft(self, words: str) -> None:
        """Somebody else changes the ruleset."""
        await asyncio.to_thread(self.node.run, ["nft", words])


@asynccontextmanager
async def standing(limits: Limits = LIMITS) -> AsyncIterator[Bench]:
    """A prepared firewall on a node with a far end."""
    pair = Pair()
    await asyncio.to_thread(pair.__enter__)
    try:
        made = Bench(pair, limits)
        await made.firewall.prepare()
        try:
            yield made
        finally:
            made.plan.arm(None)
            await made.firewall.close()
    finally:
        await asyncio.to_thread(pair.__exit__, None, None, None)


def at_once(step: int) -> Callable[[int], bool]:
    """At this request alone."""
    return lambda at: at == step


def from_then(step: int) -> Callable[[int], bool]:
    """At this request and all later ones."""
    return lambda at: at >= step


@contextmanager
def knocking(pair: Pair) -> Iterator[dict[int, int]]:
    """The far end sends to both ports as fast as it can; what arrived at each so far.

    Where there is no interface it tries again.
    """
    arrived = {DENIED_PORT: 0, GRANTED_PORT: 0}
    over = threading.Event()
    ears = {port: pair.node.socket(socket.AF_INET6, socket.SOCK_DGRAM) for port in arrived}
    with pair.far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mouth:
        mouth.bind((address_text(FAR), 0))
        for port, ear in ears.items():
            ear.bind((address_text(OWN), port))
            ear.setblocking(False)

        def knock() -> None:
            while not over.is_set():
                for port in ears:
                    with suppress(OSError):
                        mouth.sendto(b"let me in", (address_text(OWN), port))
                for port, ear in ears.items():
                    arrived[port] += _heard(ear)

        thread = threading.Thread(target=knock)
        thread.start()
        try:
            yield arrived
        finally:
            over.set()
            thread.join()
            for port, ear in ears.items():
                arrived[port] += _heard(ear)
                ear.close()


async def who_gets_through(pair: Pair) -> set[tuple[bytes, int]]:
    """Which of two members opens what at the node, by packets."""
    talks = {
        (opener, port): KernelTalk(pair, (opener, OWN), port)
        for opener in (FAR, OTHER)
        for port in (GRANTED_PORT, DENIED_PORT)
    }
    asked = await asyncio.gather(*(each.ask() for each in talks.values()))
    for each in talks.values():
        each.close()
    return {who for who, has_arrived in zip(talks, asked, strict=True) if has_arrived}


def _heard(ear: socket.socket) -> int:
    heard = 0
    try:
        while ear.recv(64):
            heard += 1
    except BlockingIOError:
        pass
    return heard
