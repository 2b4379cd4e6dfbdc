"""Reading archives of others: into a replica, or checked with no replica at all.

Nothing in a file is trusted but what the signatures in it prove from the mesh authority's key on; a file of any bytes
costs no more than reading it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from typing import IO

from appliance.core.errors import X0tError, error
from appliance.core.ids import MeshId, mesh_id
from appliance.core.limits import LIMITS, Limits
from appliance.replica.archive_format import ArchiveReader, File, Header
from appliance.replica.audit import Audit
from appliance.replica.batch import SignedBatch, Verify, parse_batch
from appliance.replica.engine import Engine
from appliance.replica.maintenance import stepped
from appliance.replica.reports import ArchiveReport, Imported, Progress
from appliance.replica.service import Replica

STEP = 128  # batches between two reports
CHUNK_BYTES = 1 << 20  # given to the replica at once
FAULTS = 50  # named; a file with more is not worth reading on


async def import_(replica: Replica, file: File) -> AsyncGenerator[Progress | Imported, None]:
    """Give the batches of a file to the replica, which takes them as from a peer that it does not know.

    What was taken before a fault of the file shows stays: each batch proved itself. Raises `archive.*`.
    """
    batches = new = 0
    refused: dict[str, int] = {}
    before = await replica.run(lambda engine: len(engine.parking))
    after = 0
    async with aclosing(stepped(replica, lambda engine: _chunks(engine, file))) as chunks:
        async for header, blobs in chunks:
            received = await replica.receive(blobs)
            batches, new = batches + len(blobs), new + len(received.new)
            for _, key in received.refused:
                refused[key] = refused.get(key, 0) + 1
            after = header.after
            yield Progress(batches, header.count)
    stuck = max(0, await replica.run(lambda engine: len(engine.parking)) - before)
    if stuck and after:
        raise error("archive.earlier", batches=stuck, epoch=after)
    yield Imported(path=file.name, batches=batches, new=new, waiting=stuck, refused=dict(sorted(refused.items())))


def verify_files(
    files: Sequence[IO[bytes]], check: Verify, authority_key: bytes | None = None, limits: Limits = LIMITS
) -> Generator[Progress | ArchiveReport, None, None]:
    """Check archives of one mesh with no replica: earlier ones first, the last is the one in question.

    The chain of trust begins at `authority_key`, or else at the key that the last file names: then a person compares
    the mesh id in the report. Raises `archive.*` where a file is not of the form; faults of batches are in the report.
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
            _note(faults, _fault(audit, len(places) - 1, blob, reader.header, limits))
            if number % STEP == 0:
                yield Progress(number, reader.header.count, faults[-1] if faults else "")
    if header.epoch and audit.checkpoint(header.epoch) is None:
        _note(faults, f"no checkpoint in force, with the digest of what it covers, closes the epoch {header.epoch}")
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


def _chunks(engine: Engine, file: File) -> Generator[tuple[Header, list[bytes]], None, None]:
    """The batches of a file of this mesh, about CHUNK_BYTES at once."""
    identity = engine.identity
    with file.open() as opened:
        reader = ArchiveReader(opened, engine.limits)
        header = reader.header
        ours = (identity.mesh, identity.authority_key, identity.channel)
        if (header.mesh, header.authority_key, header.channel) != ours:
            raise error("archive.mesh", mesh=MeshId(header.mesh))
        blobs: list[bytes] = []
        size = 0
        for _, blob in reader:
            blobs.append(blob)
            size += len(blob)
            if size >= CHUNK_BYTES:
                yield header, blobs
                blobs, size = [], 0
        yield header, blobs


def _check_headers(headers: Sequence[Header], trusted: bytes) -> None:
    """All of one mesh, that of the trusted key, and each following on the one before it."""
    epoch = 0
    for header in headers:
        if header.mesh != mesh_id(trusted).raw or header.authority_key != trusted:
            raise error("archive.mesh", mesh=MeshId(header.mesh))
        if header.after > epoch:
            raise error("archive.earlier", batches=header.count, epoch=header.after)
        epoch = max(epoch, header.epoch)


def _fault(audit: Audit, number: int, blob: bytes, header: Header, limits: Limits) -> str:
    """What is wrong with a batch of a file, or nothing; a sound one is taken in."""
    try:
        signed = parse_batch(blob, limits)
        if signed.batch.channel != header.channel:
            raise error("batch.channel", batch=signed.hash[:6], channel=signed.batch.channel)
        audit.take(number, signed)
    except X0tError as err:
        return f"batch number {number + 1}: {err}"
    return ""


def _note(faults: list[str], fault: str) -> None:
    if fault and len(faults) < FAULTS:
        faults.append(fault)
