"""`x0t node`, what approvers decide: who becomes a member, who waits, and who is one no longer."""

from __future__ import annotations

import click

from appliance.cli.client import segment
from appliance.cli.output import Cell
from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core import units
from appliance.core.admission_records import Admission, AdmissionEvent, ApproveAsk, DecideAsk
from appliance.core.records import Receipt

_reason = click.option("--reason", default="", help="A note for people; everybody in the mesh can read it.")
WAITING = ("requested", "wanted", "pending")


@click.command(epilog="Example: x0t node pending")
@with_session
def pending(session: Session) -> None:
    """List the nodes that wait for an approver."""
    found = session.client.get("/admissions", tuple[Admission, ...])
    waiting = [a for a in found if a.state in WAITING]
    rows = [(a.node, a.name, a.state, a.tags, a.level, a.since) for a in waiting]
    session.out.table(waiting, ("NODE", "NAME", "STATE", "TAGS", "LEVEL", "SINCE"), rows, "Nobody waits.")


@click.command("admissions", epilog="Example: x0t node admissions --json")
@with_session
def admissions(session: Session) -> None:
    """List how every node stands that asked to be admitted."""
    found = session.client.get("/admissions", tuple[Admission, ...])
    rows = [(a.node, a.name, a.state, a.tags, a.until, a.reason or a.note) for a in found]
    columns = ("NODE", "NAME", "STATE", "TAGS", "UNTIL", "WHY")
    session.out.table(found, columns, rows, "Nobody has asked with a token.")


@click.command(epilog="Example: x0t node show node1q8f2zr9w")
@click.argument("node_id", metavar="NODE")
@with_session
def show(session: Session, node_id: str) -> None:
    """Show how NODE stands with the mesh."""
    found = _admission(session, node_id)
    rows: list[tuple[str, Cell]] = [
        ("node", found.node),
        ("name", found.name),
        ("state", found.state),
        ("since", found.since),
        ("why", found.explanation or found.note),
        ("by", found.actor),
        ("tags", found.tags),
        ("evidence", found.level),
        ("token", found.token),
        ("certificate", found.certificate),
        ("until", found.until),
    ]
    session.out.record(found, rows)


@click.command(epilog="Example: x0t node history node1q8f2zr9w")
@click.argument("node_id", metavar="NODE")
@with_session
def history(session: Session, node_id: str) -> None:
    """List what happened to the admission of NODE: what, by whom, and whether it had effect."""
    found = session.client.get(f"/admissions/{segment(node_id)}/events", tuple[AdmissionEvent, ...])
    rows = [
        (e.time, e.event, e.state, e.actor, e.rule or "by hand", e.note or e.reason, e.effect or "yes") for e in found
    ]
    columns = ("TIME", "EVENT", "STATE", "BY", "RULE", "NOTE", "EFFECT")
    session.out.table(found, columns, rows, "Nothing happened to it yet.")


@click.command(epilog="Example: x0t node approve node1q8f2zr9w --expires 90d")
@click.argument("node_id", metavar="NODE")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="These instead of its token's; repeat.")
@click.option("--expires", metavar="DURATION", help="Such as 90d. Default: as long as the approver may.")
@with_session
def approve(session: Session, node_id: str, tags: tuple[str, ...], expires: str | None) -> None:
    """Make NODE a member: sign the certificate that it asked for."""
    ask = ApproveAsk(tags=tags or None, lifetime_ms=units.parse_duration_ms(expires) if expires else None)
    receipt = session.client.send("POST", f"/admissions/{segment(node_id)}/certificates", ask, Receipt)
    session.out.receipt(receipt, "Approved")


@click.command(epilog="Example: x0t node renew node1q8f2zr9w")
@click.argument("node_id", metavar="NODE")
@click.option("--expires", metavar="DURATION", help="Such as 90d. Default: as long as the approver may.")
@with_session
def renew(session: Session, node_id: str, expires: str | None) -> None:
    """Give NODE a new certificate for the same keys and tags, before its present one ends or after."""
    ask = ApproveAsk(lifetime_ms=units.parse_duration_ms(expires) if expires else None)
    receipt = session.client.send("PUT", f"/admissions/{segment(node_id)}/certificates", ask, Receipt)
    session.out.receipt(receipt, "Renewed")


def _plain(action: str, text: str, done: str) -> click.Command:
    """A decision that cuts nobody off."""

    @click.command(action, help=text, epilog=f"Example: x0t node {action} node1q8f2zr9w --reason 'as agreed'")
    @click.argument("node_id", metavar="NODE")
    @_reason
    @with_session
    def command(session: Session, node_id: str, reason: str) -> None:
        _decide(session, node_id, DecideAsk(action=action, reason=reason), done)

    return command


def _severe(action: str, text: str, question: str, done: str) -> click.Command:
    """A decision that cuts a node off, so it is asked for after saying whom it concerns."""

    @click.command(action, help=text, epilog=f"Example: x0t node {action} node1q8f2zr9w --reason 'stolen'")
    @click.argument("node_id", metavar="NODE")
    @_reason
    @yes_option
    @with_session
    def command(session: Session, node_id: str, reason: str, sure: bool) -> None:  # noqa: FBT001
        if not sure:
            found = _admission(session, node_id)
            tags = f", tags {', '.join(found.tags)}" if found.tags else ""
            confirm(f"{found.name or found.node} is {found.state}{tags}. {question}", sure=False)
        _decide(session, node_id, DecideAsk(action=action, reason=reason), done)

    return command


reject = _plain("reject", "Turn NODE down that waits for an approver. Its token stays used.", "Rejected")
resume = _plain("resume", "Let NODE go on that was suspended, or wait again that was rejected.", "Resumed")
unban = _plain("unban", "Let NODE ask again, with a new token.", "It may ask again")
suspend = _severe(
    "suspend",
    "Cut NODE off for now; `x0t node resume` lets it back with the certificate that it has.",
    "Cut it off until it is resumed?",
    "Suspended",
)
revoke = _severe(
    "revoke",
    "Take the certificate of NODE away; `x0t node approve` gives it another, without a new token.",
    "Take its certificate away?",
    "Revoked",
)
evict = _severe(
    "evict", "Take NODE out of the mesh. It needs a new token to come back.", "Take it out of the mesh?", "Evicted"
)
ban = _severe(
    "ban",
    "Take NODE out of the mesh and turn its key away for good, until `x0t node unban`.",
    "Take it out and turn its key away for good?",
    "Banned",
)

COMMANDS: tuple[click.Command, ...] = (
    admissions,
    approve,
    ban,
    evict,
    history,
    pending,
    reject,
    renew,
    resume,
    revoke,
    show,
    suspend,
    unban,
)


def _admission(session: Session, node_id: str) -> Admission:
    return session.client.get(f"/admissions/{segment(node_id)}", Admission)


def _decide(session: Session, node_id: str, ask: DecideAsk, done: str) -> None:
    receipt = session.client.send("POST", f"/admissions/{segment(node_id)}/decisions", ask, Receipt)
    session.out.receipt(receipt, done)
