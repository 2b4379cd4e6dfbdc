"""Interfaces, addresses and routes of the mesh, through rtnetlink (RFC 3549): wanted against actual, idempotent.

It touches one interface, and of the routes only those that carry our protocol number: other programs' routes are left
alone, on that interface too. Behind the routes of the interface stands a barrier: `unreachable` ones of no interface,
which answer while the others are not there, so that nothing takes the default route instead. What it wrote it reads
back. It decides nothing about who may talk to whom.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_LINK

from appliance.core.errors import error
from appliance.core.prefix import ADDRESS_BITS, Prefix, address_text, parse_address

ROUTE_PROTOCOL: Final = 120  # rtm_protocol of our routes: free in the kernel's rtnetlink.h and iproute2's rt_protos
_BARRIERS: Final = 0xFF00_0000  # metrics from here on are of barriers: nobody else's route is less preferred
_UNREACHABLE: Final = 7  # RTN_UNREACHABLE
_GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
_IFF_UP: Final = 0x1  # linux/if.h
_NO_PREFIX_ROUTE: Final = 0x200  # IFA_F_NOPREFIXROUTE
_NO_LINK_LOCAL: Final = 1  # IN6_ADDR_GEN_MODE_NONE
_GONE: Final = frozenset((errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL))
_NETNS: Final = "/run/netns"  # of iproute2
_THREAD_NETNS: Final = "/proc/thread-self/ns/net"
_CLONE_NEWNET: Final = 0x4000_0000  # linux/sched.h
_COMMAND_S: Final = 10.0


class RoutesChanged(msgspec.Struct, frozen=True):
    """How many routes a sync set and took away."""

    added: int = 0
    removed: int = 0


class Barrier(msgspec.Struct, frozen=True):
    """What may leave by one interface or not at all. The metric tells the barriers of several meshes apart."""

    metric: int
    prefixes: tuple[Prefix, ...]


class Route(NamedTuple):
    """One of ours: by an interface, or of a barrier."""

    oif: int  # number of the interface; 0: it belongs to the barrier
    prefix: Prefix


def barrier_metric(mesh: bytes) -> int:
    """The metric of a mesh's barrier. Two meshes of a node with the same one would share it: 1 in 16 million."""
    return _BARRIERS | int.from_bytes(mesh[:3], "big")


