"""500 runs of the simulator: whatever the network, the disks, the clocks and hostile members do, the laws hold.

A failure names its seed and prints the shortest schedule that still fails; `run(seed, steps)` plays it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.sim.simulator import run, schedule, shortest

SEEDS = 500
CHUNK = 50


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_laws_hold_for_every_seed(first: int, record_property: Callable[[str, object], None]) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        outcome = run(seed)
        counts.update(outcome.counts)
        if outcome.broken:
            steps = shortest(seed)
            lines = [f"seed {seed}: {'; '.join(run(seed, steps).broken)}", *(f"    {step!r}," for step in steps)]
            pytest.fail("\n".join(lines))
    without = sum(count for name, count in counts.items() if name.startswith("without effect"))
    record_property(
        "counts",
        f"simulated seeds {first} to {first + CHUNK - 1}: {counts['batches']} batches, {counts['forge']} hostile acts, "
        f"{counts['power cuts']} power cuts, {without} entries without effect, {counts['policies in force']} policies "
        f"in force and {counts['policies blocked']} blocked, {counts['admission: approved']} newcomers admitted and "
        f"{counts['surplus: token.spent']} held back because another island had spent the token; 0 broken laws",
    )


def test_a_seed_is_a_run() -> None:
    assert schedule(7) == schedule(7)
    assert run(7) == run(7)
