"""States of a node: the whole table, said once more in words, and what must hold of any such table."""

from __future__ import annotations

import pytest

from appliance.replica.admission_states import TABLE, Event, State, after

ENDS = "revoke: revoked, evict: evicted, ban: banned"
ASKS = "enrol: pending, ask: requested, exceed: held"
EVIDENCE = "want: wanted, accept: pending, refuse: rejected"
COURSE = {
    State.UNKNOWN: f"{ASKS}, certify: approved, orphan: suspended, ban: banned",
    State.REQUESTED: f"{ENDS}, {EVIDENCE}, reject: rejected",
    State.WANTED: f"{ENDS}, {EVIDENCE}, reject: rejected",
    State.PENDING: f"{ENDS}, certify: approved, reject: rejected, suspend: held",
    State.APPROVED: f"{ENDS}, certify: approved, suspend: suspended",
    State.REJECTED: f"{ASKS}, reject: rejected, resume: pending, ban: banned",
    State.HELD: f"{ENDS}, enrol: pending, ask: requested, certify: suspended, reject: rejected, suspend: held, "
    "resume: pending",
    State.SUSPENDED: f"{ENDS}, certify: suspended, suspend: suspended, resume: approved",
    State.REVOKED: f"{ENDS}, {ASKS}, certify: approved",
    State.EVICTED: f"{ASKS}, revoke: evicted, evict: evicted, ban: banned",
    State.BANNED: "revoke: banned, evict: banned, ban: banned, unban: evicted",
}
OUT = {State.REJECTED, State.HELD, State.SUSPENDED, State.REVOKED, State.EVICTED, State.BANNED}


@pytest.mark.parametrize("state", State)
def test_in_each_state_these_events_have_effect_and_no_others(state: State) -> None:
    wanted = dict(pair.split(": ") for pair in COURSE[state].split(", "))
    assert {event.value: found.value for event in Event if (found := after(state, event))} == wanted


def test_a_node_becomes_a_member_by_a_certificate_or_by_the_return_of_one() -> None:
    ways = {event for state, events in TABLE.items() for event, to in events.items() if to is State.APPROVED}
    assert ways == {Event.CERTIFY, Event.RESUME}
    assert TABLE[State.SUSPENDED][Event.RESUME] is State.APPROVED
    assert [state for state in State if after(state, Event.RESUME) is State.APPROVED] == [State.SUSPENDED]


def test_who_is_out_comes_back_by_nothing_that_it_could_do_by_itself_alone() -> None:
    own = (Event.ENROL, Event.ASK, Event.EXCEED)
    assert State.APPROVED not in {after(state, event) for state in OUT for event in own}
    assert {after(State.BANNED, event) for event in own} == {None}


def test_evicted_and_banned_nodes_are_not_certified_without_a_new_enrolment() -> None:
    assert [after(state, Event.CERTIFY) for state in (State.EVICTED, State.BANNED, State.REJECTED)] == [None] * 3


def test_whether_a_suspended_node_was_certified_is_not_shown_in_its_state() -> None:
    assert {state.shown for state in (State.HELD, State.SUSPENDED)} == {"suspended"}
    assert all(state.shown == state.value for state in State if state is not State.HELD)
