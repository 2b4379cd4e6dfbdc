"""`x0t mesh`: create, join and show the mesh of this node."""

from __future__ import annotations

import base64
from pathlib import Path

import click

from appliance.cli import join as admission
from appliance.cli.files import write_file
from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core.records import Mesh, MeshCreate, MeshJoin, Receipt


@click.group()
def mesh() -> None:
    """Create, join and show the mesh of this node."""


mesh.add_command(admission.enrol)
mesh.add_command(admission.enrolment)


@mesh.command(epilog="Example: x0t mesh create plant-7")
@click.argument("name")
@with_session
def create(session: Session, name: str) -> None:
    """Found a mesh called NAME; this node becomes its first owner."""
    made = session.client.send("POST", "/mesh", MeshCreate(name=name), Mesh)
    session.out.done(made, f"Mesh {made.name} is founded: {made.mesh}")
    if made.warning:
        session.out.talk(f"Warning: {made.warning}")


@mesh.command(epilog="Example: x0t mesh join plant-7.x0t --peer gateway-1:7330")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--peer", "peers", multiple=True, metavar="[NODEID@]HOST:PORT", help="Where to meet the mesh; repeat.")
@with_session
def join(session: Session, file: Path, peers: tuple[str, ...]) -> None:
    """Take in the mesh descriptor FILE. The node can write once somebody grants it a role."""
    ask = MeshJoin(descriptor=base64.b64encode(file.read_bytes()).decode(), peers=peers)
    joined = session.client.send("POST", "/mesh/membership", ask, Mesh)
    session.out.done(joined, f"This node follows the mesh {joined.name}: {joined.mesh}")


@mesh.command(epilog="Example: x0t mesh show --export plant-7.x0t")
@click.option("--export", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write the descriptor here.")
@with_session
def show(session: Session, target: Path | None) -> None:
    """Show the mesh, or export the descriptor that another node joins with (it holds no secret)."""
    found = session.client.get("/mesh", Mesh)
    if target is not None:
        write_file(target, base64.b64decode(found.descriptor))
        session.out.talk(f"The descriptor is in {target}.")
        if not session.out.as_json:
            return
    rows = [("mesh", found.mesh), ("name", found.name), ("created", found.created)]
    session.out.record(found, [*rows, ("authority key here", found.authority_here)])


@mesh.command("rotate-secret", epilog="Example: x0t mesh rotate-secret")
@yes_option
@with_session
def rotate_secret(session: Session, sure: bool) -> None:  # noqa: FBT001
    """Give the mesh a new secret for its Yggdrasil peers, so that who left cannot find it by discovery any more.

    Every node restarts its Yggdrasil for it: flows pause for about a second.
    """
    confirm("Flows in the whole mesh pause for about a second. Go on?", sure=sure)
    receipt = session.client.send("POST", "/mesh/secrets", {}, Receipt)
    session.out.receipt(receipt, "The mesh has a new secret")
