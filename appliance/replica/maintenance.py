"""Maintenance: read the whole log again, and prove or renew all that was made from it.

Both works fold the log once more into a scratch view beside the live one, a chunk a step; between two steps the replica
goes on as ever, and what arrives meanwhile is folded too. The live view changes in one transaction at the very end, so
a power cut or a kill at any moment leaves the old view or the new one, and never half of one. They are generators: each
step is run on the writer's thread (`stepped`), and closing one early leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from itertools import zip_longest
from typing import TypeVar

import msgspec

from appliance.core.errors import IntegrityError, UnavailableError, X0tError
from appliance.replica.batch import SignedBatch, Verify, short, verify_batch
from appliance.replica.engine import Engine
from appliance.replica.queries import state_digest
from appliance.replica.reports import Progress, Rebuilt, Verified
from appliance.replica.service import Replica
from appliance.replica.stores import Value, View

STEP = 128  # batches of one step: some 40 ms with signatures, during which the writer waits
ROWS = 2_000  # rows compared in one step: some 10 ms
FAULTS = 50  # named; a log that has more is not mended by reading them

R = TypeVar("R")


def rebuild(engine: Engine) -> Generator[Progress | Rebuilt, None, None]:
    """Make index and read model anew from the log. The digest of the read model must not change by it.

    Where the view is too damaged to have a digest, that before is empty.
    """
    with engine.view.scratch() as scratch:
        blank = engine.blank(scratch)
        for rows, progress in _chunks(engine):
            for arrival, _, blob in rows:
                blank.admit_logged(arrival, blank.parse(arrival, blob))
            blank.fold()
            if progress is not None:
                yield progress
        try:  # in the step that read the last batch, so nothing comes in between
            before = state_digest(engine.view)
        except IntegrityError:
            before = b""
        engine.view.adopt(scratch)
    engine.load()
    yield Rebuilt(batches=engine.view.size(), before=before, after=state_digest(engine.view))


def verify(engine: Engine, check: Verify) -> Generator[Progress | Verified, None, None]:
    """Read the whole log again: form, hash, signature, chain and admission of each batch; then index and read model.

    `check` verifies signatures. Of an archived batch only the payload is here: its hash and its place in the graph are
    checked, its signature is for `archive_check.verify_files`.
    """
    faults: list[str] = []
    archived = 0
    with engine.view.scratch() as scratch:
        blank = engine.blank(scratch)
        for rows, progress in _chunks(engine):
            for row in rows:
                archived += row[2] is None
                _note(faults, _fault(blank, check, row))
            blank.fold()
            if progress is not None:
                yield msgspec.structs.replace(progress, fault=faults[-1] if faults else "")
        done = engine.log.last_arrival()
        with engine.view.snapshot() as live:  # in the step that read the last batch: both hold the same batches
            for number, fault in enumerate(_differences(live, scratch)):
                _note(faults, fault)
                if number % ROWS == 0:
                    yield Progress(done, done, fault)
        yield Verified(batches=scratch.size(), archived=archived, faults=tuple(faults), digest=state_digest(scratch))


def _chunks(engine: Engine) -> Iterator[tuple[list[tuple[int, bytes, bytes | None]], Progress | None]]:
    """The rows of the log up to its end, with the progress to tell after each chunk: none after the last one.

    The chunks grow while more arrives between two of them than one holds, so the end is reached in any case.
    """
    done, size, left = 0, STEP, 1 << 62
    while rows := engine.log.after(done, size):
        done = rows[-1][0]
        last = engine.log.last_arrival()
        yield rows, Progress(done, last) if done < last else None
        before, left = left, last - done
        size = size if left < before else size * 2


def _fault(blank: Engine, check: Verify, row: tuple[int, bytes, bytes | None]) -> str:
    """What is wrong with a row of the log, or nothing; a sound batch is taken in."""
    arrival, digest, blob = row
    name = f"batch {short(digest)} (number {arrival})"
    try:
        signed = blank.parse(arrival, blob)
        if signed.hash != digest:
            return f"{name} is filed under another batch's hash"
        if blob is not None and not is_authentic(blank, signed, check):
            return f"{name} does not carry a valid signature of its author"
        blank.admit_logged(arrival, signed)
    except X0tError as err:
        return f"{name}: {err}"
    return ""


def is_authentic(engine: Engine, signed: SignedBatch, check: Verify) -> bool:
    """True if the author's key, as the batches before it give it, has signed this one."""
    key = engine.intake.author_key(signed.batch)
    return key is not None and verify_batch(signed, key, check)


def _differences(live: View, fresh: View) -> Iterator[str]:
    """Row by row: nothing where both agree, else what does not."""
    try:
        for left, right in zip_longest(live.dump_all(), fresh.dump_all()):
            yield "" if left == right else f"the view differs from the log: {_text(left)} against {_text(right)}"
    except IntegrityError as err:
        yield str(err)


def _text(row: tuple[Value, ...] | None) -> str:
    if row is None:
        return "no row"
    return "(" + ", ".join(short(value) if isinstance(value, bytes) else str(value)[:24] for value in row[:5]) + ")"


def _note(faults: list[str], fault: str) -> None:
    if fault and len(faults) < FAULTS:
        faults.append(fault)


async def stepped(replica: Replica, begin: Callable[[Engine], Generator[R, None, None]]) -> AsyncGenerator[R, None]:
    """What long work yields, each step run on the writer's thread between two groups of other work.

    Closing the iterator (use `contextlib.aclosing`) ends the work; an error in a step is raised here.
    """
    work = await replica.run(begin)
    try:
        while (item := await replica.run(lambda _engine: next(work, None))) is not None:
            yield item
    finally:
        try:
            await replica.run(lambda _engine: work.close())
        except UnavailableError:
            pass  # the replica is closing; what is left of a scratch view goes at the next start
