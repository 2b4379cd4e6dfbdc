"""Sync: ten thousand missing batches between two daemons over PQ TLS, and the exchange of two equal replicas.

`./test bench sync [--batches N] [--rounds N]`. The peer of the first row is verify + store + fold of the same batches
in one process, in the same run.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.core.limits import LIMITS
from appliance.lab.rig import machines
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import InSync
from appliance.replica.vector import Vector
from tests.bench.corpus import Corpus, corpus
from tests.bench.daemons import fill, prepare, total
from tests.bench.engines import scratch
from tests.bench.rows import Row, bounded, compared

AUTHORS = 1000


def run(arguments: Sequence[str]) -> list[Row]:
    """All rows."""
    options = argparse.ArgumentParser(prog="./test bench sync")
    options.add_argument("--batches", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args(arguments)
    made = corpus(AUTHORS, chosen.batches)
    synced: list[float] = []
    folded: list[float] = []
    for _ in range(chosen.rounds):
        with scratch() as directory:
            folded.append(_fold_alone(made, directory))
            synced.append(_sync(made, directory))
    rate, alone = statistics.median(synced), statistics.median(folded)
    return [
        compared(
            f"sync of {len(made.batches):,} missing batches, stored and folded", "batches/s", rate, alone, at_least=0.8
        ),
        *equal_rows(),
    ]


def _fold_alone(made: Corpus, directory: Path) -> float:
    place = directory / "alone"
    place.mkdir()
    return fill(place, made)


def _sync(made: Corpus, directory: Path) -> float:
    with machines(directory, ("full", "empty")) as (full, empty):
        fill(prepare(full, made, made.founder_seed), made)
        fill(prepare(empty, made, made.spare_seed), made, members=False)
        empty.peer_with(full)
        full.start()
        empty.start()
        empty.wait(lambda seen: seen.links_up > 0 or seen.batches > len(made.opening) + 1)
        begun = time.perf_counter()  # connecting is not what is measured
        empty.wait(lambda seen: seen.batches >= total(made), timeout_s=120)
        return len(made.batches) / (time.perf_counter() - begun)


def equal_rows() -> list[Row]:
    """Bytes and round trips until two equal replicas with 1,000 authors know it."""
    vectors = [Vector.from_rows(_heads()) for _ in range(2)]
    sessions = [SyncSession(b"m" * 32, "control", vector, LIMITS, 0) for vector in vectors]
    sent = [0, 0]
    flights = 0
    done: set[int] = set()
    while len(done) < 2:
        data = [session.bytes_to_send() for session in sessions]
        if not any(data):
            raise RuntimeError("equal replicas did not settle")
        flights += 1
        for number, session in enumerate(sessions):
            sent[number] += len(data[number])
            events = session.receive_data(data[1 - number], 0)
            if any(isinstance(event, InSync) for event in events):
                done.add(number)
    return [
        bounded("equal replicas, 1,000 authors: bytes of the protocol, both ways", "B", float(sum(sent)), at_most=2048),
        bounded("equal replicas, 1,000 authors: exchanges of the protocol", "round trips", float(flights), at_most=1),
    ]


def _heads() -> list[tuple[bytes, int, bytes]]:
    return [
        (hashlib.sha256(b"author %d" % number).digest(), number + 1, hashlib.sha256(b"head %d" % number).digest())
        for number in range(AUTHORS)
    ]
