"""`x0t link`: links to peers."""

from __future__ import annotations

import click

from appliance.cli.session import Session, with_session
from appliance.core.records import LinkAsk, Links


@click.group()
def link() -> None:
    """Links to peers; cut the node off and join it again."""


@link.command("list", epilog="Example: x0t link list")
@with_session
def list_(session: Session) -> None:
    """List the peers and how the link to each stands."""
    links = session.client.get("/links", Links)
    rows = [(li.node or "?", li.address, li.direction, li.state, li.since, li.note) for li in links.links]
    columns = ("NODE", "ADDRESS", "DIRECTION", "STATE", "SINCE", "NOTE")
    session.out.table(links, columns, rows, "No peer is configured, and none has called.")


@link.command(epilog="Example: x0t link cut")
@click.argument("node", default="")
@with_session
def cut(session: Session, node: str) -> None:
    """Cut this node off from NODE, or from all peers, until `x0t link restore`."""
    links = session.client.send("POST", "/links/cut", LinkAsk(node=node), Links)
    session.out.done(links, f"Cut off from {node or 'all peers'}. Join again with: x0t link restore")


@link.command(epilog="Example: x0t link restore")
@click.argument("node", default="")
@with_session
def restore(session: Session, node: str) -> None:
    """Let links to NODE, or to all peers, come up again."""
    links = session.client.send("POST", "/links/restore", LinkAsk(node=node), Links)
    session.out.done(links, f"Links to {node or 'all peers'} may come up again.")
