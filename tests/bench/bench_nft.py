"""`./test bench nft`: a filter of 50,000 elements into the kernel, against `nft -f` of the same sets in the same run.

Ours writes, reads everything back and compares; `nft` parses its file and writes. Both fill a table that denies, each
in a namespace of its own, in turns. One-element changes are made in the full table, alone and while others look at all
of it without end. Needs root.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from appliance.core.limits import LIMITS
from appliance.core.prefix import address_text
from appliance.lab.host import Host
from appliance.netstack.nft.access import Access, Ground
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.endings import Endings
from appliance.netstack.nft.enforcer import Enforcer
from appliance.netstack.nft.firewall import NftFirewall, wall_clock_ms
from appliance.netstack.nft.turns import Turns
from appliance.policy.filter import Filter, Key
from tests.bench.rows import Row, bounded
from tests.firewall_rig import ANY_TIME, NODE, OWN, TABLE, Pair, large

ROUNDS = 7
CHANGES = 40
BETWEEN_S = 0.1  # two changes beside looks; one look takes as long
CONVERSATIONS = 10_000
REACH_MS = 5.0  # issue 4: a change of one element, read back


def run() -> list[Row]:
    """All rows."""
    wanted = large()
    with Pair() as pair, tempfile.TemporaryDirectory() as directory:
        rules = Path(directory) / "rules.nft"
        rules.write_text(nft_text(wanted))
        (theirs,) = pair.site.hosts("theirs")
        enforcer, endings = _parts(pair.node)
        rows = [_loading(enforcer, wanted, lambda: _nft(theirs, rules)), *_small(enforcer, endings, wanted)]
        rows += asyncio.run(_looks(pair, wanted))
        rows += _conversations(pair.far, enforcer, endings, wanted)
        enforcer.close()
        endings.close()
    return rows


def _loading(enforcer: Enforcer, wanted: Filter, nft: Callable[[], float]) -> Row:
    times, others = [], []
    enforcer.prepare()
    for _ in range(ROUNDS):
        enforcer.remove()
        enforcer.prepare()
        times.append(_seconds(lambda: enforcer.apply(wanted)))
        others.append(nft())
    value, peer = statistics.median(times) * 1e3, statistics.median(others) * 1e3
    elements = sum(len(getattr(wanted, name)) for name in wanted.__struct_fields__ if name != "own")
    return Row(
        name=f"{elements:,} elements into the kernel, read back (peer: nft -f)",
        unit="ms",
        value=value,
        peer=peer,
        ratio=value / peer,
        reach="<= 1 of peer",
        holds=value <= peer,
    )


def _small(enforcer: Enforcer, endings: Endings, wanted: Filter) -> Iterator[Row]:
    """One element more, one less, one member of another class, in the full table."""
    more = msgspec.structs.replace(wanted, inbound={**wanted.inbound, Key(1, NODE, 500_000): ANY_TIME})
    address = next(iter(wanted.peers))
    moved = msgspec.structs.replace(wanted, peers={**wanted.peers, address: 77})
    times: dict[str, list[float]] = {"added": [], "removed": [], "changed": []}
    for _ in range(CHANGES):
        times["added"].append(_processor_s(lambda: enforcer.apply(more)))
        times["removed"].append(_processor_s(lambda: enforcer.apply(wanted)))
        times["changed"].append(_processor_s(lambda: enforcer.apply(moved)))
        enforcer.apply(wanted)
        endings.end()
    for what, found in times.items():
        yield bounded(
            f"one element {what}, read back (processor time)", "ms", statistics.median(found) * 1e3, at_most=REACH_MS
        )


async def _looks(pair: Pair, wanted: Filter) -> list[Row]:
    """Looks at all, and one element more or less while they go on without end."""
    firewall = NftFirewall(TABLE, connect=pair.connect)
    await firewall.prepare()
    await firewall.apply(wanted)
    rows = [
        Row(name=name, unit="ms", value=await _took_ms(call))
        for name, call in (("all elements compared (verify)", firewall.verify), ("all counters", firewall.counters))
    ]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(Row(name="resident memory of this process, most", unit="MiB", value=memory))
    alone = await _changed(firewall, wanted)
    looks = [asyncio.ensure_future(_endlessly(call)) for call in (firewall.counters, firewall.verify, firewall.flows)]
    beside = await _changed(firewall, wanted)
    for look in looks:
        look.cancel()
        with suppress(asyncio.CancelledError):
            await look
    await firewall.apply(wanted)
    await firewall.close()
    return rows + [
        Row(
            name=f"one element changed while all is read without end, {what} (peer: alone)",
            unit="ms",
            value=value,
            peer=peer,
            ratio=value / peer,
            reach="<= 2 of peer",
            holds=value <= 2 * peer,
        )
        for what, value, peer in zip(("median", "99 of 100"), beside, alone, strict=True)
    ]


async def _changed(firewall: NftFirewall, wanted: Filter) -> tuple[float, float]:
    """How long changes take, ms: the median, and what all but one in a hundred need at most."""
    more = msgspec.structs.replace(wanted, inbound={**wanted.inbound, Key(1, NODE, 500_000): ANY_TIME})
    times = []
    for each in (wanted, more) * CHANGES:
        await asyncio.sleep(BETWEEN_S)
        began = time.perf_counter()
        await firewall.apply(each)
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times), statistics.quantiles(times, n=100)[-1]


async def _took_ms(call: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await call()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


async def _endlessly(call: Callable[[], Awaitable[object]]) -> None:
    while True:
        await call()


def _conversations(host: Host, enforcer: Enforcer, endings: Endings, wanted: Filter) -> Iterator[Row]:
    """Half of the conversations end, because the member that has them is gone."""
    stays, goes = list(wanted.peers)[:2]
    for far in (stays, goes):
        host.ip(f"addr add {address_text(far)}/7 dev far0 nodad")
        for number in range(CONVERSATIONS // 2):
            with host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
                one.bind((address_text(far), 1024 + number))
                one.sendto(b"hello", (address_text(OWN), 1500))
    without = msgspec.structs.replace(wanted, peers={key: value for key, value in wanted.peers.items() if key != goes})
    began = time.perf_counter()
    enforcer.apply(without)
    judged = (time.perf_counter() - began) * 1e3
    ended = endings.end()
    value = (time.perf_counter() - began) * 1e3
    name = f"a member leaves {CONVERSATIONS:,} conversations"
    yield bounded(f"{name}: none of its packets passes", "ms", judged, at_most=1000)
    yield bounded(f"{name}: {ended:,} conversations ended", "ms", value, at_most=1000)
    times = []
    for each in (wanted, without) * 5:
        enforcer.apply(each)
        times.append(_seconds(endings.end))
    yield Row(name=f"{name}: the rest looked through", unit="ms", value=max(times) * 1e3)


def _parts(host: Host) -> tuple[Enforcer, Endings]:
    def inside() -> socket.socket:
        with host.enter():
            return connect()

    access = Access(TABLE, LIMITS, Ground(inside, wall_clock_ms, lambda: False, lambda _: None))
    endings = Endings(access.another(), Turns(), lambda: enforcer.standing().in_force)
    enforcer = Enforcer(access, endings.owe)
    return enforcer, endings


def _nft(host: Host, rules: Path) -> float:
    host.run(["nft", "flush", "ruleset"])
    return _seconds(lambda: host.run(["nft", "-f", rules]))


def _processor_s(call: Callable[[], object]) -> float:
    """Of this thread and of the kernel for it: nothing here waits, and other work on the machine does not count."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def nft_text(wanted: Filter) -> str:
    """The same sets, maps and elements in the language of `nft`, which cannot say our rules."""
    peers = ", ".join(f"{address_text(key)} : {value}" for key, value in wanted.peers.items())
    locals_ = ", ".join(f"{address_text(first)} : {value}" for (first, _), value in wanted.locals.items())
    services = ", ".join(
        f"{found.protocol_first} . {found.port_first}-{found.port_last} : {value}"
        for found, value in wanted.services.items()
    )
    grants = {
        name: ", ".join(f"0 . {key.peer} . {key.local} . {key.service}" for key in table)
        for name, table in (("inbound", wanted.inbound), ("outbound", wanted.outbound))
    }
    sets = "\n".join(
        f"set {name} {{ type mark . mark . mark . mark; flags timeout; counter; elements = {{ {found} }} }}"
        for name, found in grants.items()
    )
    return f"""table inet t {{
        map peers {{ type ipv6_addr : mark; elements = {{ {peers} }} }}
        map locals {{ type ipv6_addr : mark; flags interval; elements = {{ {locals_} }} }}
        map services {{ type inet_proto . inet_service : mark; flags interval; elements = {{ {services} }} }}
        {sets}
        chain input {{ type filter hook input priority -10; policy accept; iifname "x0t0" drop; }}
    }}
    """
