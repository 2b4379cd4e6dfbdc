"""Laws of the enforcer's pure parts: what is packed is parsed, a difference leads where it should, verdicts agree."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from appliance.netstack.nft import wire
from appliance.netstack.nft.difference import changes, element_differences
from appliance.netstack.nft.elements import chunks, pack, parse, raw_table
from appliance.netstack.nft.raw import NAMES, Raw, filter_of, raw_filter
from appliance.netstack.nft.verdict import Lookup
from appliance.policy.filter import Address, Filter, Grant, Interval, Key, ServiceRange

NOW_MS = 1_000_000
OWN = bytes(15) + b"\1"
LAST = 2**128 - 1

# Few and near one another, so that they meet; and the ends of what there is.
numbers = st.integers(0, 12) | st.integers(LAST - 3, LAST)
addresses = numbers.map(lambda number: number.to_bytes(16, "big"))
classes = st.integers(0, 5) | st.just(2**32 - 1)
ports = st.integers(0, 8) | st.integers(65_533, 65_535)
keys = st.builds(Key, classes, classes, classes)
untils = st.none() | st.integers(NOW_MS - 5_000, NOW_MS + 5_000)
grants = st.dictionaries(keys, untils.map(lambda until: Grant((), until)), max_size=8)


@st.composite
def intervals(draw: st.DrawFn) -> dict[Interval, int]:
    """Some that touch and none that overlap."""
    edges = sorted(draw(st.sets(numbers, max_size=8)))
    found: dict[Interval, int] = {}
    for first, end in zip(edges, [*edges, LAST + 1][1:], strict=True):
        if draw(st.booleans()):
            last = draw(st.integers(first, end - 1) | st.just(end - 1))
            found[first.to_bytes(16, "big"), last.to_bytes(16, "big")] = draw(classes)
    return found


@st.composite
def services(draw: st.DrawFn) -> dict[ServiceRange, int]:
    """Ranges that do not overlap: protocols apart, or ports."""
    found: dict[ServiceRange, int] = {}
    for first, last in ((0, 5), (6, 6), (7, 16), (17, 17), (18, 255)):
        edges = sorted(draw(st.sets(ports, max_size=4)))
        for low, end in zip(edges, [*edges, 65_536][1:], strict=True):
            found[ServiceRange(first, last, low, draw(st.integers(low, end - 1)))] = draw(classes)
    return found


filters = st.builds(
    Filter,
    own=st.just(OWN),
    peers=st.dictionaries(addresses, classes, max_size=8),
    peer_nets=intervals(),
    locals=intervals(),
    services=services(),
    inbound=grants,
    outbound=grants,
)


@given(filters)
def test_what_is_packed_is_parsed(wanted: Filter) -> None:
    raw = raw_filter(wanted, NOW_MS)
    for name in NAMES:
        for_good = {key: value if isinstance(value, bytes) else 0 for key, value in raw[name].items()}
        blocks = list(chunks(pack(name, for_good, NOW_MS)))
        assert all(len(block) <= 65_531 for block in blocks)
        assert raw_table(name, parse(blocks), NOW_MS) == for_good


@given(filters)
def test_raw_form_and_filter_say_the_same(wanted: Filter) -> None:
    raw = raw_filter(wanted, NOW_MS)
    assert raw_filter(filter_of(OWN, raw), NOW_MS) == raw


@given(filters, filters)
def test_a_difference_leads_from_one_filter_to_the_other(old: Filter, new: Filter) -> None:
    raw: Raw = raw_filter(old, NOW_MS)
    for change in changes(old, new, NOW_MS):
        for key, value in change.removed.items():
            assert raw[change.name].pop(key) == value
        assert not set(change.added) & set(raw[change.name])
        raw[change.name] |= change.added
    assert raw == raw_filter(new, NOW_MS)


@given(filters)
def test_a_filter_differs_from_itself_in_nothing(one: Filter) -> None:
    raw = raw_filter(one, NOW_MS)
    assert changes(one, one, NOW_MS) == []
    assert changes(one, filter_of(OWN, raw), NOW_MS) == []
    assert element_differences(raw, raw, NOW_MS, 0) == []


@given(filters, filters)
def test_raw_tables_differ_where_filters_do(old: Filter, new: Filter) -> None:
    before, after = raw_filter(old, NOW_MS), raw_filter(new, NOW_MS)
    assert (element_differences(before, after, NOW_MS, 0) == []) is (before == after)


@given(filters, addresses, addresses, st.integers(0, 255), ports)
def test_a_lookup_finds_what_a_search_finds(
    held: Filter, opener: Address, opened: Address, protocol: int, port: int
) -> None:
    def within(table: dict[Interval, int], address: Address) -> int | None:
        return next((number for (first, last), number in table.items() if first <= address <= last), None)

    def service() -> int | None:
        return next(
            (
                number
                for found, number in held.services.items()
                if found.protocol_first <= protocol <= found.protocol_last
                and found.port_first <= port <= found.port_last
            ),
            None,
        )

    peer = held.peers[opener] if opener in held.peers else within(held.peer_nets, opener)
    parts = peer, within(held.locals, opened), service()
    found = Lookup(held).inbound(opener, opened, protocol, port)
    assert found == (None if None in parts else Key(*parts))  # type: ignore[arg-type]  # none of them is None then


attributes = st.recursive(
    st.binary(max_size=9),
    lambda inner: st.lists(st.tuples(st.integers(1, 30), inner), max_size=4).map(
        lambda found: b"".join(wire.attribute(kind, value) for kind, value in found)
    ),
    max_leaves=6,
)


@given(attributes)
def test_attributes_agree_with_themselves_and_with_defaults_that_are_told(said: bytes) -> None:
    assert wire.agrees(said, said)
    assert wire.agrees(wire.nest(1, said, wire.number(30, 0)), wire.nest(1, said)) or not _is_list(said)


@given(attributes, st.integers(0, 200), st.integers(1, 255))
def test_any_changed_byte_is_a_difference(said: bytes, at: int, mask: int) -> None:
    if not said:
        return
    at %= len(said)
    other = said[:at] + bytes([said[at] ^ mask]) + said[at + 1 :]
    wanted, found = (
        wire.nest(1, wire.text(1, "name"), wire.attribute(2, said)),
        wire.nest(1, wire.text(1, "name"), wire.attribute(2, other)),
    )
    if wire.agrees(wanted, found):
        assert _meaning(said) == _meaning(other)


def _is_list(data: bytes) -> bool:
    try:
        return bool(list(wire.spans(data)))
    except ValueError:
        return False


def _meaning(data: bytes) -> object:
    """Attributes without padding, order between kinds, and what is all zero."""
    if not _is_list(data):
        return data
    said = [(kind, data[begin:end]) for kind, begin, end in wire.spans(data)]
    return sorted(((kind, _meaning(value)) for kind, value in said if any(value)), key=lambda one: one[0])


@given(st.binary(max_size=80))
def test_what_is_no_netlink_message_is_refused_and_nothing_worse(data: bytes) -> None:
    for read in (lambda: list(wire.messages(data)), lambda: wire.fields(data), lambda: list(parse([data]))):
        try:
            read()
        except (ValueError, struct.error):
            pass
