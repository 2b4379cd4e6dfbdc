"""Links between hosts, as they are seen from outside: their ends, their shape, cutting and restoring them.

Each host's interface leads to a port of a bridge in the site's wiring, a namespace of its own: as the peer of a veth,
or as a TAP whose frames the pump carries. A port that is cut is a bridge port in the state `disabled`: frames vanish in
both directions and the carrier stays, which is what a broken path further away looks like.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

from appliance.lab.host import Host
from appliance.lab.line import Shape
from appliance.lab.namespaces import LabError, iproute
from appliance.lab.pump import Counts, Order, Pump

_RATE: Final = re.compile(r"(\d+)(|k|m|g)bit")
_FACTOR: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_BURST_S: Final = 0.004  # a tick of a kernel with 250 Hz: tc-tbf(8) wants at least that much
_BURST_BYTES: Final = 16_384
_QUEUE_MS: Final = 50  # how long a frame may wait for its turn


@dataclass(frozen=True)
class End:
    """Where a link meets a host. `port` is its counterpart in the wiring, `pipe` the number of its pipe in the pump."""

    host: Host
    interface: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    port: str = ""
    pipe: int | None = None

    @property
    def v4(self) -> str:
        """Its first IPv4 address."""
        return self._first(4)

    @property
    def v6(self) -> str:
        """Its first IPv6 address, not counting the link-local one."""
        return self._first(6)

    def _first(self, version: int) -> str:
        for address in self.addresses:
            if address.version == version:
                return str(address.ip)
        raise LabError(f"{self.interface} of {self.host.name} has no IPv{version} address")


class Cable:
    """A bare veth pair with nothing in between."""

    def __init__(self, ends: Sequence[End]) -> None:
        self.ends: Final = tuple(ends)

    def end(self, host: Host) -> End:
        """The end at this host."""
        for end in self.ends:
            if end.host is host:
                return end
        raise LabError(f"this link does not reach {host.name}")

    def _chosen(self, hosts: Sequence[Host]) -> Sequence[End]:
        return [self.end(host) for host in hosts] or self.ends


class Link(Cable):
    """Two or more ends on one segment, which can be cut and shaped while it is in use."""

    def __init__(self, ends: Sequence[End], wiring: Host, pump: Pump | None) -> None:
        super().__init__(ends)
        self._wiring: Final = wiring
        self._pump: Final = pump
        self._limited: Final[set[str]] = set()  # hosts with a rate

    def cut(self, *hosts: Host) -> None:
        """Frames vanish, at the ends of these hosts or at all; nobody is told."""
        self._set_ports("0", hosts)  # BR_STATE_DISABLED

    def restore(self, *hosts: Host) -> None:
        """Undo a cut."""
        self._set_ports("3", hosts)  # BR_STATE_FORWARDING

    def shape(self, shape: Shape, *senders: Host) -> None:
        """From now on this happens to what these hosts send, or all. Raises LabError if it lacks the pump it needs."""
        for end in self._chosen(senders):
            self._limit(end, shape.rate)
            if end.pipe is not None:
                self._order(Order(pipe=end.pipe, shape=shape))
            elif shape.needs_pump:
                raise LabError(f"{end.interface} of {end.host.name} has no pump: make it with Shape(pumped=True)")

    def counts(self, sender: Host) -> Counts:
        """What the pump did with the frames that this host sent, those of the kernel's own protocols included."""
        end = self.end(sender)
        if end.pipe is None:
            raise LabError(f"{end.interface} of {end.host.name} has no pump")
        return self._order(Order(pipe=end.pipe))

    def _order(self, order: Order) -> Counts:
        assert self._pump is not None
        return self._pump.order(order)

    def _set_ports(self, state: str, hosts: Sequence[Host]) -> None:
        lines = [f"link set dev {end.port} state {state}" for end in self._chosen(hosts)]
        iproute("bridge", lines, self._wiring.netns)

    def _limit(self, end: End, rate: str | None) -> None:
        if rate is not None:
            end.host.tc(f"qdisc replace dev {end.interface} root {token_bucket(rate)}")
            self._limited.add(end.host.name)
        elif end.host.name in self._limited:
            end.host.tc(f"qdisc del dev {end.interface} root")
            self._limited.remove(end.host.name)


def token_bucket(rate: str) -> str:
    """The words of tc-tbf(8) for a rate; its burst is the least that reaches the rate, and a few full frames."""
    found = _RATE.fullmatch(rate)
    if found is None:
        raise LabError(f"{rate!r} is no rate: write 500kbit, 10mbit or 1gbit")
    bytes_per_s = int(found[1]) * _FACTOR[found[2]] // 8
    return f"tbf rate {rate} burst {max(_BURST_BYTES, int(bytes_per_s * _BURST_S))}b latency {_QUEUE_MS}ms"
