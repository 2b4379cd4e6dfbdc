"""Resident memory of x0td with 1,000 members and 10,000 batches: after the start, and after a peer fetched all of it.

`./test bench memory [--batches N] [--members N]`. The peer is a bare interpreter that has only imported the same
libraries.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from appliance.lab.rig import machines
from tests.bench.corpus import corpus
from tests.bench.daemons import fill, prepare, settle, total
from tests.bench.engines import scratch
from tests.bench.rows import Row

REACH_MIB = 80
BARE = (
    "import apsw, msgspec, aiohttp.web, OpenSSL, structlog, automerge, resource; print(open('/proc/self/statm').read())"
)


def run(arguments: Sequence[str]) -> list[Row]:
    """All rows."""
    options = argparse.ArgumentParser(prog="./test bench memory")
    options.add_argument("--batches", type=int, default=10_000)
    options.add_argument("--members", type=int, default=1000)
    chosen = options.parse_args(arguments)
    made = corpus(chosen.members, chosen.batches)
    bare = _mib(int(subprocess.check_output([sys.executable, "-c", BARE], text=True).split()[1]))
    with scratch() as directory, machines(directory, ("full", "empty")) as (full, empty):
        fill(prepare(full, made, made.founder_seed), made)
        prepare(empty, made, made.spare_seed)
        empty.peer_with(full)
        full.start()
        settle(full)
        idle = full.rss_bytes() / 2**20
        empty.start()
        empty.wait(lambda seen: seen.batches >= total(made), timeout_s=120)
        settle(empty)
        serving, filled = full.rss_bytes() / 2**20, empty.rss_bytes() / 2**20
    what = f"{chosen.members:,} members, {total(made):,} batches"
    return [
        _row(f"x0td, {what}: after the start", idle, bare),
        _row(f"x0td, {what}: after it served them to a peer", serving, bare),
        _row(f"x0td, {what}: after it fetched them all", filled, bare),
    ]


def _row(name: str, value: float, bare: float) -> Row:
    return Row(
        name=name,
        unit="MiB",
        value=value,
        peer=bare,
        ratio=value / bare,
        reach=f"<= {REACH_MIB} MiB",
        holds=value <= REACH_MIB,
    )


def _mib(pages: int) -> float:
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
