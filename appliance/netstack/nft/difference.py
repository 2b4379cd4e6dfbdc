"""What separates two filters, and what separates a table in the kernel from the one that is wanted. Pure.

Two filters that share tables, as one compiled by increment does with the one before it, are compared in the time that
their changed tables take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, TypeVar

from appliance.core.prefix import address_text
from appliance.netstack.nft import wire
from appliance.netstack.nft.raw import (
    GRANTS,
    INTERVALS,
    MEMORY,
    NAMES,
    Raw,
    RawKey,
    RawTable,
    RawValue,
    raw_grant,
    raw_key,
    raw_value,
)
from appliance.netstack.nft.skeleton import Layout
from appliance.netstack.nft.verdict import Lookup
from appliance.policy.enforcement import Difference
from appliance.policy.filter import ClassId, Filter, Grant, Key

DIFFERENCES_SHOWN = 64  # one damaged element is enough to act; the rest is for the eye
_K = TypeVar("_K")
_V = TypeVar("_V")


class Change(NamedTuple):
    """What of one set must go and what must come. A changed value goes and comes."""

    name: str
    removed: RawTable
    added: RawTable


def changes(old: Filter, new: Filter, now_ms: int, slack_ms: int = 0) -> list[Change]:
    """What turns one filter into the other; grants that have ended are in neither.

    Ends of grants that are no farther apart than the slack count as equal: the kernel tells them to some ms.
    """
    found = [
        _plain("peers", old.peers, new.peers),
        _plain("peer_nets", old.peer_nets, new.peer_nets),
        _plain("locals", old.locals, new.locals),
        _plain("services", old.services, new.services),
        _granted("inbound", (old.inbound, new.inbound), now_ms, slack_ms),
        _granted("outbound", (old.outbound, new.outbound), now_ms, slack_ms),
    ]
    return [change for change in found if change.removed or change.added]


def _plain(name: str, old: Mapping[_K, ClassId], new: Mapping[_K, ClassId]) -> Change:
    gone, come, other = _keys(old, new)
    return Change(
        name,
        _raw(old, (*gone, *other)),
        _raw(new, (*come, *other)),
    )


def _raw(table: Mapping[_K, ClassId], keys: Iterable[_K]) -> RawTable:
    return {raw_key(key): raw_value(table[key]) for key in keys}  # type: ignore[arg-type]  # a key of one of the tables


def _granted(name: str, tables: tuple[Mapping[Key, Grant], Mapping[Key, Grant]], now_ms: int, slack_ms: int) -> Change:
    old, new = tables
    gone, come, other = _keys(old, new)
    moved = [key for key in other if not _same_end(old[key].until_ms, new[key].until_ms, slack_ms)]
    return Change(
        name,
        {raw_grant(key): old[key].until_ms or 0 for key in (*gone, *moved) if _lasts(old[key], now_ms)},
        {raw_grant(key): new[key].until_ms or 0 for key in (*come, *moved) if _lasts(new[key], now_ms)},
    )


def _keys(old: Mapping[_K, _V], new: Mapping[_K, _V]) -> tuple[set[_K], set[_K], list[_K]]:
    """Keys that go, keys that come, and keys whose value changes.

    Twenty thousand equal entries take a millisecond, because no key is hashed again: the loop is for the rest.
    """
    if old is new:
        return set(), set(), []
    gone, come = set(old).difference(new), set(new).difference(old)
    hoped = {**old, **{key: new[key] for key in come}}
    for key in gone:
        del hoped[key]
    return gone, come, [] if hoped == new else [key for key, value in hoped.items() if value != new[key]]


def _lasts(grant: Grant, now_ms: int) -> bool:
    return grant.until_ms is None or grant.until_ms > now_ms


def _same_end(one: int | None, other: int | None, slack_ms: int) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= slack_ms


# ---- the kernel


def layout_differences(wanted: Layout, found: Layout) -> list[Difference]:
    """Objects of the table that are missing, foreign, or not what they should be."""
    different = []
    for label in wanted | found:
        left, right = wanted.get(label), found.get(label)
        if left is None or right is None or not wire.agrees(left, right):
            different.append(Difference(label, _object(left), _object(right)))
    return different


def element_differences(wanted: Raw, found: Raw, now_ms: int, slack_ms: int) -> list[Difference]:
    """Elements that are missing, foreign or of another value; at most as many as are shown."""
    return list(islice(_element_differences(wanted, found, now_ms, slack_ms), DIFFERENCES_SHOWN))


def memory_differences(lookup: Lookup, name: str, found: Iterable[tuple[RawKey, RawValue]]) -> Iterator[Difference]:
    """What is remembered of conversations otherwise than the maps say."""
    judge = lookup.inbound if name == "known_inbound" else lookup.outbound
    for opening, value in found:
        source, target, protocol, port = MEMORY.unpack(opening)
        key = judge(source, target, protocol, port)
        if key is None or raw_grant(key) != value:
            ends = f"{address_text(source)} {address_text(target)} {protocol} {port}"
            yield Difference(f"{name} {ends}", "nothing" if key is None else raw_grant(key).hex(), _value_text(value))


def _element_differences(wanted: Raw, found: Raw, now_ms: int, slack_ms: int) -> Iterator[Difference]:
    for name in NAMES:
        left, right = wanted.get(name, {}), found.get(name, {})
        if left == right:
            continue
        for key in left | right:
            one, other = left.get(key), right.get(key)
            if one != other and not _nearly(one, other, now_ms, slack_ms):
                yield Difference(f"{name} {_key_text(name, key)}", _value_text(one), _value_text(other))


def _nearly(one: RawValue | None, other: RawValue | None, now_ms: int, slack_ms: int) -> bool:
    """True for ends of a grant that are the same moment, or one that the kernel has just taken away."""
    if isinstance(one, int) and isinstance(other, int):
        return bool(one and other) and abs(one - other) <= slack_ms
    end = one if isinstance(one, int) else other
    return isinstance(end, int) and (one is None or other is None) and 0 < end <= now_ms + slack_ms


def _object(attributes: bytes | None) -> str:
    return "nothing" if attributes is None else attributes.hex()


def _key_text(name: str, key: RawKey) -> str:
    if name == "peers":
        return address_text(key)
    if name in INTERVALS:
        return f"{address_text(key[:16])}-{address_text(key[16:])}"
    if name in GRANTS:
        return ".".join(key[at : at + 4].hex() for at in (0, 4, 8))
    return key.hex()


def _value_text(value: RawValue | None) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return f"class {value.hex()}" if value else "there"
    return f"until {value}" if value else "for good"
