"""Pairs of hosts that differ in their firewall alone, to measure what it costs.

Traffic goes now over one pair and now over another, so that nothing has to be loaded between two measurements that are
compared. What is counted is processor time, that of the kernel included: other programs on the machine then do not
show. A packet over a veth is taken through both firewalls by the thread that sends it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Final

from appliance.core.prefix import address_text
from appliance.lab.site import Host, Site
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.firewall import NftFirewall
from appliance.netstack.nft.skeleton import MeshTable
from appliance.policy.compile import Compiler
from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, evaluate
from appliance.policy.filter import Filter
from appliance.policy.model import NUMBERS, Action, NodeSelector, Policy, Protocol, Rule, Service
from tests.bench.policy_corpus import NOW_MS, book, factory, node
from tests.probes.flight import one_processor

OURS, EMPTY, AGAIN, TRACKED = "ours", "empty", "again", "tracked"  # AGAIN is a second EMPTY, which shows the noise
KINDS: Final = (OURS, EMPTY, AGAIN, TRACKED)
_CHAIN: Final = "chain {0} {{ type filter hook {0} priority -10; policy accept; {1} }}"
_RULES: Final = {EMPTY: "", AGAIN: "", TRACKED: "ct state invalid drop;"}
_PORT: Final = 5_201
_ENDS: Final = (node(0), node(1))
_DATAGRAM: Final = bytes(64)
_TCP_BYTES: Final = "256M"


class Wire:
    """A bare veth between two hosts, and sockets at both ends."""

    def __init__(self, stack: ExitStack, hosts: tuple[Host, Host], to: str) -> None:
        self.sender, self.receiver = hosts
        self._to: Final = to
        self._out, self._back = (self._socket(stack, host) for host in hosts)
        self._back.bind((to, _PORT))
        self._out.connect((to, _PORT))
        self._out.send(_DATAGRAM)
        self._back.connect(self._back.recvfrom(64)[1][:2])
        self._flood = self._socket(stack, self.sender)
        sink = self._socket(stack, self.receiver)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # full at once: a packet ends behind the firewall
        sink.bind((to, 0))
        self._flood.connect(sink.getsockname()[:2])

    def datagrams(self, count: int) -> float:
        """Datagrams of 64 bytes a second of processor time, one way."""
        send = self._flood.send
        begun = time.thread_time()
        for _ in range(count):
            send(_DATAGRAM)
        return count / (time.thread_time() - begun)

    def round_trips(self, count: int) -> float:
        """Microseconds of processor time for a datagram of 64 bytes, there and back."""
        out, back = self._out, self._back
        begun = time.thread_time()
        for _ in range(count):
            out.send(_DATAGRAM)
            back.send(back.recv(64))
            out.recv(64)
        return (time.thread_time() - begun) / count * 1e6

    def tcp(self) -> float:
        """Gigabits a second of processor time of both ends, by iperf3."""
        words = ["iperf3", "-c", self._to, "-n", _TCP_BYTES, "-J", "-A", "0"]
        end = json.loads(self.sender.run(words).stdout)["end"]
        used = end["cpu_utilization_percent"]
        busy_s = end["sum_sent"]["seconds"] * (used["host_total"] + used["remote_total"]) / 100
        return float(end["sum_received"]["bytes"] * 8 / 1e9 / busy_s)

    def _socket(self, stack: ExitStack, host: Host) -> socket.socket:
        return stack.enter_context(host.socket(socket.AF_INET6, socket.SOCK_DGRAM))


class Wires:
    """A context manager with a wire of each kind; ours enforces a policy of so many rules for so many nodes."""

    def __init__(self, rules: int, nodes: int) -> None:
        self._rules, self._nodes = rules, nodes
        self._stack: Final = ExitStack()
        self.wires: Final[dict[str, Wire]] = {}
        self.entries = 0  # elements in the kernel of one node

    def __enter__(self) -> Wires:
        with ExitStack() as undone:
            undone.push(self.__exit__)
            site = self._stack.enter_context(Site())
            self._runner = self._stack.enter_context(asyncio.Runner())
            directory, policy = _world(self._rules, self._nodes)
            for kind in KINDS:
                hosts = site.host(f"{kind}-a"), site.host(f"{kind}-b")
                self._cable(site, hosts, directory)
                if kind == OURS:
                    self._enforce(hosts, directory, policy)
                else:
                    chains = "\n".join(_CHAIN.format(hook, _RULES[kind]) for hook in ("input", "output"))
                    for host in hosts:
                        host.run(["nft", "-f", "-"], stdin=f"table inet peer {{\n{chains}\n}}\n")
                server = hosts[1].start(["iperf3", "-s", "--forceflush", "-A", "1"])
                server.wait_for("listening")
                self.wires[kind] = Wire(self._stack, hosts, address_text(directory.members[_ENDS[1]].address))
            undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def in_turns(self, measure: Callable[[Wire], float], rounds: int) -> Iterator[dict[str, float]]:
        """One measurement of each kind a round, each time in another order."""
        with one_processor():
            for number in range(rounds):
                turn = number % len(KINDS)
                yield {kind: measure(self.wires[kind]) for kind in KINDS[turn:] + KINDS[:turn]}

    def _cable(self, site: Site, hosts: tuple[Host, Host], directory: Directory) -> None:
        site.cable(*hosts, names=("mesh0", "mesh0"))
        ends = [address_text(directory.members[end].address) for end in _ENDS]
        for number, (host, own, other) in enumerate(zip(hosts, ends, reversed(ends), strict=True)):
            macs = [f"02:00:00:00:00:0{at}" for at in (number, 1 - number)]
            host.ip(
                f"link set dev mesh0 address {macs[0]}",
                f"address add {own}/7 dev mesh0 nodad",
                f"neigh replace {other} lladdr {macs[1]} dev mesh0 nud permanent",
            )

    def _enforce(self, hosts: tuple[Host, Host], directory: Directory, policy: Policy) -> None:
        compiler = Compiler()
        compiler.set_directory(directory)
        compiler.set_policy(policy, NOW_MS)
        for host, end in zip(hosts, _ENDS, strict=True):
            wanted = compiler.filter(end)
            self.entries = _entries(wanted)
            table = MeshTable(name="x0t-measure", interface="mesh0", own=wanted.own, log_group=3)
            self._runner.run(self._apply(NftFirewall(table, connect=_inside(host), now_ms=lambda: NOW_MS), wanted))

    async def _apply(self, firewall: NftFirewall, wanted: Filter) -> None:
        await firewall.prepare()
        await firewall.apply(wanted)
        await firewall.close()


def _world(rules: int, nodes: int) -> tuple[Directory, Policy]:
    """A factory in which the one end may talk to the other."""
    directory, policy = factory(nodes), book(rules - 1, nodes)
    ends = [(NodeSelector(end),) for end in _ENDS]
    services = Service(Protocol.TCP), Service(Protocol.UDP)
    talk = Rule(action=Action.ALLOW, sources=ends[0], targets=ends[1], services=services)
    policy = Policy(rules={**policy.rules, talk.id: talk})
    one, other = (directory.members[end].address for end in _ENDS)
    for protocol in (Protocol.TCP, Protocol.UDP):
        flow = Flow(source=one, target=other, protocol=NUMBERS[protocol], port=_PORT)
        assert evaluate(policy, directory, flow, NOW_MS).allowed, "the corpus denies it: choose other ends"
    return directory, policy


def _entries(wanted: Filter) -> int:
    rights = len(wanted.services) + len(wanted.inbound) + len(wanted.outbound)
    return len(wanted.peers) + len(wanted.peer_nets) + len(wanted.locals) + rights


def _inside(host: Host) -> Callable[[], socket.socket]:
    def opened() -> socket.socket:
        with host.enter():
            return connect()

    return opened
