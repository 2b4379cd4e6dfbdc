"""The laws of admission: how every node stands follows from the set of batches, and is what the oracle says.

Histories come from tapes (tests/sim/admission_histories.py): islands that redeem one token, enrolments that arrive
late, issuers, approvers and gateways who are revoked afterwards, logs that fork, checkpoints that close the past.
"""

from __future__ import annotations

import random
from itertools import zip_longest

from hypothesis import given
from hypothesis import strategies as st

from tests.sim.admission_histories import AdmissionHistory
from tests.sim.admission_laws import intruders, overdrawn, unentitled
from tests.sim.histories import History
from tests.sim.laws import deliver, differences, disagreements, hold
from tests.sim.world import START_MS

TAPES = st.integers(0, 2**48).map(lambda seed: random.Random(seed).randbytes(30 + seed % 270))


@given(TAPES)
def test_how_nodes_stand_is_what_the_oracle_says(tape: bytes) -> None:
    hold(AdmissionHistory, tape, lambda history: disagreements(history.all_seeing, history.oracle()))


@given(TAPES, st.integers(0, 2**32))
def test_any_order_of_arrival_in_any_grouping_gives_the_same_rows(tape: bytes, seed: int) -> None:
    def law(history: History) -> list[str]:
        replica = history.mesh.replica()
        deliver(replica, history.batches, random.Random(seed))
        admitted = [it.engine.authority.admitted for it in (replica, history.all_seeing)]
        return differences(history.all_seeing, replica) + ["who is admitted"] * (admitted[0] != admitted[1])

    hold(AdmissionHistory, tape, law)


@given(TAPES, st.integers(0, 2**32))
def test_a_restart_at_any_moment_changes_nothing(tape: bytes, seed: int) -> None:
    def law(history: History) -> list[str]:
        rng, replica = random.Random(seed), history.mesh.replica()
        for batch in history.batches:
            replica.take(batch)
            if rng.random() < 0.2:
                before = (replica.dump(), replica.engine.authority.admitted)
                replica.restart()
                if (replica.dump(), replica.engine.authority.admitted) != before:
                    return [f"the restart after {batch.hash.hex()[:6]} changed something"]
        return differences(history.all_seeing, replica)

    hold(AdmissionHistory, tape, law)


@given(TAPES)
def test_a_view_built_anew_from_the_log_is_the_one_that_grew_step_by_step(tape: bytes) -> None:
    def law(history: History) -> list[str]:
        before = list(history.all_seeing.view.dump_all())  # index and journal too
        history.all_seeing.rebuild()
        after = list(history.all_seeing.view.dump_all())
        return [f"{left} and then {right}" for left, right in zip_longest(before, after) if left != right]

    hold(AdmissionHistory, tape, law)


@given(TAPES)
def test_who_is_not_approved_has_no_place_in_the_network_but_by_a_grant(tape: bytes) -> None:
    hold(AdmissionHistory, tape, lambda history: intruders(history.all_seeing.engine, START_MS + 1000))


@given(TAPES)
def test_no_token_carries_more_nodes_than_it_has_uses(tape: bytes) -> None:
    hold(AdmissionHistory, tape, lambda history: overdrawn(history.all_seeing.engine))


@given(TAPES)
def test_no_certificate_counts_without_an_entitled_approver_in_its_past(tape: bytes) -> None:
    hold(AdmissionHistory, tape, lambda history: unentitled(history.all_seeing.engine, history.oracle()))
