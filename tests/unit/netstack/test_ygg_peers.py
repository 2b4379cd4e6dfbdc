"""Laws of the choice of peers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.netstack.yggdrasil.peers import Choice, Measured, Observations, choose, invited
from appliance.netstack.yggdrasil.records import Candidate

HOW = Choice(count=3)
NOW_S = 1_000.0


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def member(number: int, *, relay: bool = False, host: str = "", since_s: float = 0.0) -> Candidate:
    return Candidate(
        key=key(number), uris=(f"tls://{host or f'host{number}'}:7331",), relay=relay, since_s=since_s or float(number)
    )


measured = st.builds(
    Measured,
    round_trip_ms=st.none() | st.floats(0, 400),
    loss=st.floats(0, 1),
    cost=st.floats(0, 100),
    failed_at_s=st.none() | st.floats(0, NOW_S),
    failures=st.integers(0, 8),
)


@st.composite
def views(draw: st.DrawFn) -> Observations:
    count = draw(st.integers(0, 12))
    members = tuple(
        Candidate(
            key=key(n),
            uris=draw(st.sampled_from([(), (f"tls://host{n}:1",), (f"tls://host{n % 3}:{n}",)])),
            relay=draw(st.booleans()),
            since_s=draw(st.floats(0, 100)),
        )
        for n in range(1, count + 1)
    )
    own = draw(st.sampled_from([*members, member(999, since_s=50.0)]))
    return Observations(own, members, {each.key: draw(measured) for each in members})


def at_rest(view: Observations, current: frozenset[bytes] = frozenset()) -> frozenset[bytes]:
    """Choose until nothing moves; what was left is never chosen again."""
    seen = [current]
    for _ in range(60):
        chosen = choose(view, current, NOW_S, HOW)
        if chosen == current:
            return chosen
        assert chosen not in seen, "it goes in circles"
        seen.append(chosen)
        current = chosen
    raise AssertionError("it does not come to rest")


@given(views(), st.sets(st.integers(0, 14).map(key), max_size=5))
def test_it_comes_to_rest_from_everywhere(view: Observations, current: set[bytes]) -> None:
    at_rest(view, frozenset(current))


@given(views(), st.sets(st.integers(0, 14).map(key), max_size=5))
def test_the_chosen_are_members_with_an_address_within_the_bound_and_never_ourselves(
    view: Observations, current: set[bytes]
) -> None:
    chosen = choose(view, current, NOW_S, HOW)
    possible = {each.key for each in view.members if each.uris} - {view.own.key}
    assert chosen <= possible
    assert len(chosen) == min(HOW.count, len(possible))


@given(views(), st.data())
def test_a_change_of_one_value_moves_at_most_one_peer(view: Observations, data: st.DataObject) -> None:
    before = at_rest(view)
    if not view.measured:
        return
    changed = data.draw(st.sampled_from(sorted(view.measured)))
    view = Observations(view.own, view.members, {**view.measured, changed: data.draw(measured)})
    after = choose(view, before, NOW_S, HOW)
    assert (len(after - before), len(before - after)) in {(0, 0), (1, 1)}


@given(views(), st.randoms())
def test_the_order_of_the_members_does_not_matter(view: Observations, random: object) -> None:
    shuffled = list(view.members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert at_rest(view) == at_rest(msgspec.structs.replace(view, members=tuple(shuffled)))


@given(views())
def test_a_small_difference_moves_nobody(view: Observations) -> None:
    before = at_rest(view)
    shaken = {
        each: msgspec.structs.replace(seen, cost=max(0.0, seen.cost + (-2.0 if each in before else 2.0)))
        for each, seen in view.measured.items()
    }
    outside = {each: seen for each, seen in shaken.items() if each not in before}
    assert choose(Observations(view.own, view.members, {**view.measured, **outside}), before, NOW_S, HOW) == before


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), min_size=1, max_size=12), st.data())
def test_the_choices_of_all_members_join_them_into_one_mesh(
    facts: list[tuple[bool, float]], data: st.DataObject
) -> None:
    """Whatever each one measured: nothing but the order of certificates is shared."""
    members = tuple(member(n, relay=relay, since_s=since_s + 1) for n, (relay, since_s) in enumerate(facts, start=1))
    healthy = st.builds(Measured, round_trip_ms=st.floats(0, 400))
    joined = {members[0].key}
    edges = set()
    for own in members:
        seen = {each.key: data.draw(healthy) for each in members}
        edges |= {(own.key, other) for other in at_rest(Observations(own, members, seen))}
    while grown := {b for a, b in edges if a in joined} | {a for a, b in edges if b in joined}:
        if grown <= joined:
            break
        joined |= grown
    assert joined == {each.key for each in members}


def test_two_uplinks_are_on_two_hosts_where_there_are_two() -> None:
    members = (*(member(n, host="same", relay=True) for n in range(1, 5)), member(9, relay=True))
    seen = {each.key: Measured(round_trip_ms=1.0) for each in members[:4]} | {key(9): Measured(round_trip_ms=300.0)}
    assert key(9) in at_rest(Observations(member(50), members, seen))


def test_relays_come_first_and_who_fails_comes_last() -> None:
    members = (*(member(n, relay=True) for n in (1, 2, 3)), *(member(n) for n in (4, 5, 6)))
    seen = {key(n): Measured(round_trip_ms=100.0) for n in (1, 2, 3)} | {
        key(n): Measured(round_trip_ms=1.0) for n in (4, 5, 6)
    }
    assert at_rest(Observations(member(50), members, seen)) == {key(1), key(2), key(3)}
    seen[key(2)] = Measured(failed_at_s=NOW_S - 1, failures=1)
    assert key(2) not in at_rest(Observations(member(50), members, seen))


@pytest.mark.parametrize(
    "ago_s, failures, chosen", [(10, 1, False), (40, 1, True), (40, 2, False), (599, 9, False), (601, 9, True)]
)
def test_a_failed_peer_is_left_alone_twice_as_long_each_time(ago_s: float, failures: int, chosen: bool) -> None:
    members = tuple(member(n) for n in range(1, 5))
    seen = {key(1): Measured(failed_at_s=NOW_S - ago_s, failures=failures, round_trip_ms=1.0)}
    assert (key(1) in at_rest(Observations(member(50), members, seen))) == chosen


@pytest.mark.parametrize("relays", [0, 2, 3, 8])
def test_each_newcomer_is_called_by_the_same_three_members_by_everybodys_reckoning(relays: int) -> None:
    members = [member(n, relay=n <= relays) for n in range(1, 21)]
    newcomers = [Candidate(key=key(n)) for n in range(100, 110)]
    called = {each.key: invited(each, members, newcomers) for each in members}
    for newcomer in newcomers:
        callers = {caller for caller, keys in called.items() if newcomer.key in keys}
        assert len(callers) == 3
        assert relays < 3 or callers <= {key(n) for n in range(1, relays + 1)}
