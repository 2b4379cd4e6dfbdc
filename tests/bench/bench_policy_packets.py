"""`./test bench policy-packets`: real packets against the written semantics, and what judging them costs.

First probes: `--probes N` (10,000; the issue asks for 100,000 over 300 policies; 0 skips them), `--seed N`. Each probe
must leave, arrive and be answered exactly when `evaluate` says so; a disagreement is printed with its world.

Then the cost, as ratios of measurements taken in turns, medians of them. A peer is an empty accepting chain, and one
that only asks connection tracking whether a packet is invalid, which any firewall that knows conversations must pay
for. The row `again` compares two empty chains: what it differs from 1 is noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

from tests.bench.rows import Row, bounded
from tests.probes.ground import Ground
from tests.probes.trial import Plan
from tests.probes.trial import run as try_probes
from tests.probes.wires import AGAIN, EMPTY, OURS, TRACKED, Wire, Wires

PROBES, SEED = 10_000, 4
RULES, NODES = 1_000, 5_000
REACH = 0.97  # issue: throughput and latency within 3 % of an empty accepting chain
NAMES = {EMPTY: "an empty accepting chain", TRACKED: "one with connection tracking", AGAIN: "itself: noise"}

# what, unit, how, rounds, true where more is better
COSTS: list[tuple[str, str, Callable[[Wire], float], int, bool]] = [
    ("64-byte udp", "1/s of processor time", lambda wire: wire.datagrams(4_000), 96, True),
    ("udp round trip of 64 bytes", "us", lambda wire: wire.round_trips(1_000), 96, False),
    ("tcp, iperf3", "Gb/s of processor time", Wire.tcp, 24, True),
]


def run(arguments: list[str]) -> list[Row]:
    """The rows."""
    parser = argparse.ArgumentParser(prog="policy-packets")
    parser.add_argument("--probes", type=int, default=PROBES)
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args(arguments)
    return [*(_probes(chosen.probes, chosen.seed) if chosen.probes else []), *_costs()]


def _probes(count: int, seed: int) -> list[Row]:
    with Ground() as ground:
        begun = time.perf_counter()
        outcome = try_probes(ground, Plan(seed=seed, probes=count))
        took_s = time.perf_counter() - begun
    print(outcome, *outcome.disagreements, sep="\n\n", file=sys.stderr)
    return [
        bounded(f"disagreements of {outcome.probes:,} probes", "probes", len(outcome.disagreements), at_most=0),
        bounded("policies", "policies", outcome.policies, at_least=min(300, count // 320)),
        Row(name="allowed", unit="probes", value=outcome.allowed),
        Row(name="through gateways", unit="probes", value=outcome.forwarded),
        Row(name="past the sender's firewall", unit="probes", value=outcome.spoofed),
        Row(name="answered", unit="probes", value=outcome.answered),
        Row(name="probes, with their policies", unit="1/s", value=outcome.probes / took_s),
    ]


def _costs() -> list[Row]:
    rows: list[Row] = []
    with Wires(RULES, NODES) as wires:
        rows.append(
            Row(name=f"kernel entries of {RULES:,} rules, {NODES:,} nodes", unit="elements", value=wires.entries)
        )
        for what, unit, measure, rounds, more in COSTS:
            found = list(wires.in_turns(measure, rounds))
            for kind, peer in ((OURS, EMPTY), (OURS, TRACKED), (AGAIN, EMPTY)):
                value, other = (median(each[one] for each in found) for one in (kind, peer))
                ratio = median(each[kind] / each[peer] for each in found)
                name = NAMES[AGAIN if kind == AGAIN else peer]
                holds = None if kind == AGAIN else (ratio >= REACH if more else ratio <= 2 - REACH)
                reach = "" if kind == AGAIN else (f">= {REACH} of peer" if more else f"<= {2 - REACH} of peer")
                label = f"{what} (peer: {name})"
                rows.append(Row(name=label, unit=unit, value=value, peer=other, ratio=ratio, reach=reach, holds=holds))
    return rows
