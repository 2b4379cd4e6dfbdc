"""`x0t tag`: tags of nodes, which policy and scopes speak of."""

from __future__ import annotations

import click

from appliance.cli.client import segment
from appliance.cli.session import Session, with_session
from appliance.core.records import Node, Receipt, TagsAsk


@click.group()
def tag() -> None:
    """Tags of nodes."""


@tag.command("set", epilog="Example: x0t tag set node1q8f2zr9w camera line-1 --remove spare")
@click.argument("node")
@click.argument("tags", nargs=-1, metavar="TAG...")
@click.option("--remove", multiple=True, metavar="TAG", help="Take this tag away; repeat.")
@with_session
def set_(session: Session, node: str, tags: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Give TAGs to NODE, or take some away."""
    if not tags and not remove:
        raise click.UsageError("Name a tag to give, or one to --remove.")
    receipt = session.client.send("PATCH", f"/nodes/{segment(node)}/tags", TagsAsk(add=tags, remove=remove), Receipt)
    session.out.receipt(receipt, "The tags are set")


@tag.command("list", epilog="Example: x0t tag list --json")
@with_session
def list_(session: Session) -> None:
    """List the nodes with their tags and roles."""
    nodes = session.client.get("/nodes", tuple[Node, ...])
    rows = [(n.node, n.name, n.tags, n.roles, n.member) for n in nodes]
    session.out.table(nodes, ("NODE", "NAME", "TAGS", "ROLES", "MEMBER"), rows, "No node is known yet.")
