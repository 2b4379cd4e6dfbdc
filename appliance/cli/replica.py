"""`x0t replica`: the log, the read model, and what is in them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from appliance.cli.session import Session, confirm, with_session, yes_option
from appliance.core import units
from appliance.core.errors import error
from appliance.core.records import (
    Batch,
    BatchDetail,
    Conflict,
    FileAsk,
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
    b = session.client.get(f"/replica/batches/{batch}", BatchDetail)
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


@replica.command(epilog="Example: x0t replica verify; x0t replica verify --file archive.x0t")
@click.option("--file", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An archive.")
@with_session
def verify(session: Session, file: Path | None) -> None:
    """Check every signature, chain and digest of the log, or of an archive (with which no daemon is needed)."""
    if file is not None:
        from appliance.cli.offline import verify_archive

        result = verify_archive(file)
    else:
        with session.out.progress() as show_progress:
            result = session.client.work("/replica/verify", None, Verified, show_progress)
    rows = [("batches", result.batches), ("archived", result.archived), ("digest", result.digest)]
    session.out.record(result, [*rows, ("faults", result.faults)])
    if result.faults:
        raise error("replica.corrupt", what="log" if file is None else "archive", reason=result.faults[0])


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
    batches, before, after = ("batches", result.batches), ("before", result.before), ("after", result.after)
    session.out.record(result, [batches, before, after, ("equal", same)])
    if not same:
        raise error("replica.corrupt", what="read model", reason="the rebuild gave another digest")


@replica.command(epilog="Example: x0t replica export backup.x0t")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@with_session
def export(session: Session, file: Path) -> None:
    """Write all batches to FILE, which any node of the mesh can import."""
    _move(session, "/replica/export", file, "Exported {batches:,} batches to {path}.")


@replica.command("import", epilog="Example: x0t replica import backup.x0t")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_session
def import_(session: Session, file: Path) -> None:
    """Take batches from FILE; each is checked like one from a peer."""
    _move(session, "/replica/import", file, "Read {batches:,} batches, {new:,} of them new.")


@replica.command(epilog="Example: x0t replica checkpoint --yes")
@yes_option
@with_session
def checkpoint(session: Session, sure: bool) -> None:  # noqa: FBT001
    """Close the epoch: what is unseen here and older loses its effect. Needs the role owner."""
    confirm("Close the epoch? Batches that this node has not seen and that are older will have no effect.", sure=sure)
    receipt = session.client.send("POST", "/replica/checkpoints", None, Receipt)
    session.out.receipt(receipt, "The epoch is closed")


@replica.command(epilog="Example: x0t replica archive 2026.x0t --yes")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@yes_option
@with_session
def archive(session: Session, file: Path, sure: bool) -> None:  # noqa: FBT001
    """Move the batches before the last checkpoint to FILE and free their space here."""
    confirm(f"Move older batches to {file} and remove them from this node?", sure=sure)
    _move(session, "/replica/archive", file, "Moved {batches:,} batches to {path}.")


def _move(session: Session, path: str, file: Path, text: str) -> None:
    with session.out.progress() as show_progress:
        moved = session.client.work(path, FileAsk(path=str(file.absolute())), Moved, show_progress)
    session.out.done(moved, text.format(batches=moved.batches, new=moved.new, path=moved.path))


def counted(counts: dict[str, int]) -> tuple[str, ...]:
    """Error keys with how often each occurred."""
    return tuple(f"{key} {count}" for key, count in sorted(counts.items()))
