"""`x0t replica`: the log, the read model, and what is in them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from appliance.cli.client import segment
from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core import units
from appliance.core.errors import error
from appliance.core.records import (
    ArchiveAsk,
    Batch,
    BatchDetail,
    CheckpointAsk,
    Conflict,
    FileAsk,
    Imported,
    Moved,
    NoEffect,
    Rebuilt,
    Receipt,
    Status,
    Verified,
    Watch,
)


@click.group()
def replica() -> None:
    """The log, the read model, and what is in them."""


@replica.command(epilog="Example: x0t replica status --json")
@with_session
def status(session: Session) -> None:
    """Show the state of this node: digest, sizes, peers, what waits and what was refused."""
    s = session.client.get("/replica/status", Status)
    session.out.record(
        s,
        [
            ("node", s.node),
            ("mesh", f"{s.name} {s.mesh}".strip()),
            ("digest", s.digest),
            ("batches", s.batches),
            ("authors", s.authors),
            ("epoch", s.epoch),
            ("without effect", s.no_effect),
            ("waiting for others", s.parked),
            ("frozen authors", s.frozen),
            ("refused batches", counted(s.refused)),
            ("refused peers", counted(s.turned_away)),
            ("log size", units.format_bytes(s.log_bytes)),
            ("links up", "cut off" if s.cut else str(s.links_up)),
            ("listens on", s.listen),
            ("jobs given up", tuple(job.name for job in s.jobs if job.phase == "given-up")),
            ("up since", units.format_duration_ms(s.uptime_s * 1000) + " ago"),
        ],
    )


@replica.command(epilog="Example: x0t replica log --author node1... --limit 20")
@click.option("--author", default="", metavar="NODEID", help="Only what this node wrote.")
@click.option("--limit", default=50, show_default=True, help="How many, newest first.")
@click.option("--follow", is_flag=True, help="Then go on with each change of the state, until Ctrl-C.")
@with_session
def log(session: Session, author: str, limit: int, follow: bool) -> None:  # noqa: FBT001
    """List batches, newest first."""
    batches = session.client.get("/replica/batches", tuple[Batch, ...], author=author, limit=limit)
    rows = [(b.time, b.batch, b.author, b.seq, b.kinds) for b in batches]
    session.out.table(batches, ("TIME", "BATCH", "AUTHOR", "SEQ", "ENTRIES"), rows, "The log is empty.")
    if follow:
        for line in session.client.lines("GET", "/replica/watch"):
            if session.out.as_json:
                session.out.text(line.decode().rstrip())
            else:
                seen = msgspec.json.decode(line, type=Watch)
                session.out.text(f"vector {seen.vector}  batches {seen.batches:,}  links {seen.links_up}")


@replica.command(epilog="Example: x0t replica show batch1qf8l2")
@click.argument("batch")
@with_session
def show(session: Session, batch: str) -> None:
    """Show one BATCH (its id, or enough of its beginning) with its entries and their effect."""
    b = session.client.get(f"/replica/batches/{segment(batch)}", BatchDetail)
    rows: list[tuple[str, str | int | bool | tuple[str, ...]]] = [
        ("batch", b.line.batch),
        ("author", b.line.author),
        ("seq", b.line.seq),
        ("time", b.line.time),
        ("previous", b.prev),
        ("parents", b.parents),
        ("size", units.format_bytes(b.line.size_bytes)),
    ]
    rows += [(f"entry {i}", f"{e.kind}: {e.effect or 'in effect'}: {e.body}") for i, e in enumerate(b.entries)]
    session.out.record(b, rows)


@replica.command("no-effect", epilog="Example: x0t replica no-effect")
@with_session
def no_effect(session: Session) -> None:
    """List entries that are kept and have no effect, with the reason."""
    found = session.client.get("/replica/no-effect", tuple[NoEffect, ...])
    rows = [(n.time, n.batch, n.author, n.kind, n.reason, n.explanation) for n in found]
    session.out.table(found, ("TIME", "BATCH", "AUTHOR", "KIND", "REASON", "WHY"), rows, "Everything has its effect.")


@replica.command(epilog="Example: x0t replica conflicts")
@with_session
def conflicts(session: Session) -> None:
    """List concurrent writes that differ (who won) and authors whose log forked."""
    found = session.client.get("/replica/conflicts", tuple[Conflict, ...])
    rows = [(c.kind, c.subject, c.winner, c.losers, c.reason) for c in found]
    session.out.table(found, ("KIND", "SUBJECT", "STANDS", "AGAINST", "WHY"), rows, "There are no conflicts.")


@replica.command(epilog="Example: x0t replica verify; x0t replica verify --file 2025.x0t --file 2026.x0t")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check this archive instead, without a daemon; earlier ones first, the last is the one in question.",
)
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --file: the descriptor of the mesh that it must belong to.",
)
@with_session
def verify(session: Session, files: tuple[Path, ...], trust: Path | None) -> None:
    """Check every signature, chain and digest of the log, or of an archive."""
    if files:
        from appliance.cli.offline import verify_archives

        with session.out.progress() as show_progress:
            report = verify_archives(files, trust, show_progress)
        session.out.record(
            report,
            [
                ("mesh", report.mesh),
                ("epoch", report.epoch or "export"),
                ("needs archives up to", report.after or "none"),
                ("batches", report.batches),
                ("authors", report.authors),
                ("digest", report.digest),
                ("faults", report.faults),
            ],
        )
        _demand_sound("archive", report.faults)
        return
    with session.out.progress() as show_progress:
        result = session.client.work("/replica/verify", None, Verified, show_progress)
    session.out.record(
        result,
        [
            ("batches", result.batches),
            ("archived", result.archived),
            ("digest", result.digest),
            ("faults", result.faults),
        ],
    )
    _demand_sound("log", result.faults)


@replica.command(epilog="Example: x0t replica rebuild --yes")
@click.option("--offline", is_flag=True, help="Without a daemon: remove the read model; the next start makes it anew.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="With --offline: the data directory.")
@yes_option
@with_session
def rebuild(session: Session, offline: bool, data_dir: Path | None, sure: bool) -> None:  # noqa: FBT001
    """Make the read model anew from the log; its digest must not change."""
    confirm("Rebuild the read model? Queries wait meanwhile.", sure=sure)
    if offline:
        from appliance.cli.offline import discard_view

        session.out.talk(f"Removed {discard_view(data_dir)}; the next start of x0td makes it anew.")
        return
    with session.out.progress() as show_progress:
        result = session.client.work("/replica/rebuild", None, Rebuilt, show_progress)
    same = result.before == result.after
    session.out.record(
        result,
        [("batches", result.batches), ("before", result.before), ("after", result.after), ("equal", same)],
    )
    if not same:
        raise error("replica.corrupt", what="read model", reason="the rebuild gave another digest")


@replica.command(epilog="Example: x0t replica export backup.x0t")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@with_session
def export(session: Session, file: Path) -> None:
    """Write all batches to FILE, which any node of the mesh can import."""
    with session.out.progress() as show_progress:
        moved = session.client.work("/replica/export", FileAsk(path=str(file.absolute())), Moved, show_progress)
    session.out.done(moved, f"{moved.batches:,} batches are in {moved.path} ({moved.size_bytes:,} bytes).")


@replica.command("import", epilog="Example: x0t replica import backup.x0t")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_session
def import_(session: Session, file: Path) -> None:
    """Take batches from FILE; each is checked like one from a peer."""
    with session.out.progress() as show_progress:
        found = session.client.work("/replica/import", FileAsk(path=str(file.absolute())), Imported, show_progress)
    waits = f"; {found.waiting:,} wait for others that are missing" if found.waiting else ""
    session.out.done(found, f"{found.batches:,} batches, {found.new:,} of them new{waits}.")
    if found.refused:
        session.out.talk(f"Warning: refused {', '.join(counted(found.refused))}.")


@replica.command(epilog="Example: x0t replica checkpoint --older-than 30d --yes")
@click.option("--older-than", default="0s", show_default=True, metavar="DURATION", help="Leave what is younger open.")
@yes_option
@with_session
def checkpoint(session: Session, older_than: str, sure: bool) -> None:  # noqa: FBT001
    """Close the epoch: what this node has not seen and is older never takes effect. Needs the role owner."""
    ask = CheckpointAsk(older_than_ms=units.parse_duration_ms(older_than))
    confirm("Close the epoch? Older batches that this node has not seen will have no effect.", sure=sure)
    receipt = session.client.send("POST", "/replica/checkpoints", ask, Receipt)
    session.out.receipt(receipt, "The epoch is closed")


@replica.command(epilog="Example: x0t replica archive 2026.x0t --yes")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--epoch", type=click.IntRange(1), help="Which; default: the last that a checkpoint closed.")
@yes_option
@with_session
def archive(session: Session, file: Path, epoch: int | None, sure: bool) -> None:  # noqa: FBT001
    """Write the batches of a closed epoch to FILE and free their space here."""
    confirm(f"Move signed batches to {file} and remove them from this node?", sure=sure)
    ask = ArchiveAsk(path=str(file.absolute()), epoch=epoch)
    with session.out.progress() as show_progress:
        moved = session.client.work("/replica/archive", ask, Moved, show_progress)
    session.out.done(moved, f"{moved.batches:,} batches are in {moved.path}; {moved.removed:,} lost their bytes here.")


def counted(counts: dict[str, int]) -> tuple[str, ...]:
    """Error keys with how often each occurred."""
    return tuple(f"{key} {count}" for key, count in sorted(counts.items()))


def _demand_sound(what: str, faults: tuple[str, ...]) -> None:
    if faults:
        raise error("replica.corrupt", what=what, reason=faults[0])
