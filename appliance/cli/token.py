"""`x0t token`: tokens, which admit nodes."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Final

import click

from appliance.cli import qr, token_make
from appliance.cli.session import Session, with_session
from appliance.cli.token_report import UNCHECKED, pointer_rows, report_pointer, report_token, token_rows
from appliance.cli.token_text import read_text
from appliance.core.errors import error
from appliance.core.ids import NodeId, TokenId
from appliance.trust import tokens
from appliance.trust.tokens import Pointer, Ticket

_PICTURES: Final[dict[str, qr.Kind]] = {".svg": "svg", ".png": "png"}


@click.group()
def token() -> None:
    """Tokens, which admit nodes."""


for made in token_make.COMMANDS:
    token.add_command(made)

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@token.command(
    epilog="Example: x0t token inspect invite.txt --issuer gateway-1.key, or: x0t token inspect - --qr invite.svg"
)
@click.argument("text", metavar="TOKEN|FILE|-")
@click.option(
    "--mesh", type=_file, metavar="DESCRIPTOR", help="Check that it is of the mesh of `x0t mesh show --export`."
)
@click.option("--issuer", type=_file, metavar="KEYFILE", help="Check its signature by that of `x0t key show --export`.")
@click.option("--qr", "picture", metavar="FILE.svg|FILE.png|-", help="Draw its QR codes into files, or here with -.")
@with_session
def inspect(session: Session, *, text: str, mesh: Path | None, issuer: Path | None, picture: str | None) -> None:
    """Say what a token or its short form holds, without a daemon or a network.

    A token in FILE, or on standard input, stays out of the shell's history: whoever sees it can use it. It takes two QR
    codes or more, which belong together; its short form takes one. Whether it was used or withdrawn, the mesh knows.
    """
    if picture == "-" and session.out.as_json:
        raise click.UsageError("--qr - draws where --json writes: name a file.")
    credential = tokens.parse_credential(read_text(text))
    mesh_name = _mesh_name(credential, mesh) if mesh else ""
    signature = _signature(credential, issuer)
    if picture:
        _draw(session, credential, picture)
    if picture == "-":
        return
    if isinstance(credential, Pointer):
        short = report_pointer(credential)
        session.out.record(short, pointer_rows(short, mesh_name))
    else:
        whole = report_token(credential, time.time_ns() // 1_000_000, signature)
        session.out.record(whole, token_rows(whole, mesh_name))


def _mesh_name(credential: Ticket | Pointer, file: Path) -> str:
    """The name of the mesh in a descriptor, if the token is of that mesh. Raises `mesh.*` or `token.mesh`."""
    from appliance.trust.descriptor import open_descriptor
    from appliance.trust.pqc import provider

    descriptor = open_descriptor(file.read_bytes(), provider().mldsa_verify)
    if isinstance(credential, Pointer):
        wanted, what = credential.mesh, "that it stands for"
    else:
        wanted, what = credential.token.mesh, str(TokenId(tokens.token_id(credential.blob)))
    if descriptor.mesh != wanted:
        raise error("token.mesh", token=what)
    return descriptor.name


def _signature(credential: Ticket | Pointer, file: Path | None) -> str:
    """What is known of the signature. Raises `key.*`, `token.issuer` or `token.signature`."""
    from appliance.trust.keys import read_public_key
    from appliance.trust.pqc import provider

    if file is None:
        return UNCHECKED
    if isinstance(credential, Pointer):
        raise click.UsageError("A short form has no issuer and no signature: the token has.")
    said = tokens.open_token(credential.blob, provider().mldsa_verify, read_public_key(file))
    return f"good, by {NodeId(said.issuer)}; whether it may invite, the mesh decides"


def _draw(session: Session, credential: Ticket | Pointer, picture: str) -> None:
    if isinstance(credential, Pointer):
        text = tokens.format_pointer(credential)
    else:
        text = tokens.format_token(credential.blob, credential.secret)
    if picture == "-":
        _show(text)
        return
    kind = _PICTURES.get(Path(picture).suffix.lower())
    if kind is None:
        raise click.UsageError("--qr draws into a file that ends with .svg or .png, or here with -.")
    names = [str(name) for name in qr.write_symbols(text, Path(picture), kind)]
    session.out.talk(f"Drawn in {' and '.join(names)}, readable by you alone: whoever sees it can use the token.")


def _show(text: str) -> None:
    lines = qr.terminal_lines(text)
    if sys.stdout.isatty():
        columns, needed = shutil.get_terminal_size().columns, len(lines[0])
        if columns < needed:
            raise click.UsageError(f"The QR codes need {needed} columns, and the terminal has {columns}: name a file.")
        lines = qr.black_on_white(lines)
    sys.stdout.writelines(f"{line}\n" for line in lines)
