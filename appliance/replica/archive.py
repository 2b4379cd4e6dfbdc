"""Archives: batches in a file, for another node, for a backup, or in place of their signed bytes here.

Long work in short steps: generators that `maintenance.stepped` runs on the writer's thread. Nothing is removed from the
log before the file was read back from the disk and every batch in it was checked. What a file proves to others is the
business of `archive_check`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Mapping
from typing import IO

from appliance.core.errors import error
from appliance.replica.ancestry import Meta
from appliance.replica.archive_format import ArchiveReader, ArchiveWriter, File, Header
from appliance.replica.batch import Batch, Verify, parse_batch, short, verify_batch
from appliance.replica.engine import Engine
from appliance.replica.entries import CheckpointEntry
from appliance.replica.marks import Mark, Standing
from appliance.replica.reports import Moved, Progress
from appliance.replica.stores import START, Indexed

STEP = 128  # batches of one step: some 30 ms with signatures
PRUNE_STEP = 1_000  # batches of one transaction


def export(engine: Engine, file: File) -> Generator[Progress | Moved, None, None]:
    """Write all batches that have their signed bytes, as of now, in fold order. Raises `archive.*`."""
    last = engine.log.last_arrival()
    header = _header(engine, 0, engine.log.signed_up_to(last))
    with file.create() as out:
        yield from _write(engine, out, header, lambda row: row.arrival <= last)
        size = out.tell()
    yield Moved(path=file.name, batches=header.count, size_bytes=size, removed=0)


def archive(engine: Engine, file: File, epoch: int, check: Verify) -> Generator[Progress | Moved, None, None]:
    """Write what the checkpoint in force of an epoch covers, and what it takes to prove it; then free the space here.

    Freed are the signatures of covered batches that neither give nor take authority nor change a document. If that was
    interrupted, the same call with the same file goes on with it. Raises `archive.*`.
    """
    mark = checkpoint_of(engine, epoch)
    batch = engine.read(_row(engine, mark.meta.hash).arrival).batch
    covered = engine.epochs().covered(mark, batch)
    if covered is None:
        raise error("checkpoint.digest")
    if engine.log.archived_epoch() != epoch or not file.exists():
        if engine.log.archived_epoch() >= epoch:
            raise error("archive.epoch", epoch=epoch)
        chosen = _with_proof(engine, mark, batch, covered)
        signed = sum(engine.log.blob(_row(engine, digest).arrival) is not None for digest in chosen)
        with file.create() as out:
            yield from _write(engine, out, _header(engine, epoch, signed), lambda row: row.meta.hash in chosen)
    with file.open() as written:
        reader = ArchiveReader(written, engine.limits)
        if (reader.header.mesh, reader.header.epoch) != (engine.identity.mesh, epoch):
            raise error("archive.unverified", reason="it is another file")
        seen = yield from _read_back(engine, reader, check)
        size = written.tell()
    removed = yield from _prune(engine, covered, seen, epoch)
    yield Moved(path=file.name, batches=reader.header.count, size_bytes=size, removed=removed)


def checkpoint_of(engine: Engine, epoch: int) -> Mark:
    """The checkpoint in force that closed an epoch. Raises `archive.checkpoint`."""
    for mark in engine.authority.checkpoints:
        if isinstance(mark.body, CheckpointEntry) and mark.body.epoch == epoch and mark.standing is Standing.IN:
            return mark
    raise error("archive.checkpoint", epoch=epoch)


def _header(engine: Engine, epoch: int, count: int) -> Header:
    identity = engine.identity
    return Header(
        mesh=identity.mesh,
        authority_key=identity.authority_key,
        channel=identity.channel,
        epoch=epoch,
        after=engine.log.archived_epoch(),
        count=count,
    )


def _write(
    engine: Engine, out: IO[bytes], header: Header, wanted: Callable[[Indexed], bool]
) -> Generator[Progress, None, None]:
    """Batches in fold order. What arrives meanwhile, at whatever place, is not wanted."""
    writer = ArchiveWriter(out, header)
    start, done = START, 0
    while done < header.count and (rows := engine.view.from_position(start, STEP)):
        for row in rows:
            blob = engine.log.blob(row.arrival) if wanted(row) else None
            if blob is not None:
                writer.add(blob)
                done += 1
        start = (rows[-1].meta.hlc, rows[-1].meta.hash + b"\0")
        yield Progress(done, header.count)
    writer.finish()


def _with_proof(engine: Engine, mark: Mark, batch: Batch, covered: Mapping[bytes, Meta]) -> set[bytes]:
    """Hashes that make the file stand alone: the checkpoint, what it covers, and what else all these follow."""
    chosen = {mark.meta.hash, *covered}
    stack = [*batch.dependencies(), *engine.authority.late_before(mark.meta)]
    while stack:
        digest = stack.pop()
        if digest not in chosen:
            chosen.add(digest)
            stack.extend(engine.read(_row(engine, digest).arrival).batch.dependencies())
    return chosen


def _read_back(engine: Engine, reader: ArchiveReader, check: Verify) -> Generator[Progress, None, set[bytes]]:
    """Check each batch of the file against the index and its author's key; returns their hashes."""
    seen: set[bytes] = set()
    for number, (_, blob) in enumerate(reader):
        signed = parse_batch(blob, engine.limits)
        key = engine.authority.key_of(signed.batch.author)
        if engine.view.lookup(signed.hash) is None or key is None or not verify_batch(signed, key, check):
            raise error("archive.unverified", reason=f"batch {short(signed.hash)} is not as it was received")
        seen.add(signed.hash)
        if number % STEP == 0:
            yield Progress(number, reader.header.count)
    return seen


def _prune(
    engine: Engine, covered: Mapping[bytes, Meta], seen: Container[bytes], epoch: int
) -> Generator[Progress, None, int]:
    """Drop signatures, a transaction a step; a batch that is not in the file keeps its own."""
    candidates = [meta for meta in covered.values() if not meta.mark]
    removed = 0
    for start in range(0, max(1, len(candidates)), PRUNE_STEP):
        if checkpoint_of(engine, epoch).meta.hash not in seen:
            raise error("archive.checkpoint", epoch=epoch)  # another one took its place meanwhile
        payloads: list[tuple[int, bytes]] = []
        for meta in candidates[start : start + PRUNE_STEP]:
            arrival = _row(engine, meta.hash).arrival
            blob = engine.log.blob(arrival)
            if blob is None:
                continue
            signed = parse_batch(blob, engine.limits)
            if meta.hash not in seen:
                raise error("archive.unverified", reason=f"batch {short(meta.hash)} is not in the file")
            if all(kind != "change" for kind, _ in signed.batch.entries):
                payloads.append((arrival, signed.payload))
        engine.log.prune(payloads, epoch)
        removed += len(payloads)
        yield Progress(start, len(candidates))
    return removed


def _row(engine: Engine, digest: bytes) -> Indexed:
    found = engine.view.lookup(digest)
    if found is None:
        raise error("replica.corrupt", what="index", reason=f"batch {short(digest)} is not in it")
    return found
