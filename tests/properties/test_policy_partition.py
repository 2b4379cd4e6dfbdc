"""Laws of the two cuts: of services into ranges, and of the address space into stretches."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.prefix import Prefix
from appliance.policy.directory import Directory
from appliance.policy.evaluate import covers
from appliance.policy.model import Service
from appliance.policy.partition import partition
from appliance.policy.territory import Stretch, hosts, layers, merged, number, overlaid
from tests.policy_worlds import BORDER_PORTS, BORDERS, PREFIXES, directories, services

blocks = st.lists(st.sampled_from(PREFIXES), max_size=6)
stretches = st.lists(st.integers(0, 30), max_size=10, unique=True).map(
    lambda found: [Stretch(first, last - 1, first) for first, last in list(pairwise(sorted(found)))[::2]]
)


@given(st.lists(st.lists(services, min_size=1, max_size=4), max_size=5))
def test_a_range_carries_exactly_the_lists_that_hold_each_of_its_services(lists: list[list[Service]]) -> None:
    ranges = partition((1 << bit, found) for bit, found in enumerate(lists))
    for protocol in (0, 5, 6, 7, 17, 57, 58, 59, 132, 133, 255):
        for port in BORDER_PORTS:
            found = [
                mask
                for served, mask in ranges
                if served.protocol_first <= protocol <= served.protocol_last
                and served.port_first <= port <= served.port_last
            ]
            wanted = sum(
                1 << bit for bit, held in enumerate(lists) if any(covers(service, protocol, port) for service in held)
            )
            assert found == ([wanted] if wanted else [])


@given(blocks)
def test_nested_prefixes_are_cut_so_that_each_stretch_knows_all_that_cover_it(prefixes: list[Prefix]) -> None:
    found = layers(((prefix, frozenset({bit})) for bit, prefix in enumerate(prefixes)), frozenset.union)
    for address in BORDERS:
        here = [value for first, last, value in found if first <= number(address) <= last]
        wanted = {bit for bit, prefix in enumerate(prefixes) if address in prefix}
        assert here == ([wanted] if wanted else [])


@given(stretches, stretches)
def test_two_cuts_laid_over_one_another_know_both_values_everywhere(
    lower: list[Stretch[int]], upper: list[Stretch[int]]
) -> None:
    def value(cut: list[Stretch[int]], at: int) -> int | None:
        return next((found for first, last, found in cut if first <= at <= last), None)

    both = list(overlaid(lower, upper))
    for at in range(32):
        here = [found for first, last, found in both if first <= at <= last]
        wanted = value(lower, at), value(upper, at)
        assert here == ([] if wanted == (None, None) else [wanted])


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans()), max_size=8))
def test_neighbours_of_equal_value_become_one_and_nothing_moves(steps: list[tuple[int, int, bool]]) -> None:
    cut, at = [], 0
    for length, value, gap in steps:
        at += gap
        cut.append(Stretch(at, at + length - 1, value))
        at += length
    one = list(merged(cut))
    assert [(at, found.value) for found in one for at in range(found.first, found.last + 1)] == [
        (at, found.value) for found in cut for at in range(found.first, found.last + 1)
    ]
    assert all(before.last + 1 < after.first or before.value != after.value for before, after in pairwise(one))


@given(directories())
def test_a_host_is_where_the_directory_places_it(directory: Directory) -> None:
    found = hosts(directory)
    for address in BORDERS:
        place = directory.place(address)
        wanted = [place.node] if place is not None and place.subject.host is not None else []
        assert [gateway for first, last, gateway in found if first <= number(address) <= last] == wanted
