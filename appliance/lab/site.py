"""A site: hosts as network namespaces, links between them, programs inside; gone when its block ends.

It needs root and iproute2. Nothing of it is ever in the machine's own namespace, so it cannot touch an interface or a
rule that it did not make. What a killed run could not remove, the next site does (leavings). Everything here blocks:
use it from a plain fixture or through `asyncio.to_thread`, but for `Host.enter` and `Host.socket`, which do not.

    with Site() as site:
        gateway, plc = site.hosts("gateway", "plc")
        lan = site.link(gateway, plc, prefixes=["fd07::/64"], shape=Shape(delay_ms=5))
        gateway.ping(lan.end(plc).v6)  # 10 ms and a little
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from appliance.lab import leavings, namespaces, pump
from appliance.lab.host import Host
from appliance.lab.line import Shape
from appliance.lab.link import Cable, End, Link
from appliance.lab.namespaces import LabError, Owner
from appliance.lab.pump import Counts, Order, Pump

__all__ = ["Cable", "Counts", "End", "Host", "LabError", "Link", "Shape", "Site"]

WIRING: Final = "wiring"  # the host that has the bridges and the pump
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")  # also fits the name of an interface
_BRIDGE: Final = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
_BRIDGE_FILTER: Final = Path("/proc/sys/net/bridge")  # there where br_netfilter is
_RUNNING_S: Final = 5.0
_LOOK_S: Final = 0.001
_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TAP_NO_PI: Final = 0x1002
_DIRECT: Final = Shape()
_serial: Final = itertools.count(1)
_peer_index: Final = itertools.count(100_000)


class Site:
    """A context manager; its parts are made by its methods while it is entered."""

    def __init__(self) -> None:
        self._number: Final = next(_serial)
        self._hosts: Final[dict[str, Host]] = {}
        self._made: Final[list[str]] = []  # names of namespaces, also of those that were only begun
        self._counter: Final = itertools.count(1)
        self._stack: Final = ExitStack()
        self._pump: Pump | None = None

    def __enter__(self) -> Site:
        leavings.collect()
        with ExitStack() as undone:  # so that a failure here removes what was made until then
            undone.push(self.__exit__)
            self._stack.callback(lambda: leavings.remove(self._made))
            # A program is killed when the thread that started it ends, so one thread of ours starts them all.
            self._spawner = self._stack.enter_context(ThreadPoolExecutor(1, "lab-spawner"))
            self._make([WIRING])
            self._wiring = self._hosts.pop(WIRING)
            _carry_only(self._wiring)
            undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for host in self._hosts.values():
            host.ask()
        self._stack.close()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def host(self, name: str) -> Host:
        """A new host with nothing but a loopback."""
        return self.hosts(name)[0]

    def hosts(self, *names: str) -> list[Host]:
        """New hosts, in this order. A name is 1 to 15 lower-case letters, digits and hyphens."""
        for name in names:
            if not _HOST.fullmatch(name) or name in self._hosts or name == WIRING:
                raise LabError(f"{name!r} cannot be the name of a new host")
        self._make(names)
        return [self._hosts[name] for name in names]

    def link(
        self,
        one: Host,
        other: Host,
        *,
        names: tuple[str, str] | None = None,
        prefixes: Sequence[str] = (),
        shape: Shape = _DIRECT,
    ) -> Link:
        """Two hosts on a segment of their own. Each interface has the other host's name unless `names` says else.

        `prefixes` are IPv4 and IPv6 networks of which the hosts get the first addresses, in order.
        """
        return self._segment([one, other], names or (other.name, one.name), prefixes, shape)

    def bridge(self, name: str, hosts: Sequence[Host], *, prefixes: Sequence[str] = (), shape: Shape = _DIRECT) -> Link:
        """A segment of any number of hosts, each with an interface of this name and addresses as for `link`."""
        return self._segment(hosts, [name] * len(hosts), prefixes, shape)

    def cable(self, one: Host, other: Host, *, names: tuple[str, str], prefixes: Sequence[str] = ()) -> Cable:
        """A bare veth pair, for measuring: quicker than a link, and it can be neither cut nor shaped."""
        _connect([_Near(one, names[0], names[1])], other)
        ends = [
            End(host, name, _addresses(prefixes, place))
            for place, (host, name) in enumerate(zip((one, other), names, strict=True))
        ]
        _address(ends)
        return Cable(ends)

    def _make(self, names: Sequence[str]) -> None:
        netns = {name: Owner.me().name(self._number, name) for name in names}
        self._made.extend(netns.values())
        namespaces.iproute("ip", (f"netns add {name}" for name in netns.values()))
        for name, full in netns.items():
            host = Host(name, full, self._spawner)
            self._stack.callback(host.close)
            self._hosts[name] = host
            host.ip("link set dev lo up")

    def _segment(self, hosts: Sequence[Host], names: Sequence[str], prefixes: Sequence[str], shape: Shape) -> Link:
        ends = [
            End(host, name, _addresses(prefixes, place), f"port{number}", number if shape.needs_pump else None)
            for place, (host, name) in enumerate(zip(hosts, names, strict=True))
            for number in [next(self._counter)]
        ]
        if shape.needs_pump:
            for end in ends:
                self._pipe(end)
        else:
            _connect([_Near(end.host, end.interface, end.port) for end in ends], self._wiring)
        bridge = f"bridge{next(self._counter)}"
        self._wiring.ip(
            f"link add name {bridge} up {_BRIDGE}", *(f"link set dev {end.port} master {bridge}" for end in ends)
        )
        _address(ends)
        link = Link(ends, self._wiring, self._pump)
        link.shape(shape)
        return link

    def _pipe(self, end: End) -> None:
        """Two TAP devices and the pump between them."""
        assert end.pipe is not None
        devices = _tap(end.host, end.interface), _tap(self._wiring, end.port)
        try:
            self._pumped().order(Order(pipe=end.pipe), devices)
        finally:  # the pump has its own copies
            for device in devices:
                os.close(device)

    def _pumped(self) -> Pump:
        if self._pump is None:
            self._pump = Pump(self._start_pump)
            self._stack.callback(self._pump.close)
        return self._pump

    def _start_pump(self, control: socket.socket) -> None:
        self._wiring.start(pump.ARGV, stdin=control)


def _carry_only(wiring: Host) -> None:
    """It sends nothing of its own, and its bridges look at no packet: a malformed one gets through as well."""
    wiring.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    with wiring.enter():
        filtered = _BRIDGE_FILTER.is_dir()
    for family in ("arp", "ip", "ip6") if filtered else ():
        wiring.sysctl(f"net.bridge.bridge-nf-call-{family}tables", "0")


class _Near(NamedTuple):
    host: Host
    interface: str
    peer: str  # the name of the other end


def _connect(ends: Sequence[_Near], far: Host) -> None:
    """Veth pairs from these interfaces to peers that are all in one host; up at both ends.

    Two ends with the same index, each in its namespace, would look like a device without a peer, of whose carrier the
    kernel tells only once a second (linkwatch_urgent_event): so the peers count from elsewhere.
    """
    lines = (
        f"link add name {peer} index {next(_peer_index)} up netns {far.netns} "
        f"type veth peer name {near} netns {host.netns}"
        for host, near, peer in ends
    )
    namespaces.iproute("ip", lines)
    for host, near, _ in ends:
        host.ip(f"link set dev {near} up")
    for host, near, peer in ends:
        _wait_running(host, near)
        _wait_running(far, peer)


def _wait_running(host: Host, interface: str) -> None:
    """Until the kernel has made a carrier known, a bridge forwards nothing and an IPv6 address is not used."""
    end_s = time.monotonic() + _RUNNING_S
    while not host.is_running(interface):
        if time.monotonic() > end_s:
            raise LabError(f"{interface} of {host.name} has no carrier after {_RUNNING_S:g} s")
        time.sleep(_LOOK_S)


def _tap(host: Host, name: str) -> int:
    """A new TAP device of a host; it lives as long as somebody holds the descriptor."""
    with host.enter():
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
    except OSError as err:
        os.close(device)
        raise LabError(f"no device {name} in {host.name}: {err}") from err
    host.ip(f"link set dev {name} up")
    _wait_running(host, name)
    return device


def _addresses(prefixes: Sequence[str], place: int) -> tuple[IPv4Interface | IPv6Interface, ...]:
    networks = [ip_network(prefix) for prefix in prefixes]
    return tuple(ip_interface(f"{network[place + 1]}/{network.prefixlen}") for network in networks)


def _address(ends: Sequence[End]) -> None:
    for end in ends:
        end.host.ip(
            *(
                f"address add {address} dev {end.interface} {'nodad' if address.version == 6 else 'brd +'}"
                for address in end.addresses
            )
        )
