"""`x0t token`, what the mesh does with tokens: make, list, show and withdraw them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from appliance.cli.client import segment
from appliance.cli.files import write_file
from appliance.cli.output import Cell
from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core import units
from appliance.core.admission_records import ReasonAsk, Token, TokenAsk, TokenMade
from appliance.core.records import Receipt
from appliance.trust.keys import read_public_key
from appliance.trust.tokens import Level

_LIFETIME = "1d"


@click.command(
    epilog="Example: x0t token create --tag robot --uses 6 --expires 8h --out robots.token, "
    "or, to be typed or scanned: x0t token create --tag press --short"
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag of the nodes that it admits; repeat.")
@click.option("--uses", default=1, show_default=True, type=click.IntRange(1, 10_000), help="Nodes that it admits.")
@click.option("--expires", default=_LIFETIME, show_default=True, metavar="DURATION", help="Such as 8h or 30d.")
@click.option("--level", type=click.Choice(["none", "tpm", "sgx"]), default="none", show_default=True, help="Evidence.")
@click.option(
    "--device", default="", metavar="KEYFILE|KIND:VALUE", help="Only this one: ek:HEX, key:HEX or serial:TEXT."
)
@click.option("--gateway", "gateways", multiple=True, metavar="NODE|NODEID@HOST:PORT", help="Who takes it; repeat.")
@click.option("--redeemer", default="", metavar="NODE", help="The one gateway that may: no island takes it twice.")
@click.option("--note", default="", help="For people; everybody in the mesh can read it.")
@click.option("--short", is_flag=True, help="Print the short form instead, which this node exchanges for the token.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here, for you alone.")
@with_session
def create(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    *,
    tags: tuple[str, ...],
    uses: int,
    expires: str,
    level: Level,
    device: str,
    gateways: tuple[str, ...],
    redeemer: str,
    note: str,
    short: bool,
    out: Path | None,
) -> None:
    """Make a token and print it, this once: whoever sees it can use it."""
    ask = TokenAsk(
        uses=uses,
        lifetime_ms=units.parse_duration_ms(expires),
        tags=tags,
        level=level,
        device=_device(device),
        gateways=gateways,
        redeemer=redeemer,
        note=note,
        short=short,
    )
    made = session.client.send("POST", "/tokens", ask, TokenMade)
    text = made.short or made.text
    if out is not None:
        write_file(out, text.encode() + b"\n")
    if session.out.as_json:
        session.out.json(made)
        return
    if out is None:
        session.out.text(text)
    where = "" if out is None else f" It is in {out}."
    session.out.talk(f"{made.token} admits {uses} until {made.not_after}.{where} On the node: x0t join")


@click.command("list", epilog="Example: x0t token list --json")
@with_session
def list_(session: Session) -> None:
    """List the tokens that the mesh knows; none can be used with what is shown."""
    found = session.client.get("/tokens", tuple[Token, ...])
    rows = [(t.token, t.state, f"{t.used}/{t.uses}", t.tags, t.not_after, t.note) for t in found]
    columns = ("TOKEN", "STATE", "USED", "TAGS", "UNTIL", "NOTE")
    session.out.table(found, columns, rows, "There are no tokens.")


@click.command(epilog="Example: x0t token show token1q8f2zr9w")
@click.argument("token")
@with_session
def show(session: Session, token: str) -> None:
    """Show what the mesh knows of TOKEN, an id or its beginning."""
    found = session.client.get(f"/tokens/{segment(token)}", Token)
    rows: list[tuple[str, Cell]] = [
        ("token", found.token),
        ("state", f"{found.state}: {found.explanation}" if found.explanation else found.state),
        ("used", f"{found.used} of {found.uses}"),
        ("by", found.nodes),
        ("tags", found.tags),
        ("evidence", found.level),
        ("device", found.device or "any"),
        ("gateways", found.gateways),
        ("only by", found.redeemer or "any of them"),
        ("from", found.not_before),
        ("until", found.not_after),
        ("issuer", found.issuer),
        ("note", found.note),
    ]
    session.out.record(found, rows)


@click.command(epilog="Example: x0t token revoke token1q8f2zr9w --reason 'lost'")
@click.argument("token")
@click.option("--reason", default="", help="For people; everybody in the mesh can read it.")
@yes_option
@with_session
def revoke(session: Session, token: str, reason: str, sure: bool) -> None:  # noqa: FBT001
    """Withdraw TOKEN: nobody can be admitted with it any more. Who was admitted stays."""
    found = session.client.get(f"/tokens/{segment(token)}", Token)
    left = found.uses - found.used
    confirm(f"Withdraw {found.token}, which could admit {left} more until {found.not_after}?", sure=sure)
    receipt = session.client.send("DELETE", f"/tokens/{segment(found.token)}", ReasonAsk(reason=reason), Receipt)
    session.out.receipt(receipt, "The token is withdrawn")


COMMANDS: tuple[click.Command, ...] = (create, list_, revoke, show)


def _device(text: str) -> str:
    """The device as the daemon wants it: a kind and the SHA-256 of what the kind names."""
    kind, colon, value = text.partition(":")
    if not text or (colon and kind in {"ek", "key"}):
        return text
    if colon and kind == "serial":
        return f"serial:{hashlib.sha256(value.encode()).hexdigest()}"
    return f"key:{hashlib.sha256(read_public_key(Path(text))).hexdigest()}"
