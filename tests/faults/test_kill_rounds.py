"""Three daemons under load, killed at random moments: in the end all are equal and nothing acknowledged is missing."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.core.records import Batch
from appliance.lab.rig import machines, mesh_of, wait_equal
from tests.faults.load import Load

ROUNDS = int(os.environ.get("X0T_KILL_ROUNDS", "50"))
SEED = int(os.environ.get("X0T_SEED", "20261124"))
ACKNOWLEDGED_MAX = 8  # before each kill
PACE_S = 0.04
MOMENT_S = 0.02  # and then up to so long, to hit every step of a write


@pytest.mark.timeout(300)  # fifty starts of a daemon, on two busy cores
def test_after_killing_daemons_under_load_all_replicas_are_equal_and_whole(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(SEED)
    with machines(tmp_path, ("one", "two", "three")) as group:
        one, *others = group
        for machine in group:
            machine.start()
        mesh_of(one, *others, roles=("admin", "member"))
        for other in others:
            other.wait(lambda seen: seen.batches > 1)
        wait_equal(group)
        for machine in group:
            machine.peer_with(*(other for other in group if other is not machine))
        with ExitStack() as stack:
            loads = {machine.name: stack.enter_context(Load(machine, writers=2, pace_s=PACE_S)) for machine in group}
            for _ in range(ROUNDS):
                victim = chance.choice(group)
                loads[victim.name].wait_for(chance.randint(1, ACKNOWLEDGED_MAX))
                time.sleep(chance.uniform(0, MOMENT_S))
                victim.kill()
                victim.start()
        assert [load.unforeseen for load in loads.values()] == [[], [], []], f"seed {SEED}"
        wait_equal(group)
        acknowledged = {receipt.batch for load in loads.values() for receipt in load.acknowledged}
        record_property("counts", f"kill -9: {ROUNDS} rounds, 3 daemons, {len(acknowledged)} acknowledged batches")
        authors = [machine.key().node for machine in group]  # one by one: an answer holds 10,000 batches
        for machine in group:
            held = {
                line.batch
                for author in authors
                for line in machine.client.get("/replica/batches", tuple[Batch, ...], limit=10_000, author=author)
            }
            assert not acknowledged - held, f"seed {SEED}: {machine.name} lost some"
            assert machine.status().frozen == (), f"seed {SEED}: {machine.name} equivocated against itself"
            before = machine.status().digest
            machine.x0t("replica", "rebuild", "--yes")
            assert machine.status().digest == before
