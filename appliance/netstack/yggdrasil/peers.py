"""Which members to dial: from what is known and measured to a few peers. Pure.

Members have one order, the same for everybody: relays first, then by age of certificate. Whoever dials a member that
comes before it is joined to the first of all by induction, so the mesh is one whole without anybody planning it.

A set of peers is better than another if, asked in this order, fewer of its peers fail; one comes before us; fewer share
a host; fewer are no relays; their cost is clearly lower. At most one peer is replaced at a time, and only for a better
set: every move goes down the same scale, so constant observations come to rest, and one changed value moves one peer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from appliance.netstack.yggdrasil.records import Candidate

UNMEASURED_MS: Final = 50.0  # round trip of who was never measured: a peer in the same country
_LOSS_MS: Final = 1_000.0  # what losing everything would cost
_CONSIDERED: Final = 64  # newcomers weighed at a time, the best of each host

Precedence: TypeAlias = tuple[bool, float, bytes]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a member. Times are of one monotonic clock, in seconds."""

    round_trip_ms: float | None = None
    loss: float = 0.0  # part of the time that a link was wanted and was not there, 0 to 1
    cost: float = 0.0  # what the daemon adds for a link that is not steady
    failed_at_s: float | None = None  # since when, or when last, it could not be reached; None: it can
    failures: int = 0  # in a row


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose. The margins are what a newcomer must save before a peer is given up for it."""

    count: int = 3  # two disjoint uplinks, and one that is there already when one of these goes
    margin_ms: float = 10.0
    margin_part: float = 0.3
    retry_s: float = 30.0  # for which a failed member counts as failing; doubled with each failure
    retry_max_s: float = 600.0


class Observations(msgspec.Struct, frozen=True):
    """Who we are, who the members are, and what was measured of them, by key."""

    own: Candidate
    members: tuple[Candidate, ...]
    measured: Mapping[bytes, Measured]


class _Entry(NamedTuple):
    key: bytes
    fails: bool
    order: Precedence
    host: str
    relay: bool
    cost_ms: float


_Grade = tuple[int, bool, int, int]


def choose(seen: Observations, current: Collection[bytes], now_s: float, how: Choice) -> frozenset[bytes]:
    """The keys of the members to dial, at most `how.count`. Never our own, none without an address."""
    known = {
        each.key: _entry(each, seen.measured.get(each.key, Measured()), now_s, how)
        for each in seen.members
        if each.uris and each.key != seen.own.key
    }
    kept = sorted((known[key] for key in current if key in known), key=_merit)[: how.count]
    place = precedence(seen.own)
    if len(kept) < how.count:
        return frozenset(entry.key for entry in _filled(kept, known, place, how.count))
    return frozenset(entry.key for entry in _moved(kept, known, place, how))


def invited(own: Candidate, members: Sequence[Candidate], newcomers: Iterable[Candidate], most: int = 3) -> list[bytes]:
    """Newcomers that we should dial, because a member that listens cannot let them in before it restarts.

    For each one the same few members feel called by everybody's reckoning: relays, or all that listen if there are too
    few; those nearest in a hash of both keys, so that the work is shared out.
    """
    listening = [each for each in members if each.uris]
    relays = [each for each in listening if each.relay]
    hosts = relays if len(relays) >= most else listening
    called = []
    for newcomer in newcomers:
        nearest = sorted(
            (hashlib.sha256(each.key + newcomer.key).digest(), each.key) for each in hosts if each.key != newcomer.key
        )
        if own.key in {key for _, key in nearest[:most]}:
            called.append(newcomer.key)
    return called


def _filled(kept: list[_Entry], known: Mapping[bytes, _Entry], place: Precedence, count: int) -> list[_Entry]:
    rest = [entry for entry in known.values() if entry not in kept]
    while rest and len(kept) < count:
        best = min(rest, key=lambda entry: (_grade([*kept, entry], place), _merit(entry)))
        kept = [*kept, best]
        rest.remove(best)
    return kept


def _moved(kept: list[_Entry], known: Mapping[bytes, _Entry], place: Precedence, how: Choice) -> list[_Entry]:
    """With one peer replaced, if that makes a better set."""
    now, best = _grade(kept, place), kept
    best_rank = (now, 0.0, b"")
    for newcomer in _newcomers(kept, known, place):
        for leaving in kept:
            others = [entry for entry in kept if entry is not leaving]
            grade = _grade([*others, newcomer], place)
            saved = leaving.cost_ms - newcomer.cost_ms
            if grade == now and saved <= max(how.margin_ms, how.margin_part * leaving.cost_ms):
                continue
            rank = (grade, -saved, newcomer.key)
            if grade <= now and rank < best_rank:
                best, best_rank = [*others, newcomer], rank
    return best


def _newcomers(kept: list[_Entry], known: Mapping[bytes, _Entry], place: Precedence) -> list[_Entry]:
    """The best of each host, and the best that comes before us."""
    best: dict[tuple[str, bool], _Entry] = {}
    for entry in known.values():
        slot = (entry.host, entry.order < place)
        if entry not in kept and (slot not in best or _merit(entry) < _merit(best[slot])):
            best[slot] = entry
    ranked = sorted(best.values(), key=_merit)
    before = [entry for entry in ranked if entry.order < place and not entry.fails]
    return ranked[:_CONSIDERED] + before[:1]


def _grade(peers: Sequence[_Entry], place: Precedence) -> _Grade:
    return (
        sum(entry.fails for entry in peers),
        not any(entry.order < place and not entry.fails for entry in peers),
        len(peers) - len({entry.host for entry in peers}),
        sum(not entry.relay for entry in peers),
    )


def _merit(entry: _Entry) -> tuple[bool, bool, float, bytes]:
    return entry.fails, not entry.relay, entry.cost_ms, entry.key


def _entry(member: Candidate, seen: Measured, now_s: float, how: Choice) -> _Entry:
    retry_s = min(how.retry_max_s, how.retry_s * 2.0 ** min(seen.failures - 1, 16)) if seen.failures else 0.0
    round_trip_ms = UNMEASURED_MS if seen.round_trip_ms is None else seen.round_trip_ms
    return _Entry(
        key=member.key,
        fails=seen.failed_at_s is not None and now_s < seen.failed_at_s + retry_s,
        order=precedence(member),
        host=_host(member.uris[0]),
        relay=member.relay,
        cost_ms=round_trip_ms + seen.cost + _LOSS_MS * seen.loss,
    )


def precedence(member: Candidate) -> Precedence:
    """The place of a member in the order that all share; lower comes before."""
    return not member.relay, member.since_s, member.key


def _host(uri: str) -> str:
    """The host of an address, without scheme and port."""
    return uri.partition("://")[2].rpartition(":")[0]
