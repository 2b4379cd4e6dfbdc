"""`x0t role`: who may do what."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core import units
from appliance.core.errors import X0tError, error
from appliance.core.records import Grant, GrantAsk, Receipt, RevokeAsk
from appliance.trust.keys import format_public_key, read_public_key


@click.group()
def role() -> None:
    """Who may do what: grants and revocations."""


@role.command(epilog="Example: x0t role grant --key gateway-2.key operator --scope line-1 --expires 90d")
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@click.option("--key", "key", required=True, metavar="FILE|NODE", help="Public key file, or the id of a known node.")
@click.option("--scope", multiple=True, metavar="TAG", help="Only over nodes with this tag; repeat. None: all.")
@click.option("--delegate", default=0, show_default=True, help="Levels that it may grant further.")
@click.option("--expires", metavar="DURATION", help="Such as 90d. Default: with the issuer's own grant.")
@with_session
def grant(  # noqa: PLR0913 - one parameter for each option
    session: Session, *, roles: tuple[str, ...], key: str, scope: tuple[str, ...], delegate: int, expires: str | None
) -> None:
    """Grant ROLEs to a key. Roles: owner, admin, approver, operator, billing, auditor, member."""
    is_file = Path(key).is_file()
    ask = GrantAsk(
        public_key=format_public_key(read_public_key(Path(key))) if is_file else "",
        node="" if is_file else key,
        roles=roles,
        scope=scope,
        delegate=delegate,
        lifetime_ms=units.parse_duration_ms(expires) if expires else None,
    )
    try:
        receipt = session.client.send("POST", "/grants", ask, Receipt)
    except X0tError as err:
        if err.key != "id.text" or is_file:
            raise
        raise error("key.unknown", text=key) from err
    session.out.receipt(receipt, f"Granted {', '.join(roles)}")


@role.command(epilog="Example: x0t role revoke node1q8f2zr9w operator --reason 'stolen'")
@click.argument("node")
@click.argument("roles", nargs=-1, metavar="[ROLE...]")
@click.option("--reason", default="", help="A note for people; everybody in the mesh can read it.")
@yes_option
@with_session
def revoke(session: Session, node: str, roles: tuple[str, ...], reason: str, sure: bool) -> None:  # noqa: FBT001
    """Take ROLEs from NODE; without ROLE, all of them. What it wrote unseen by us loses its effect."""
    confirm(f"Revoke {', '.join(roles) or 'every role'} of {node}?", sure=sure)
    receipt = session.client.send("POST", "/revocations", RevokeAsk(node=node, roles=roles, reason=reason), Receipt)
    session.out.receipt(receipt, f"Revoked {', '.join(roles) or 'every role'}")


@role.command("list", epilog="Example: x0t role list --json")
@with_session
def list_(session: Session) -> None:
    """List all grants and whether they are in force."""
    grants = session.client.get("/grants", tuple[Grant, ...])
    rows = [(g.node, g.roles, g.scope, g.delegate, g.not_after, g.effect or "in force") for g in grants]
    session.out.table(grants, ("NODE", "ROLES", "SCOPE", "DELEGATE", "UNTIL", "STATE"), rows, "There are no grants.")
