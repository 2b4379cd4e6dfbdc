"""`x0t node`: the nodes that the mesh knows."""

from __future__ import annotations

import click

from appliance.cli.client import segment
from appliance.cli.session import Session, with_session
from appliance.core.records import NameAsk, Node, Receipt


@click.group()
def node() -> None:
    """The nodes that the mesh knows, and their names."""


@node.command("list", epilog="Example: x0t node list")
@with_session
def list_(session: Session) -> None:
    """List the nodes with what they said of themselves."""
    nodes = session.client.get("/nodes", tuple[Node, ...])
    rows = [(n.node, n.name, n.endpoints, n.software, n.member) for n in nodes]
    columns = ("NODE", "NAME", "ENDPOINTS", "SOFTWARE", "MEMBER")
    session.out.table(nodes, columns, rows, "No node is known yet.")


@node.command("name", epilog="Example: x0t node name node1... 'press 3'")
@click.argument("node_id", metavar="NODE")
@click.argument("text", metavar="NAME")
@with_session
def name(session: Session, node_id: str, text: str) -> None:
    """Give NODE the NAME by which people know it; an empty one takes it away."""
    receipt = session.client.send("PUT", f"/nodes/{segment(node_id)}/name", NameAsk(name=text), Receipt)
    session.out.receipt(receipt, "The name is set")
