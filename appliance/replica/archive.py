"""Archives: batches in a file, for another node, for a backup, or in place of their signed bytes here.

Export and archive write what this replica holds; import and verify trust nothing in a file but what the signatures in
it prove from the mesh authority's key on. All of it is long work in short steps: generators that `maintenance.stepped`
runs on the writer's thread. Nothing is removed from the log before the file was read back and every batch in it checked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import IO

from appliance.core.errors import X0tError, error
from appliance.core.ids import MeshId, mesh_id
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Meta
from appliance.replica.archive_format import ArchiveReader, ArchiveWriter, File, Header
from appliance.replica.audit import Audit
from appliance.replica.batch import Batch, SignedBatch, Verify, parse_batch, verify_batch
from appliance.replica.engine import Engine
from appliance.replica.entries import CheckpointEntry
from appliance.replica.marks import Mark, Standing
from appliance.replica.reports import ArchiveReport, Imported, Moved, Progress
from appliance.replica.service import Replica
from appliance.replica.stores import START, Indexed

STEP = 128  # batches of one step
PRUNE_STEP = 1_000  # batches of one transaction
IMPORT_BYTES = 1 << 20  # bytes taken from a file at once
FAULTS = 50  # named; a file with more is not worth reading on


def export(engine: Engine, file: File) -> Generator[Progress | Moved, None, None]:
    """Write all batches that have their signed bytes, as of now, in fold order."""
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
    resumed = engine.log.archived_epoch() == epoch
    if not resumed or not file.exists():
        if engine.log.archived_epoch() >= epoch:
            raise error("archive.epoch", epoch=epoch)
        chosen = _proof(engine, mark, batch, covered)
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


async def import_(replica: Replica, file: File) -> AsyncGenerator[Progress | Imported, None]:
    """Give the batches of a file to the replica, which takes them as from a peer that it does not know.

    What was taken before a fault of the file shows stays: each batch proved itself. Raises `archive.*`.
    """
    identity = replica.engine.identity
    batches = new = 0
    refused: dict[str, int] = {}
    waiting_before = await replica.run(lambda engine: len(engine.parking))
    waiting = waiting_before
    context = file.open()
    reader = await replica.run(lambda engine: ArchiveReader(context.__enter__(), engine.limits))
    try:
        header = reader.header
        if (header.mesh, header.authority_key, header.channel) != (
            identity.mesh,
            identity.authority_key,
            identity.channel,
        ):
            raise error("archive.mesh", mesh=MeshId(header.mesh))
        blobs = iter(reader)
        while chunk := await replica.run(lambda _engine: _some(blobs)):
            received = await replica.receive(chunk)
            batches, new, waiting = batches + len(chunk), new + len(received.new), received.parked
            for _, key in received.refused:
                refused[key] = refused.get(key, 0) + 1
            yield Progress(batches, header.count)
    finally:
        await replica.run(lambda _engine: context.__exit__(None, None, None))
    stuck = max(0, waiting - waiting_before)
    if stuck and header.after:
        raise error("archive.earlier", batches=stuck, epoch=header.after)
    yield Imported(path=file.name, batches=batches, new=new, waiting=stuck, refused=dict(sorted(refused.items())))


def verify_files(
    files: Sequence[IO[bytes]], check: Verify, authority_key: bytes | None = None, limits: Limits = LIMITS
) -> Generator[Progress | ArchiveReport, None, None]:
    """Check archives of one mesh with no replica: earlier ones first, the last is the one in question.

    The chain of trust begins at `authority_key`, or else at the key that the last file names: then a person compares the
    mesh id in the report. Raises `archive.*` where a file is not of the form; faults of batches are in the report.
    """
    readers = [ArchiveReader(file, limits) for file in files]
    header = readers[-1].header
    trusted = header.authority_key if authority_key is None else authority_key
    _check_headers([reader.header for reader in readers], trusted)
    places: list[tuple[int, int]] = []

    def read(number: int) -> SignedBatch:
        source, offset = places[number]
        return parse_batch(readers[source].again(offset), limits)

    audit = Audit(header.mesh, trusted, check, read, limits)
    faults: list[str] = []
    for source, reader in enumerate(readers):
        for number, (offset, blob) in enumerate(reader):
            places.append((source, offset))
            _note(faults, _fault(audit, len(places) - 1, blob, header.channel))
            if number % STEP == 0:
                yield Progress(number, reader.header.count, faults[-1] if faults else "")
    if header.epoch and audit.checkpoint(header.epoch) is None:
        _note(faults, f"no checkpoint in force with a true digest closes the epoch {header.epoch}")
    yield ArchiveReport(
        mesh=header.mesh,
        authority_key=trusted,
        epoch=header.epoch,
        after=header.after,
        batches=header.count,
        authors=audit.authors,
        digest=readers[-1].digest,
        faults=tuple(faults),
    )


def _check_headers(headers: Sequence[Header], trusted: bytes) -> None:
    """All of one mesh, that of the trusted key, and each following on the one before it."""
    epoch = 0
    for header in headers:
        if header.mesh != mesh_id(trusted).raw or header.authority_key != trusted:
            raise error("archive.mesh", mesh=MeshId(header.mesh))
        if header.after > epoch:
            raise error("archive.earlier", batches=header.count, epoch=header.after)
        epoch = max(epoch, header.epoch)


def _fault(audit: Audit, number: int, blob: bytes, channel: str) -> str:
    """What is wrong with a batch of a file, or nothing; a sound one is taken in."""
    try:
        signed = parse_batch(blob)
        if signed.batch.channel != channel:
            raise error("batch.channel", batch=signed.hash[:6], channel=signed.batch.channel)
        audit.take(number, signed)
    except X0tError as err:
        return f"batch number {number + 1}: {err}"
    return ""


def _note(faults: list[str], fault: str) -> None:
    if fault and len(faults) < FAULTS:
        faults.append(fault)


def _some(blobs: Generator[tuple[int, bytes], None, None] | object) -> list[bytes]:
    raise NotImplementedError
