"""`x0t policy`: who may talk to whom. A file goes in whole; what cuts anybody off is shown before it does."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from appliance.cli.client import segment
from appliance.cli.files import write_file
from appliance.cli.output import table_lines
from appliance.cli.policy_edit import edit_text
from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core import units
from appliance.core.errors import error
from appliance.core.limits import LIMITS
from appliance.core.network_records import (
    Explanation,
    FlowAsk,
    ImportAsk,
    PolicyAsk,
    PolicyContent,
    PolicyDone,
    PolicyFailure,
    PolicyImported,
    PolicyRevision,
    PolicyState,
    PolicyTried,
    Preview,
    RuleView,
)

confirm_option = click.option(
    "--confirm-within",
    "within",
    metavar="DURATION",
    help="Undo it after this time, such as 2m, unless `x0t policy confirm` comes first. 0s: never. "
    "Default: 1m if it cuts this node off from another, else never.",
)
file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))


@click.group()
def policy() -> None:
    """Who may talk to whom: the policy that every kernel of the mesh enforces."""


@policy.command(epilog="Example: x0t policy show > site.yaml")
@with_session
def show(session: Session) -> None:
    """Print the policy in force, as a file that `apply` takes."""
    state = session.client.get("/policy", PolicyState)
    if session.out.as_json:
        session.out.json(state)
        return
    sys.stdout.write(state.text)
    session.out.talk(_standing(state))


@policy.command(epilog="Example: x0t policy apply site.yaml --confirm-within 2m")
@file_argument
@click.option("--if-revision", default="", metavar="REVISION", help="Refuse if the policy was changed since this one.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@confirm_option
@yes_option
@with_session
def apply(  # noqa: PLR0913 - one parameter for each option
    session: Session, *, file: Path, if_revision: str, dry_run: bool, within: str | None, sure: bool
) -> None:
    """Put the policy of FILE (YAML or HuJSON; - is standard input) in force in the whole mesh.

    Its tests must pass. What it changes is shown first; a question is asked if this node loses touch with another.
    """
    _apply(session, PolicyAsk(text=_read(file), if_revision=if_revision, confirm_s=_seconds(within)), dry_run, sure)


def _apply(session: Session, ask: PolicyAsk, dry_run: bool, sure: bool) -> None:  # noqa: FBT001
    """Show what a policy changes, ask where it cuts this node off, and put it in force beside what was looked at."""
    preview = session.client.send("POST", "/policy/preview", ask, Preview)
    _print_preview(session, preview, talk=not dry_run)
    if preview.failures:
        raise error("policy.tests", count=len(preview.failures), first=_failures(preview.failures)[0])
    if dry_run:
        return
    if preview.cuts_off:
        confirm(f"This node loses touch with {', '.join(preview.cuts_off)}. Go on?", sure=sure)
    seen = msgspec.structs.replace(ask, if_revision=ask.if_revision or preview.head or "none")
    done = session.client.send("POST", "/policy", seen, PolicyDone)
    wait = f" It is undone at {done.confirm_by} unless you run `x0t policy confirm`." if done.confirm_by else ""
    session.out.done(done, f"The policy is {done.revision[:16]}.{wait}")


@policy.command("confirm", epilog="Example: x0t policy confirm")
@with_session
def confirm_(session: Session) -> None:
    """Keep the change that waits for it."""
    state = session.client.send("POST", "/policy/confirmation", {}, PolicyState)
    session.out.done(state, "The policy stays.")


@policy.command(epilog="Example: x0t policy test site.yaml")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@with_session
def test(session: Session, file: Path | None) -> None:
    """Run the tests of FILE, or of the policy in force. Exit code 2 if one fails."""
    text = session.client.get("/policy", PolicyState).text if file is None else _read(file)
    tried = session.client.send("POST", "/policy/tests", PolicyAsk(text=text), PolicyTried)
    if session.out.as_json:
        session.out.json(tried)
    for line in [f"warning: {warning}" for warning in tried.warnings] + _failures(tried.failures):
        session.out.talk(line)
    if tried.failures:
        raise error("policy.tests", count=len(tried.failures), first=_failures(tried.failures)[0])
    if not session.out.as_json:
        session.out.talk(f"{tried.rules} rules, {tried.tests} tests: all as expected")


@policy.command(epilog="Example: x0t policy preview site.yaml")
@file_argument
@with_session
def preview(session: Session, file: Path) -> None:
    """Show who would gain and who would lose which flow if FILE were applied."""
    _print_preview(session, session.client.send("POST", "/policy/preview", PolicyAsk(text=_read(file)), Preview))


@policy.command(epilog="Example: x0t policy explain robot-7 plc-1 tcp/502")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("service")
@with_session
def explain(session: Session, source: str, target: str, service: str) -> None:
    """Say whether FROM may reach TO (names, ids or addresses) on SERVICE, and which rules say so."""
    ask = FlowAsk(source=source, target=target, service=service)
    found = session.client.send("POST", "/policy/explanation", ask, Explanation)
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.text(found.sentence)
    for heading, rules in (("allowed by", found.allows), ("denied by", found.denies), ("nearly", found.near)):
        for rule in rules:
            first, *others = _rule(rule)
            for line in (f"  {heading}: {first}", *others):
                session.out.text(line)


@policy.command(epilog="Example: x0t policy edit")
@confirm_option
@yes_option
@with_session
def edit(session: Session, within: str | None, sure: bool) -> None:  # noqa: FBT001
    """Open the policy in $VISUAL or $EDITOR and apply what is saved; a mistake brings the editor back."""
    state = session.client.get("/policy", PolicyState)

    def attempt(text: str) -> None:
        ask = PolicyAsk(text=text, if_revision=state.head, confirm_s=_seconds(within))
        _apply(session, ask, dry_run=False, sure=sure)

    if not edit_text(state.text, attempt, session.out.talk):
        session.out.talk("Nothing was changed.")


@policy.command(epilog="Example: x0t policy history --json")
@with_session
def history(session: Session) -> None:
    """List the revisions, newest first: who, when, and whether it is in force or why not."""
    found = session.client.get("/policy/revisions", tuple[PolicyRevision, ...])
    rows = [
        (r.revision[:16], r.time, r.name or r.author[:17], f"+{r.added} -{r.removed}", r.standing, r.reason)
        for r in found
    ]
    columns = ("REVISION", "TIME", "AUTHOR", "CHANGE", "STANDING", "REASON")
    session.out.table(found, columns, rows, "There is no policy yet: everything is denied.")


@policy.command(epilog="Example: x0t policy revert 3f9a1c0b22d4e6a7")
@click.argument("revision")
@confirm_option
@yes_option
@with_session
def revert(session: Session, revision: str, within: str | None, sure: bool) -> None:  # noqa: FBT001
    """Bring back REVISION, as a new edit."""
    was = session.client.get(f"/policy/revisions/{segment(revision)}", PolicyContent)
    _apply(session, PolicyAsk(text=was.text, confirm_s=_seconds(within)), dry_run=False, sure=sure)


@policy.group("import")
def import_() -> None:
    """Read the policy of another system."""


@import_.command(epilog="Example: x0t policy import tailscale acl.hujson --mapping users.yaml > site.yaml")
@file_argument
@click.option(
    "--mapping", type=click.Path(path_type=Path, dir_okay=False), help="YAML: users, groups and hosts as ours."
)
@click.option("--template", is_flag=True, help="Print a mapping file to fill in.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the policy here.")
@with_session
def tailscale(session: Session, *, file: Path, mapping: Path | None, template: bool, out: Path | None) -> None:
    """Translate a Tailscale or headscale policy FILE. What has no equal is refused by name; nothing is applied.

    Users and groups become tags by the mapping. Where it lacks some, the lines to add are printed.
    """
    ask = ImportAsk(text=_read(file), mapping=_read(mapping) if mapping else "", template=template)
    found = session.client.send("POST", "/policy/imports/tailscale", ask, PolicyImported)
    if session.out.as_json:
        session.out.json(found)
    for line in [f"not carried over: {left}" for left in found.left] + [f"refused: {one}" for one in found.refused]:
        session.out.talk(line)
    if found.refused:
        if found.template and not session.out.as_json:
            session.out.talk("Add this to the mapping file, with the tags that you want:")
            sys.stdout.write(found.template)
        raise error("tailscale.not_carried", count=len(found.refused), path=file)
    answer = found.template if template else found.text
    if out is not None:
        write_file(out, answer.encode())
    elif not session.out.as_json:
        sys.stdout.write(answer)


def _read(file: Path) -> str:
    """The text of a file, or of standard input. Raises `control.file` or `policy.size`."""
    try:
        data = sys.stdin.buffer.read(LIMITS.policy_text_bytes + 1) if str(file) == "-" else file.read_bytes()
        if len(data) > LIMITS.policy_text_bytes:
            raise error("policy.size", limit=LIMITS.policy_text_bytes)
        return data.decode()
    except OSError as err:
        raise error("control.file", path=str(file), reason=err.strerror or str(err)) from err
    except UnicodeDecodeError as err:
        raise error("control.file", path=str(file), reason="it is not UTF-8") from err


def _seconds(within: str | None) -> int | None:
    """Whole seconds, at least as long: a short time must not become none, which means never."""
    return None if within is None else -(-units.parse_duration_ms(within) // 1000)


def _standing(state: PolicyState) -> str:
    if not state.revision:
        return "There is no policy in force: everything is denied."
    said = f"{state.rules} rules, {state.tests} tests; revision {state.revision[:16]} of {state.time}"
    if state.blocked is not None:
        said += f"\nA newer revision is not in force: {state.blocked.reason}"
    if state.confirm_by:
        said += f"\nIt is undone at {state.confirm_by} unless you run `x0t policy confirm`."
    return said


def _print_preview(session: Session, found: Preview, *, talk: bool = False) -> None:
    """On standard output, or while something else is the answer, as talk."""
    for line in [f"warning: {warning}" for warning in found.warnings]:
        session.out.talk(line)
    if session.out.as_json:
        if not talk:
            session.out.json(found)
        return
    say = session.out.talk if talk else session.out.text
    for line in [*(f"+ {rule}" for rule in found.added), *(f"- {rule}" for rule in found.removed)]:
        say(line)
    for line in _failures(found.failures):
        session.out.talk(line)
    rows = [(row.change, row.sources, row.targets, row.services) for row in found.rows]
    for line in table_lines(("CHANGE", "FROM", "TO", "SERVICES"), rows) if rows else ():
        say(line)
    if found.left_out:
        say(f"... and {found.left_out} more")
    if not found.rows:
        say("No flow between the nodes of now changes its verdict.")


def _failures(failures: tuple[PolicyFailure, ...]) -> list[str]:
    return [f"failed: {failure.test}: expected {failure.expected}, found {failure.found}" for failure in failures]


def _rule(rule: RuleView) -> list[str]:
    """A rule, and below it through what it matched, who signed it, and how often it did here."""
    said = [rule.text]
    if rule.through:
        said.append(f"    through {' and '.join(rule.through)}")
    if rule.author:
        said.append(f"    signed by {rule.author[:17]}, in force since {rule.since}")
    if rule.packets is not None:
        said.append(f"    {rule.packets:,} packets, {rule.bytes or 0:,} bytes here")
    return said
