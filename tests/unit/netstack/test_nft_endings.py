"""Whose conversations are owed: many filters are remembered as few, which know the same conversations."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.prefix import parse_address
from appliance.netstack.nft.endings import who_is_who
from appliance.netstack.nft.verdict import Lookup
from appliance.policy.filter import Filter, Interval

OWN, ANNA, BERT, CLEO = (parse_address(text) for text in ("200::1", "200::2", "200::3", "200::4"))
HERE, THERE = parse_address("fd07::5"), parse_address("fd08::5")
NET_HERE: Interval = (parse_address("fd07::"), parse_address("fd07::ffff"))
NET_THERE: Interval = (parse_address("fd08::"), parse_address("fd08::ffff"))

nets = st.lists(st.sampled_from([NET_HERE, NET_THERE]), unique=True).map(lambda found: dict.fromkeys(found, 9))
filters = st.builds(
    lambda peers, far, near: Filter(own=OWN, peers=peers, peer_nets=far, locals=near | {(OWN, OWN): 3}),
    st.lists(st.sampled_from([ANNA, BERT, CLEO]), unique=True).map(lambda found: dict.fromkeys(found, 5)),
    nets,
    nets,
)


@given(st.lists(filters, max_size=6), st.integers(0, 6))
def test_the_few_know_the_conversations_that_all_knew_and_no_others(found: list[Filter], cut: int) -> None:
    few = who_is_who(who_is_who((), found[:cut], len(found)), found[cut:], len(found)) if found else ()
    for ends in product((OWN, ANNA, BERT, CLEO, HERE, THERE), repeat=2):
        assert any(Lookup(one).concerns(*ends) for one in few) == any(Lookup(one).concerns(*ends) for one in found)


def test_filters_that_differ_in_members_are_one_and_of_the_rest_the_oldest_go() -> None:
    members = [Filter(own=OWN, peers={each: 5}) for each in (ANNA, BERT, CLEO)]
    (one,) = who_is_who((), members, 8)
    assert set(one.peers) == {ANNA, BERT, CLEO}
    moved = [Filter(own=OWN, peer_nets=net) for net in ({NET_HERE: 9}, {NET_THERE: 9}, {NET_HERE: 9, NET_THERE: 9})]
    assert [one.peer_nets for one in who_is_who((), moved, 2)] == [one.peer_nets for one in moved[1:]]
