"""A netlink socket that fails as it is told, and what `nft` sees in the table meanwhile."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from appliance.core.prefix import address_text
from appliance.lab.host import Host
from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import SUBSYSTEM_CONNTRACK, SUBSYSTEM_TABLES, Request, connect
from appliance.netstack.nft.turns import Rank
from appliance.policy.filter import Filter
from tests.firewall_rig import TABLE

SENT_NOTHING = "sent nothing"


class Plan:
    """What happens at which request of any thread. Requests are counted from `arm` on; the first is 0."""

    def __init__(self) -> None:
        self.count = 0
        self.fault: Fault | None = None
        self._steps: Callable[[int], bool] = lambda _: False
        self._reply: defaultdict[int, list[bytes | OSError]] = defaultdict(list)  # by thread

    def arm(self, fault: Fault | None, steps: Callable[[int], bool] = lambda _: True) -> None:
        """From now on do this at the steps that are meant."""
        self.count, self.fault, self._steps = 0, fault, steps
        self._reply.clear()

    def send(self, data: bytes, real: Callable[[bytes], int]) -> int:
        step, self.count = self.count, self.count + 1
        if self.fault is None or not self._steps(step):
            return real(data)
        return self.fault(self, data, real)

    def answer_next(self, reply: bytes | OSError) -> None:
        """What the next `recv` of this thread brings, in place of what it would have brought."""
        self._reply[threading.get_ident()].append(reply)

    def recv(self, real: Callable[[], bytes]) -> bytes:
        waiting = self._reply[threading.get_ident()]
        if not waiting:
            return real()
        reply = waiting.pop(0)
        if isinstance(reply, bytes):
            return reply
        raise reply


Fault = Callable[[Plan, bytes, Callable[[bytes], int]], int]


class FaultySocket(socket.socket):
    """A real netfilter socket that asks its plan first."""

    plan: Plan

    @classmethod
    def made(cls, plan: Plan) -> FaultySocket:
        real = connect()
        made = cls(fileno=real.detach())
        made.plan = plan
        return made

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        return self.plan.send(data, super().send)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return self.plan.recv(lambda: super(FaultySocket, self).recv(size, flags))


# ---- faults


def refuses(code: int) -> Fault:
    """The system takes no datagram."""

    def fault(_: Plan, __: bytes, ___: Callable[[bytes], int]) -> int:
        raise OSError(code, os.strerror(code))

    return fault


def loses_the_answer(code: int) -> Fault:
    """The kernel does it, and its answer does not arrive."""

    def fault(plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        plan.answer_next(OSError(code, os.strerror(code)))
        return real(data)

    return fault


def answers(code: int) -> Fault:
    """The kernel does nothing and says why."""

    def fault(plan: Plan, data: bytes, _: Callable[[bytes], int]) -> int:
        (first, *_rest) = wire.messages(data)
        head = struct.pack("=IHHII", 16, first.kind, 0, first.sequence, 0)
        plan.answer_next(_message(wire.NLMSG_ERROR, first.sequence, struct.pack("=i", -code) + head))
        plan.answer_next(BlockingIOError())  # and then nothing
        return len(data)

    return fault


def cuts_the_answer(plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
    """What arrives is no whole message."""
    plan.answer_next(b"\x40\x00\x00\x00half")
    return real(data)


def interrupts_the_dump(plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
    """The listing is of two generations, as the kernel says by a flag; a change is overtaken."""
    (first, *_rest) = wire.messages(data)
    if first.flags & wire.NLM_F_DUMP == wire.NLM_F_DUMP:
        plan.answer_next(_message(wire.NLMSG_DONE, first.sequence, bytes(4), wire.NLM_F_DUMP_INTR))
        return len(data)
    return answers(errno.ERESTART)(plan, data, real)


def after(act: Callable[[], object]) -> Fault:
    """Somebody else does something just before the request."""

    def fault(_: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        act()
        return real(data)

    return fault


def where(meant: Callable[[list[wire.Message]], bool], fault: Fault) -> Fault:
    """A fault of those requests alone."""

    def chosen(plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        return fault(plan, data, real) if meant([*wire.messages(data)]) else real(data)

    return chosen


def of(rank: Rank, step: int, fault: Fault) -> Fault:
    """A fault of one request of that thread of a firewall; its first since this was made is 0."""
    steps = count()

    def chosen(plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        is_meant = threading.current_thread().name.endswith(f"-{rank.name.lower()}_0") and next(steps) == step
        return fault(plan, data, real) if is_meant else real(data)

    return chosen


def about_conversations(messages: list[wire.Message]) -> bool:
    """Requests to the connection tracking."""
    return any(one.kind >> 8 == SUBSYSTEM_CONNTRACK for one in messages)


def smuggles(*requests: Request) -> Fault:
    """The same socket changes something else as well, so that nobody takes the notice for a foreign one."""
    batch = [Request(number, b"", family=wire.FAMILY_UNSPEC, resource=SUBSYSTEM_TABLES) for number in (0x10, 0x11)]

    def fault(_: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        sent = real(data)
        real(b"".join(one.message(0) for one in (batch[0], *requests, batch[1])))
        return sent

    return fault


def dies(*, before: bool) -> Fault:
    """The process is killed, before or after the kernel does it."""

    def fault(_: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        if not before:
            real(data)
        os.kill(os.getpid(), signal.SIGKILL)
        return len(data)

    return fault


def changes_on_the_way(old: bytes, new: bytes) -> Fault:
    """Other bytes reach the kernel than were sent."""

    def fault(_: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        real(data.replace(old, new))
        return len(data)

    return fault


def _message(kind: int, sequence: int, payload: bytes, flags: int = 0) -> bytes:
    return wire.message(kind, flags, sequence, payload)


# ---- nft


def holds(node: Host, wanted: Filter) -> bool:
    """True if `nft` reads in the table exactly the grants and members of a filter, and all three hooks."""
    sets: dict[str, set[object]] = {}
    hooks: set[str] = set()
    listed = node.run(["nft", "-j", "list", "table", "inet", TABLE.name], check=False)
    if listed.returncode != 0:
        return False
    for one in json.loads(listed.stdout)["nftables"]:
        ((kind, content),) = one.items()
        if kind in {"set", "map"}:
            sets[content["name"]] = {_key(entry) for entry in content.get("elem", [])}
        elif kind == "chain":
            hooks.add(content.get("hook", ""))
    return hooks == {"", "input", "forward", "output"} and {
        "peers": {(address_text(key), value) for key, value in wanted.peers.items()},
        "inbound": {(0, *key) for key in wanted.inbound},
        "outbound": {(0, *key) for key in wanted.outbound},
    } == {name: sets[name] for name in ("peers", "inbound", "outbound")}


def _key(entry: object) -> object:
    match entry:
        case [str(key), int(value)]:
            return key, value
        case {"elem": {"val": {"concat": parts}}}:
            return tuple(parts)
        case _:
            return str(entry)


@contextmanager
def inside(node: Host, plan: Plan) -> Iterator[Callable[[], FaultySocket]]:
    """What makes sockets of the node that follow the plan."""

    def made() -> FaultySocket:
        with node.enter():
            return FaultySocket.made(plan)

    yield made
