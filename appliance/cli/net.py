"""`x0t net`: the mesh network of this node, as it is now; and tools to find out why something does not flow."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.session import Session, with_session
from appliance.core import units
from appliance.core.errors import error
from appliance.core.network_records import (
    CaptureAsk,
    Captured,
    Check,
    Conversation,
    DropLine,
    MeshPeer,
    MeshRoute,
    NetworkState,
    ProbeAsk,
    Probed,
)


@click.group()
def net() -> None:
    """The mesh network of this node: peers, routes, flows, drops, and tools for a bad day."""


@net.command(epilog="Example: x0t net show")
@with_session
def show(session: Session) -> None:
    """Show the interface, the firewall and Yggdrasil: what is wanted, what is, and what blocks it."""
    s = session.client.get("/network", NetworkState)
    rows = (
        ("interface", s.interface),
        ("address", s.address),
        ("subnet", s.subnet),
        ("yggdrasil", f"{s.phase} since {s.since}" if s.since else s.phase),
        ("firewall", s.firewall),
        ("blocked by", s.blocked),
        ("members", s.members),
        ("rules", s.rules),
        ("kernel entries", s.entries),
        ("sampled drops", s.drops),
        ("repairs of our table", s.repairs),
        ("last changed by", s.disturbed),
    )
    session.out.record(s, rows)


@net.command(epilog="Example: x0t net peers --json")
@with_session
def peers(session: Session) -> None:
    """List the Yggdrasil peers of this node, with latency, cost and bytes."""
    found = session.client.get("/network/peers", tuple[MeshPeer, ...])
    rows = [
        (
            p.name or p.node[:17],
            p.direction,
            p.up,
            f"{p.latency_ms:.1f} ms",
            p.cost,
            p.rx_bytes,
            p.tx_bytes,
            p.uri,
            p.note,
        )
        for p in found
    ]
    columns = ("NODE", "DIRECTION", "UP", "LATENCY", "COST", "RECEIVED", "SENT", "URI", "NOTE")
    session.out.table(found, columns, rows, "There are no peers.")


@net.command(epilog="Example: x0t net routes")
@with_session
def routes(session: Session) -> None:
    """List the members with their addresses and the subnets behind them."""
    found = session.client.get("/network/routes", tuple[MeshRoute, ...])
    rows = [(r.name or r.node[:17], r.address, r.subnets, r.path, r.session) for r in found]
    session.out.table(found, ("NODE", "ADDRESS", "SUBNETS", "PATH", "SESSION"), rows, "No other member is known.")


@net.command(epilog="Example: x0t net flows --json")
@with_session
def flows(session: Session) -> None:
    """List the conversations that cross the mesh interface now."""
    found = session.client.get("/network/flows", tuple[Conversation, ...])
    rows = [(f.source, f.target, f.service, f.state, f.packets, f.bytes) for f in found]
    session.out.table(found, ("FROM", "TO", "SERVICE", "STATE", "PACKETS", "BYTES"), rows, "Nothing flows.")


@net.command(epilog="Example: x0t net drops")
@with_session
def drops(session: Session) -> None:
    """List the latest sampled packets that were dropped, and why."""
    found = session.client.get("/network/drops", tuple[DropLine, ...])
    rows = [(d.time, d.source, d.target, d.service, d.stage, d.reason) for d in found]
    session.out.table(found, ("TIME", "FROM", "TO", "SERVICE", "CHECK", "REASON"), rows, "Nothing was dropped.")


@net.command(epilog="Example: x0t net probe plc-1 tcp/502")
@click.argument("target", metavar="TO")
@click.argument("service")
@click.option(
    "--size",
    "size_bytes",
    default=56,
    type=click.IntRange(0, 65_000),
    show_default=True,
    help="Bytes of payload, for udp and icmpv6.",
)
@click.option("--timeout", default="3s", show_default=True, metavar="DURATION", help="How long to wait.")
@with_session
def probe(session: Session, target: str, service: str, size_bytes: int, timeout: str) -> None:
    """Send one SERVICE packet from this node to TO, and say where it ended. Exit code 4 if it did not arrive."""
    ask = ProbeAsk(
        target=target,
        service=service,
        size_bytes=size_bytes,
        timeout_s=max(1, units.parse_duration_ms(timeout) // 1000),
    )
    found = session.client.send("POST", "/network/probes", ask, Probed)
    if session.out.as_json:
        session.out.json(found)
    else:
        session.out.text(f"{found.sentence} {found.hint}".rstrip())
    if not found.reached:
        raise error("network.probe", target=target, service=service, died_at=found.died_at)


@net.command(epilog="Example: x0t net capture /tmp/mesh.pcapng --time 1m --size 64MiB")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--time", "time", default="30s", show_default=True, metavar="DURATION", help="Stop after this time.")
@click.option("--size", default="16MiB", show_default=True, metavar="SIZE", help="Stop at this size.")
@with_session
def capture(session: Session, file: Path, time: str, size: str) -> None:
    """Write what crosses the mesh interface to FILE (pcapng), which must not exist."""
    ask = CaptureAsk(
        path=str(file.absolute()),
        max_bytes=units.parse_bytes(size),
        max_s=max(1, units.parse_duration_ms(time) // 1000),
    )
    with session.out.progress() as show_progress:
        done = session.client.work("/network/captures", ask, Captured, show_progress)
    session.out.done(done, f"{done.packets:,} packets, {done.size_bytes:,} bytes in {done.path}; ended by {done.ended}")


@net.command(epilog="Example: x0t net doctor --json")
@with_session
def doctor(session: Session) -> None:
    """Check the network of this node: each failed check names its issue and the command that mends it."""
    found = session.client.get("/network/checks", tuple[Check, ...])
    rows = [("ok" if c.ok else c.code, c.check, c.sentence, c.evidence, "" if c.ok else c.fix) for c in found]
    session.out.table(found, ("ISSUE", "CHECK", "FINDING", "EVIDENCE", "FIX"), rows, "There is nothing to check.")
    failed = [c.code for c in found if not c.ok]
    if failed:
        raise error("network.unhealthy", count=len(failed), codes=", ".join(failed))