class Links:
    """The links of one network namespace; `async with` opens it. Methods raise `yggdrasil.interface` or `.routes`."""

    def __init__(self, netns: str | None = None) -> None:
        self._netns = netns
        self._route: Any = None  # pyroute2 has no types

    async def __aenter__(self) -> Links:
        self._route = _opened(self._netns)
        try:
            await self._route.setup_endpoint()  # now: it would be made twice by two that ask at once
        except BaseException:
            self._route.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._route.close()

    async def index(self, name: str) -> int | None:
        """The interface's number; None if there is none of that name."""
        found = await self._route.link_lookup(ifname=name)
        return int(found[0]) if found else None

    async def is_up(self, index: int) -> bool:
        """True if an interface is there and up, whether or not it has a carrier."""
        found = await self._link(index)
        return found is not None and bool(found["flags"] & _IFF_UP)

    async def is_open(self, name: str) -> bool:
        """True if there is an interface of that name and a program has it open: only then a TUN has a carrier."""
        index = await self.index(name)
        found = None if index is None else await self._link(index)
        return found is not None and bool(found.get("carrier"))

    async def make_tun(self, name: str, owner: int, mtu: int) -> int:
        """A TUN that lasts, for one user to open, without a link-local address, and up. Returns its number.

        It is there while no program has it open: a packet for the mesh then is lost, and never takes another way.
        """
        try:
            index = await self.index(name)
            if index is None:
                await asyncio.to_thread(self._tuntap, name, owner)
                index = await self.index(name)
            if index is None:
                raise error("yggdrasil.interface", interface=name, reason="it was made, and is gone")
            mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]}
            await self._route.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
            await self._route.link("set", index=index, mtu=mtu, state="up")
        except (NetlinkError, OSError) as err:
            raise error("yggdrasil.interface", interface=name, reason=err) from err
        return index

    async def remove(self, name: str) -> None:
        """Take an interface away, with its addresses and routes; harmless if there is none."""
        index = await self.index(name)
        if index is None:
            return
        try:
            await self._route.link("del", index=index)
        except NetlinkError as err:
            if err.code not in _GONE:
                raise error("yggdrasil.interface", interface=name, reason=err) from err

    async def addresses(self, index: int) -> tuple[tuple[bytes, int], ...]:
        """The IPv6 addresses of an interface, with their prefix lengths."""
        found = await self._dump("addr", index=index)
        return tuple((parse_address(each.get("address")), int(each["prefixlen"])) for each in found)

    async def clear_addresses(self, index: int) -> None:
        """Take all IPv6 addresses away."""
        for address, length in await self.addresses(index):
            await self._forgiving("addr", "del", index=index, address=address_text(address), prefixlen=length)

    async def hold(self, index: int, address: bytes) -> None:
        """Make sure that an interface is up and has an address, without the route that the kernel makes of one."""
        if not await self.is_up(index):
            await self._forgiving("link", "set", index=index, state="up")
        found = await self._dump("addr", index=index)
        kept = [each for each in found if parse_address(each.get("address")) == address]
        if not kept or not kept[0].get("flags") & _NO_PREFIX_ROUTE:
            length = kept[0]["prefixlen"] if kept else ADDRESS_BITS
            change = {"address": address_text(address), "prefixlen": length, "flags": _NO_PREFIX_ROUTE}
            await self._forgiving("addr", "replace", index=index, **change)

    async def routes(self, index: int, metric: int) -> frozenset[Route]:
        """Our routes on an interface, and those of the barrier of that metric: in one dump, which is what it costs."""
        found = set()
        for each in await self._dump("route", proto=ROUTE_PROTOCOL):
            prefix = Prefix(parse_address(each.get("dst") or "::"), int(each["dst_len"]))
            if each["type"] == _UNREACHABLE and each.get("priority") == metric:
                found.add(Route(0, prefix))
            elif each.get("oif") == index:
                found.add(Route(index, prefix))
        return frozenset(found)

    async def sync_routes(self, name: str, index: int, wanted: Iterable[Prefix], barrier: Barrier) -> RoutesChanged:
        """Bring our routes on an interface, and a barrier, to these. Without an interface (index 0) only the barrier.

        Raises `yggdrasil.routes` if they are not so afterwards.
        """
        whole = {Route(index, prefix) for prefix in wanted} | {Route(0, prefix) for prefix in barrier.prefixes}
        before = await self.routes(index, barrier.metric)
        for route in sorted(before - whole):
            await self._forgiving("route", "del", **_fields(route, barrier.metric))
        for route in sorted(whole - before):
            await self._forgiving("route", "replace", **_fields(route, barrier.metric))
        changed = RoutesChanged(len(whole - before), len(before - whole))
        if (changed.added or changed.removed) and (after := await self.routes(index, barrier.metric)) != whole:
            reason = f"{len(whole - after)} are missing, {len(after - whole)} too many"
            raise error("yggdrasil.routes", interface=name, reason=reason)
        return changed

    async def watch(self, name: str, metric: int) -> AsyncIterator[str]:
        """What happens to an interface, its addresses and routes, and to the barrier of that metric, by whomever.

        Yields the name of each netlink event.
        """
        async with _opened(self._netns) as route:
            await route.bind(groups=_GROUPS)
            index = await self.index(name)
            while True:
                async for message in route.get():
                    if message.get("ifname") == name:
                        index = message["index"]
                    elif message.get("priority") != metric and index not in {message.get("oif"), message.get("index")}:
                        continue
                    yield message["event"]

    async def _dump(self, what: str, **fields: object) -> list[Any]:
        """All of a kind that match; pyroute2's messages have no types."""
        try:
            dump = await getattr(self._route, what)("dump", family=socket.AF_INET6, **fields)
            return [message async for message in dump]
        except NetlinkError as err:
            raise error("yggdrasil.interface", interface=fields, reason=err) from err

    async def _link(self, index: int) -> Any:
        """The interface as the kernel tells of it; None if it is gone."""
        try:
            (found,) = await self._route.link("get", index=index)
        except NetlinkError as err:
            if err.code in _GONE:
                return None
            raise error("yggdrasil.interface", interface=index, reason=err) from err
        return found

    async def _forgiving(self, what: str, action: str, **fields: object) -> None:
        """One change; what is gone already is no error: the read-back decides."""
        try:
            await getattr(self._route, what)(action, **fields)
        except NetlinkError as err:
            if err.code not in _GONE:
                raise error("yggdrasil.interface", interface=fields, reason=err) from err

    def _tuntap(self, name: str, owner: int) -> None:
        """With vnet_hdr, because the daemon opens it so."""
        inside = ("-n", self._netns) if self._netns else ()
        command = ["ip", *inside, "tuntap", "add", "name", name, "mode", "tun", "vnet_hdr", "user", str(owner)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_S)
        if done.returncode:
            raise error("yggdrasil.interface", interface=name, reason=done.stderr.strip())


def _opened(netns: str | None) -> Any:
    """A netlink socket of that namespace. A socket stays where it was made; nothing else of ours happens inside."""
    if netns is None:
        return AsyncIPRoute()
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
    outside, inside = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (_THREAD_NETNS, f"{_NETNS}/{netns}"))
    try:
        if libc.setns(inside, _CLONE_NEWNET):
            raise error("yggdrasil.interface", interface=netns, reason=os.strerror(ctypes.get_errno()))
        try:
            route = AsyncIPRoute()
            assert route.socket is not None  # it is made when it is first looked at
            return route
        finally:
            libc.setns(outside, _CLONE_NEWNET)
    finally:
        os.close(outside)
        os.close(inside)


def _fields(route: Route, metric: int) -> dict[str, object]:
    """No source is named: an interface's own address is preferred for what leaves through it (RFC 6724, rule 5)."""
    common = {"family": socket.AF_INET6, "dst": str(route.prefix), "proto": ROUTE_PROTOCOL}
    return common | ({"oif": route.oif} if route.oif else {"type": "unreachable", "priority": metric})
