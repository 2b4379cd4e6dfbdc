"""`x0t join`: this node asks to be admitted with a token, and waits until the mesh has decided."""

from __future__ import annotations

import click
import msgspec

from appliance.cli.output import Cell
from appliance.cli.session import Session, with_session
from appliance.cli.token_text import read_text
from appliance.core.admission_records import EnrolAsk, Enrolment
from appliance.core.errors import ERRORS, error

HELD = "suspended"


def _command(words: str) -> click.Command:
    """The command under one of its two names."""

    @click.command(
        words.rsplit(maxsplit=1)[-1], epilog=f"Example: x0t {words} press.token, or: x0t {words} - < press.token"
    )
    @click.argument("token", metavar="TOKEN|FILE|-")
    @click.option("--name", default="", help="Name for people. Default: node.name of the settings, or the host name.")
    @click.option("--wait/--no-wait", default=True, help="Wait until the mesh has decided. It goes on without, too.")
    @with_session
    def ask(session: Session, token: str, name: str, wait: bool) -> None:  # noqa: FBT001
        """Ask the mesh of TOKEN, or of its short form, to admit this node. Asking again changes nothing.

        A token in a FILE, or on standard input, stays out of the shell's history: whoever sees it can use it.
        """
        asked = session.client.send("POST", "/enrolment", EnrolAsk(token=read_text(token), name=name), Enrolment)
        if not wait:
            session.out.done(asked, f"Asked as {asked.node}. See how it stands with: x0t mesh enrolment")
            return
        _report(session, _decided(session))

    return ask


join = _command("join")
enrol = _command("mesh enrol")


@click.command(epilog="Example: x0t mesh enrolment --give-up")
@click.option("--give-up", is_flag=True, help="Ask no more, and forget the token.")
@with_session
def enrolment(session: Session, give_up: bool) -> None:  # noqa: FBT001
    """Show how this node's own admission stands."""
    if give_up:
        ended = session.client.send("DELETE", "/enrolment", None, Enrolment)
        session.out.done(ended, f"{ended.node} asks no more; it was {ended.state}.")
        return
    found = session.client.get("/enrolment", Enrolment)
    rows: list[tuple[str, Cell]] = [
        ("node", found.node),
        ("mesh", found.mesh),
        ("name", found.name),
        ("state", found.state),
        ("since", found.since),
        ("gateway", found.gateway),
        ("why", found.explanation),
        ("note", found.note),
        ("what to do", found.hint),
        ("tries", found.tries),
    ]
    session.out.record(found, rows)


def _decided(session: Session) -> Enrolment:
    """Follow it, with a line for each step, until nothing more will come of it by itself."""
    said = ""
    for line in session.client.lines("GET", "/enrolment/watch"):
        seen = msgspec.json.decode(line, type=Enrolment)
        now = _words(seen)
        if now != said and not session.out.as_json:
            session.out.talk(now)
        said = now
        if seen.over or seen.state == HELD:
            return seen
    raise error("control.interrupted")


def _words(seen: Enrolment) -> str:
    why = f" {seen.explanation}" if seen.explanation else ""
    return f"{seen.state} ({seen.gateway}){why}" if seen.gateway else f"{seen.state}{why}"


def _report(session: Session, seen: Enrolment) -> None:
    """The outcome; one that was not wished for is an error of its own family."""
    if session.out.as_json:
        session.out.json(seen)
    if seen.state == "approved":
        if not session.out.as_json:
            session.out.talk(f"{seen.node} is a member of {seen.mesh}.")
        return
    raise error(seen.reason, **seen.detail) if seen.reason in ERRORS else error("admission.refused", reason=seen.state)
