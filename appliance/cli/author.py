"""`x0t author`: what an owner decides on an author whose log forked."""

from __future__ import annotations

import click

from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core.records import Receipt, ThawAsk


@click.group()
def author() -> None:
    """Decide on authors whose log forked."""


@author.command(epilog="Example: x0t author thaw node1... --keep batch1... --reason 'restored a backup'")
@click.argument("node")
@click.option("--keep", required=True, metavar="HASH", help="A batch of the branch that counts from now on.")
@click.option("--reason", default="", help="A note for people.")
@yes_option
@with_session
def thaw(session: Session, node: str, keep: str, reason: str, sure: bool) -> None:  # noqa: FBT001
    """Let NODE write again after a fork; the other branches lose their effect for good."""
    confirm(f"Keep {keep} of {node} and give up its other branches?", sure=sure)
    receipt = session.client.send("POST", "/thaws", ThawAsk(node=node, keep=keep, reason=reason), Receipt)
    session.out.receipt(receipt, "Decided")
