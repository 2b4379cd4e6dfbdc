"""Verify and fold, durable append, and start: the replica's own speed, one core, beside the raw parts it stands on.

`./test bench replica [--batches N] [--members N]`; 100,000 batches of 10,000 members unless told.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from appliance.lab.rig import Machine, machines
from appliance.replica.batch import SignedBatch, parse_batch
from appliance.replica.service import Replica, Writer
from appliance.trust.pqc import provider
from tests.bench.corpus import Corpus, corpus
from tests.bench.daemons import prepare
from tests.bench.engines import NOW_MS, feed, open_engine, scratch
from tests.bench.rows import Row, compared

AUTHORS = 64
PAGE_BYTES = (4096, 16384)  # SQLite's default, and what the log uses
WINDOW = 1000


def run(arguments: Sequence[str]) -> list[Row]:
    """All rows."""
    options = argparse.ArgumentParser(prog="./test bench replica")
    options.add_argument("--batches", type=int, default=100_000)
    options.add_argument("--members", type=int, default=10_000)
    chosen = options.parse_args(arguments)
    made = corpus(chosen.members, chosen.batches)
    with scratch() as directory, machines(directory, ("full", "bare")) as (full, bare):
        rows = fold_rows(made, prepare(full, made, made.founder_seed))
        rows += start_rows(made, full, bare)
    with scratch() as directory:
        rows += append_rows(corpus(AUTHORS, 12_800), directory)
    return rows


def fold_rows(made: Corpus, directory: Path) -> list[Row]:
    """Rate and flatness of verify + fold (storing included), and the start afterwards."""
    engine = open_engine(made, directory)
    feed(engine, made.opening)
    rows: list[Row] = []
    seconds: list[float] = []
    busy: list[float] = []
    for start in range(0, len(made.batches), WINDOW):
        begun = time.process_time()
        seconds.append(feed(engine, made.batches[start : start + WINDOW]) / WINDOW)
        busy.append((time.process_time() - begun) / WINDOW)
    rate = 1 / statistics.median(seconds)
    raw = _verify_rate(made)
    rows.append(
        Row(
            name=f"verify + store + fold, {len(made.opening):,} + {len(made.batches):,} batches",
            unit="batches/s",
            value=rate,
            peer=raw,
            ratio=rate / raw,
            reach=">= 3000/s",
            holds=rate >= 3000,
        )
    )
    rows.append(_flatness("time a batch, last tenth of the log beside the first", seconds))
    rows.append(_flatness("the same in processor time", busy))
    engine.close()
    begun = time.perf_counter()
    open_engine(made, directory).close()
    rows.append(Row(name="load of that log by itself", unit="s", value=time.perf_counter() - begun))
    return rows


def _flatness(name: str, windows: Sequence[float]) -> Row:
    """Seconds a batch, late beside early. Wall time also has what the disk does with half a gigabyte of log."""
    tenth = max(1, len(windows) // 10)
    early, late = statistics.median(windows[:tenth]) * 1e6, statistics.median(windows[-tenth:]) * 1e6
    holds = late <= early * 1.25
    return Row(
        name=name, unit="us", value=late, peer=early, ratio=late / early, reach="flat: <= 1.25 of peer", holds=holds
    )


def start_rows(made: Corpus, full: Machine, bare: Machine) -> list[Row]:
    """From the start of the process to serving, with that log and with none."""
    empty = statistics.median(_starts(bare))
    what = f"x0td: from start to serving, {len(made.batches):,} batches"
    started = statistics.median(_starts(full))
    return [
        Row(name=what, unit="s", value=started, peer=empty, ratio=started / empty, reach="<= 1 s", holds=started <= 1)
    ]


def _starts(machine: Machine) -> list[float]:
    machine.start()  # the first one writes what every node says of itself, and warms the page cache
    machine.stop()
    seconds: list[float] = []
    for _ in range(3):
        seconds.append(machine.start())
        machine.stop()
    return seconds


def _verify_rate(made: Corpus) -> float:
    """Signatures a second that the provider verifies when called raw."""
    from appliance.core import cose
    from appliance.core.domains import Domain

    verify = provider("auto").mldsa_verify
    signed = [parse_batch(blob) for blob in made.opening[:1]]
    message = cose.to_be_signed(signed[0].payload)
    key = next(iter(_founder_key(made)))
    begun = time.perf_counter()
    for _ in range(2000):
        if not verify(key, message, signed[0].signature, Domain.BATCH.value.encode()):
            raise RuntimeError("the corpus does not verify")
    return 2000 / (time.perf_counter() - begun)


def _founder_key(made: Corpus) -> Iterator[bytes]:
    yield provider("auto").mldsa_keypair(made.founder_seed).public_key


def append_rows(made: Corpus, directory: Path) -> list[Row]:
    """Durable appends by 64 waiting authors beside raw SQLite FULL inserts of the same bytes, 64 a transaction."""
    batches = [parse_batch(blob) for blob in made.batches]
    ours: list[float] = []
    raws: list[float] = []
    large: list[float] = []
    rounds = 4
    share = len(batches) // rounds
    engine = open_engine(made, directory)
    feed(engine, made.opening)
    folded: list[float] = []

    async def measure() -> None:
        writer = Writer(node=made.founder, sign=lambda _message, _context: b"", now_ms=lambda: NOW_MS)
        async with Replica(engine, writer, provider("auto").mldsa_verify) as replica:
            for number in range(rounds):
                part = batches[number * share : (number + 1) * share]
                raws.append(_raw_inserts(directory / f"raw-{number}.db", part, PAGE_BYTES[0]))
                large.append(_raw_inserts(directory / f"large-{number}.db", part, PAGE_BYTES[1]))
                begun = time.perf_counter()
                ours.append(await _append(replica, part))
                await replica.run(lambda engine: engine.unfolded)
                folded.append(share / (time.perf_counter() - begun))

    asyncio.run(measure())
    mine, raw = statistics.median(ours), statistics.median(raws)
    return [
        compared("durable append, 64 waiting authors, log only", "batches/s", mine, raw, at_least=0.6),
        Row(
            name="the same beside SQLite with the log's page size",
            unit="batches/s",
            value=mine,
            peer=statistics.median(large),
            ratio=mine / statistics.median(large),
        ),
        Row(
            name="the same until all is folded too",
            unit="batches/s",
            value=statistics.median(folded),
            peer=raw,
            ratio=statistics.median(folded) / raw,
        ),
    ]


async def _append(replica: Replica, part: Sequence[SignedBatch]) -> float:
    """Each of 64 authors waits until its batch is durable before it sends the next."""

    async def author(number: int) -> None:
        for batch in part[number::AUTHORS]:
            await replica.submit(batch)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(AUTHORS):
            group.create_task(author(number))
    return len(part) / (time.perf_counter() - begun)


def _raw_inserts(path: Path, part: Sequence[SignedBatch], page_bytes: int) -> float:
    """Rows of the same bytes through apsw alone, 64 a transaction, WAL and synchronous=FULL."""
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size={page_bytes}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE batches (arrival INTEGER PRIMARY KEY, hash BLOB NOT NULL, blob BLOB)")
    rows = [(batch.hash, batch.blob) for batch in part]
    begun = time.perf_counter()
    for start in range(0, len(rows), AUTHORS):
        with connection:
            connection.executemany("INSERT INTO batches (hash, blob) VALUES (?, ?)", rows[start : start + AUTHORS])
    seconds = time.perf_counter() - begun
    connection.close()
    return len(rows) / seconds
