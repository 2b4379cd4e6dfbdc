"""Engines over real files for the benchmarks: a place on the disk, an engine there, and a way to feed it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.replica.authoring import Identity
from appliance.replica.batch import parse_batch
from appliance.replica.engine import Engine
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.trust.pqc import provider
from tests.bench.corpus import START_MS, YEAR_MS, Corpus

NOW_MS = START_MS + YEAR_MS // 2
GROUP = 256  # batches a transaction, as sync delivers them


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk (not a memory file system: fsync must be real), removed afterwards."""
    base = Path(__file__).resolve().parents[2] / ".cache"
    base.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=base, prefix="bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def open_engine(made: Corpus, directory: Path) -> Engine:
    """An engine on its own files, loaded."""
    identity = Identity(mesh=made.mesh, authority_key=made.authority_key)
    log, view = LogStore(directory / "log.db"), ViewStore(directory / "view.db")
    engine = Engine(identity, log, view, provider("auto").mldsa_verify)
    engine.load()
    return engine


def feed(engine: Engine, blobs: Sequence[bytes]) -> float:
    """Decode, verify, store and fold in groups; returns seconds."""
    begun = time.perf_counter()
    for start in range(0, len(blobs), GROUP):
        taken = engine.take([(parse_batch(blob), False) for blob in blobs[start : start + GROUP]], NOW_MS)
        if taken.refused:
            raise RuntimeError(taken.refused[0][1])
        engine.commit()
        engine.fold()
    return time.perf_counter() - begun
