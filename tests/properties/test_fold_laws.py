"""The laws of the fold: the state is a function of the set of batches, and says what the oracle says.

Histories come from tapes (tests/sim/histories.py), in which every member may be hostile. A failure prints the shortest
history that shows it.
"""

from __future__ import annotations

import contextlib
import random
from itertools import zip_longest

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.errors import InputError, IntegrityError
from appliance.replica.batch import SignedBatch
from tests.sim.histories import History
from tests.sim.laws import deliver, differences, disagreements, hold

TAPES = st.integers(0, 2**48).map(lambda seed: random.Random(seed).randbytes(20 + seed % 200))
ORDERS = st.randoms(use_true_random=False)


@given(TAPES)
def test_every_entry_has_the_effect_that_the_oracle_gives_it(tape: bytes) -> None:
    hold(History, tape, lambda history: disagreements(history.all_seeing, history.oracle()))


@given(TAPES, st.integers(0, 2**32))
def test_any_order_of_arrival_in_any_grouping_gives_the_same_rows(tape: bytes, seed: int) -> None:
    def law(history: History) -> list[str]:
        replica = history.mesh.replica()
        deliver(replica, history.batches, random.Random(seed))
        return differences(history.all_seeing, replica)

    hold(History, tape, law)


@given(TAPES, st.integers(0, 2**32))
def test_a_restart_at_any_moment_changes_nothing(tape: bytes, seed: int) -> None:
    def law(history: History) -> list[str]:
        rng, replica = random.Random(seed), history.mesh.replica()
        for batch in history.batches:
            replica.take(batch)
            if rng.random() < 0.2:
                before = replica.dump()
                replica.restart()
                if replica.dump() != before:
                    return [f"the restart after {batch.hash.hex()[:6]} changed a row"]
        return differences(history.all_seeing, replica)

    hold(History, tape, law)


@given(TAPES)
def test_a_view_built_anew_from_the_log_is_the_one_that_grew_step_by_step(tape: bytes) -> None:
    def law(history: History) -> list[str]:
        before = list(history.all_seeing.view.dump_all())  # index and journal too
        history.all_seeing.rebuild()
        after = list(history.all_seeing.view.dump_all())
        return [f"{left} and then {right}" for left, right in zip_longest(before, after) if left != right]

    hold(History, tape, law)


@settings(max_examples=30)
@given(TAPES, ORDERS)
def test_a_batch_that_was_tampered_with_is_refused_and_changes_nothing(tape: bytes, rng: random.Random) -> None:
    history = History(tape)
    replica, before = history.all_seeing, history.all_seeing.dump()
    for batch in history.batches:
        blob = bytearray(batch.blob)
        for _ in range(rng.randint(1, 3)):
            blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
        with contextlib.suppress(InputError, IntegrityError):  # most have no longer the form of a batch
            assert not replica.take(SignedBatch(b"", bytes(blob), b"", b"", batch.batch)).admitted
    assert replica.dump() == before
