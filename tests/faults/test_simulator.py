"""500 runs of the simulator: whatever the network, the disks, the clocks and hostile members do, the laws hold.

A failure names its seed and prints the shortest schedule that still fails; `run(seed, steps)` plays it again.
"""

from __future__ import annotations

import pytest

from tests.sim.simulator import run, schedule, shortest

SEEDS = 500
CHUNK = 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_laws_hold_for_every_seed(first: int) -> None:
    for seed in range(first, first + CHUNK):
        outcome = run(seed)
        if outcome.broken:
            steps = shortest(seed)
            lines = [f"seed {seed}: {'; '.join(run(seed, steps).broken)}", *(f"    {step!r}," for step in steps)]
            pytest.fail("\n".join(lines))


def test_a_seed_is_a_run() -> None:
    assert schedule(7) == schedule(7)
    assert run(7) == run(7)
