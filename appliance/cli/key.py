"""`x0t key`: this node's identity, to be carried to whoever grants it a role."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.files import write_file
from appliance.cli.session import Session, with_session
from appliance.core.records import Key


@click.group()
def key() -> None:
    """This node's identity."""


@key.command(epilog="Example: x0t key show --export gateway-2.key")
@click.option("--export", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write the key line here.")
@with_session
def show(session: Session, target: Path | None) -> None:
    """Show the node id, or export the public key line (it holds no secret)."""
    found = session.client.get("/key", Key)
    if target is not None:
        write_file(target, found.public_key.encode() + b"\n")
        session.out.talk(f"The public key of {found.node} is in {target}.")
        if not session.out.as_json:
            return
    session.out.record(found, [("node", found.node), ("kept in", found.kept), ("public key", found.public_key)])
