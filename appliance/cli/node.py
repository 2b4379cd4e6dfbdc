"""`x0t node`: the nodes that the mesh knows; `node_admission` has what approvers decide."""

from __future__ import annotations

import click

from appliance.cli import node_admission
from appliance.cli.client import segment
from appliance.cli.session import Session, with_session
from appliance.core.network_records import SubnetsAsk
from appliance.core.records import NameAsk, Node, Receipt


@click.group()
def node() -> None:
    """The nodes that the mesh knows, and their names."""


for decision in node_admission.COMMANDS:
    node.add_command(decision)


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


@node.command("subnet", epilog="Example: x0t node subnet node1q8f2zr9w 300:2b88:b53d:affd::/64")
@click.argument("node_id", metavar="NODE")
@click.argument("prefixes", nargs=-1, metavar="PREFIX...")
@click.option("--remove", multiple=True, metavar="PREFIX", help="Take this prefix away; repeat.")
@with_session
def subnet(session: Session, node_id: str, prefixes: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Say that the hosts of each PREFIX (IPv6) are behind NODE, which is their gateway."""
    if not prefixes and not remove:
        raise click.UsageError("Name a prefix to add, or one to --remove.")
    ask = SubnetsAsk(add=prefixes, remove=remove)
    receipt = session.client.send("PATCH", f"/nodes/{segment(node_id)}/subnets", ask, Receipt)
    session.out.receipt(receipt, "The subnets are set")
