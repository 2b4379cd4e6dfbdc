"""`./test bench sim --seeds N [--first F]`: the simulator in its long form. A broken law is printed with its seed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.bench.rows import Row, bounded
from tests.sim.simulator import run as run_seed
from tests.sim.simulator import shortest

TOLD = ("batches", "power cuts", "forge", "write", "without effect: conflict", "without effect: frozen")


def run(arguments: list[str]) -> list[Row]:
    """Seeds in a row; one line to standard error for each that breaks a law."""
    parser = argparse.ArgumentParser(prog="bench sim")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    broken = 0
    started = time.perf_counter()
    for seed in range(asked.first, asked.first + asked.seeds):
        outcome = run_seed(seed)
        counts.update(outcome.counts)
        if outcome.broken:
            broken += 1
            print(f"seed {seed}: {'; '.join(outcome.broken)}\n    {shortest(seed)}", file=sys.stderr)
    rate = asked.seeds / (time.perf_counter() - started)
    told = [Row(name=name, unit="", value=counts[name]) for name in TOLD]
    return [
        bounded("seeds that break a law", "seeds", broken, at_most=0),
        bounded("seeds on one core", "seeds/s", rate, at_least=8),
        *told,
    ]
