"""Who gains and who loses which flow when policy or directory change: exact, and grouped so that people can read it.

Subjects that no rule of either state tells apart are judged once; those whose flows change alike share a row. A flow
is in `gained` or `lost` exactly if `evaluate` says so of the two states, and its ends are at two nodes; strangers have
no flows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow
from appliance.policy.filter import ServiceRange
from appliance.policy.model import MAX_PORT, Policy
from appliance.policy.partition import partition
from appliance.policy.pieces import Groups, Pieces, PieceSet, active, bits
from appliance.policy.territory import Stretch, hosts, number, overlaid

Masks: TypeAlias = tuple[PieceSet, PieceSet]  # before and after
ServiceSet: TypeAlias = int  # ranges of services, by their place in the partition
ClassSet: TypeAlias = int  # classes of targets, by their number

SHOWN = 200  # changes of each kind, where nobody asks for more
_NOBODY = b"", False, 0


class State(NamedTuple):
    """What judges flows."""

    policy: Policy
    directory: Directory


class Span(msgspec.Struct, frozen=True, order=True):
    """A node, or a stretch of hosts behind one. Both ends included."""

    first: bytes
    last: bytes
    node: bytes
    host: bool

    def __contains__(self, address: bytes) -> bool:
        return self.first <= address <= self.last


class Change(msgspec.Struct, frozen=True, order=True):
    """Every flow from one of the sources to one of the targets, at another node, for one of the services."""

    sources: tuple[Span, ...]
    targets: tuple[Span, ...]
    services: tuple[ServiceRange, ...]

    def __contains__(self, flow: Flow) -> bool:
        return (
            any(flow.source in span for span in self.sources)
            and any(flow.target in span for span in self.targets)
            and any(
                served.protocol_first <= flow.protocol <= served.protocol_last
                and served.port_first <= flow.port <= served.port_last
                for served in self.services
            )
        )


class Preview(msgspec.Struct, frozen=True):
    """What changes; `left_out` counts the changes beyond the bound, of both kinds."""

    gained: tuple[Change, ...]
    lost: tuple[Change, ...]
    left_out: int = 0


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """What one node loses entirely: whom it exchanged anything with, and services that it used or offered anywhere."""

    peers: tuple[Span, ...] = ()
    used: tuple[ServiceRange, ...] = ()
    offered: tuple[ServiceRange, ...] = ()


def preview(before: State, after: State, now_ms: int, most: int = SHOWN) -> Preview:
    """What changes from one state to another, at a moment; for a single question. See `Comparison.changes`."""
    return Comparison(before, after, now_ms).changes(most)


def cuts_off(before: State, after: State, node: bytes, now_ms: int) -> CutOff:
    """What a node itself loses entirely; for a single question. See `Comparison.cut_off`."""
    return Comparison(before, after, now_ms).cut_off(node)


class End(NamedTuple):
    """Addresses that are alike in both states: the pieces that lead away from them, and those that lead here."""

    span: Span
    away: Masks
    here: Masks


class Row(NamedTuple):
    """A change before it is spelt out."""

    sources: list[Span]
    targets: ClassSet
    services: ServiceSet


_Rows: TypeAlias = dict[tuple[ClassSet, ServiceSet], list[Span]]


class Comparison:
    """Two states side by side: one numbering of rules, one cut of the address space, one of services."""

    def __init__(self, before: State, after: State, now_ms: int) -> None:
        rules = [active(state.policy.rules, now_ms) for state in (before, after)]
        self._pieces = Pieces({**rules[0], **rules[1]})
        held = [0, 0]
        for bit, piece in enumerate(self._pieces.pieces):
            for side in (0, 1):
                held[side] |= (piece.rule in rules[side]) << bit
        self._held: Masks = held[0], held[1]
        self._ends = [
            End(span, self._masks(groups, self._pieces.opened_by), self._masks(groups, self._pieces.open_to))
            for span, groups in self._spans(before.directory, after.directory)
        ]
        lists = partition((1 << bit, services) for bit, services in enumerate(self._pieces.services))
        self._ranges = [served for served, _ in lists]
        self._in_list: list[ServiceSet] = [0] * len(self._pieces.services)  # by list of services
        for service, (_, mask) in enumerate(lists):
            for listed in bits(mask):
                self._in_list[listed] |= 1 << service
        self._allowed: dict[PieceSet, ServiceSet] = {}

    def _spans(self, before: Directory, after: Directory) -> Iterator[tuple[Span, tuple[Groups, Groups]]]:
        """The addresses that mean somebody in either state, with their groups in both; a stranger has none."""
        for first, last, (old, new) in overlaid(self._land(before), self._land(after)):
            node, host = (new or old or _NOBODY)[:2]
            span = Span(*Stretch(first, last, None).interval, node, host)
            yield span, (old[2] if old else 0, new[2] if new else 0)

    def _land(self, directory: Directory) -> list[Stretch[tuple[bytes, bool, Groups]]]:
        """Node, whether it is hosts behind it that are meant, and groups."""
        members = [(number(address), member) for address, member in directory.by_address.items()]
        return sorted(
            [
                Stretch(at, at, (member.node, False, self._pieces.node_groups(member.tags, member.node)))
                for at, member in members
            ]
            + [
                Stretch(first, last, (gateway, True, groups))
                for first, last, (gateway, groups) in self._pieces.host_groups(hosts(directory))
            ]
        )

    def _masks(self, groups: tuple[Groups, Groups], leads: Callable[[Iterable[int]], PieceSet]) -> Masks:
        before = leads(bits(groups[0]))
        after = before if groups[0] == groups[1] else leads(bits(groups[1]))
        return before & self._held[0], after & self._held[1]

    def _allows(self, pieces: PieceSet) -> ServiceSet:
        """The ranges that one of the pieces allows and none denies."""
        known = self._allowed.get(pieces)
        if known is None:
            allowing, denying = pieces & self._pieces.allowing, pieces & self._pieces.denying
            known = self._served(allowing) & ~self._served(denying) if allowing else 0
            self._allowed[pieces] = known
        return known

    def changes(self, most: int = SHOWN) -> Preview:
        """What is gained and what is lost: at most so many changes of each, the widest first."""
        reached = _by_key((end.here, end.span) for end in self._ends)
        here = list(reached.values())
        shown: list[tuple[Change, ...]] = []
        left_out = 0
        for side in self._rows(_by_key((end.away, end.span) for end in self._ends), list(reached)):
            rows = [row for row in side if _crosses(row, here)]
            rows.sort(key=lambda row: (-len(row.sources) * row.targets.bit_count(), row))
            left_out += len(rows[most:])
            shown.append(tuple(self._spelt(row, here) for row in rows[:most]))
        gained, lost = shown
        return Preview(gained, lost, left_out)

    def _rows(self, away: Mapping[Masks, list[Span]], here: Sequence[Masks]) -> tuple[list[Row], list[Row]]:
        """For each class of sources and each range of services, the classes of targets that it gains and loses.

        Sets of targets are masks, so a class costs as many steps as it has rules, however many targets there are.
        """
        targets = [self._targets([masks[side] for masks in here]) for side in (0, 1)]
        unsettled = sum((old != new) << piece for piece, (old, new) in enumerate(zip(*targets, strict=True)))
        found: tuple[_Rows, _Rows] = defaultdict(list), defaultdict(list)
        for masks, spans in away.items():
            moved = masks[0] ^ masks[1] | (masks[0] | masks[1]) & unsettled
            if not moved:
                continue
            services = self._served(moved)
            old, new = (self._reach(masks[side], services, targets[side]) for side in (0, 1))
            for rows, wider, narrower in ((found[0], new, old), (found[1], old, new)):
                changed: dict[ClassSet, ServiceSet] = defaultdict(int)
                for service, reached in wider.items():
                    changed[reached & ~narrower.get(service, 0)] |= 1 << service
                changed.pop(0, None)
                for row in changed.items():
                    rows[row] += spans
        gained, lost = ([Row(sorted(spans), *key) for key, spans in rows.items()] for rows in found)
        return gained, lost

    def _targets(self, here: Sequence[PieceSet]) -> list[ClassSet]:
        """By piece: the classes of targets that it leads to."""
        found: list[ClassSet] = [0] * len(self._pieces.pieces)
        for place, pieces in enumerate(here):
            for piece in bits(pieces):
                found[piece] |= 1 << place
        return found

    def _reach(self, pieces: PieceSet, services: ServiceSet, targets: Sequence[ClassSet]) -> dict[int, ClassSet]:
        """By range of services: the classes of targets that one of the pieces allows and none denies."""
        allowed: dict[int, ClassSet] = defaultdict(int)
        denied: dict[int, ClassSet] = defaultdict(int)
        for piece in bits(pieces):
            into = allowed if self._pieces.allowing >> piece & 1 else denied
            for service in bits(services & self._in_list[self._pieces.pieces[piece].services]):
                into[service] |= targets[piece]
        return {service: reached & ~denied.get(service, 0) for service, reached in allowed.items()}

    def _served(self, pieces: PieceSet) -> ServiceSet:
        found = 0
        for piece in bits(pieces):
            found |= self._in_list[self._pieces.pieces[piece].services]
        return found

    def _spelt(self, row: Row, here: Sequence[list[Span]]) -> Change:
        targets = sorted(span for number in bits(row.targets) for span in here[number])
        return Change(tuple(row.sources), tuple(targets), self._named(row.services))

    def _named(self, services: ServiceSet) -> tuple[ServiceRange, ...]:
        return joined(self._ranges[bit] for bit in bits(services))

    def cut_off(self, node: bytes) -> CutOff:
        """What a node itself loses entirely, not the hosts behind it. Everything if it is no member any more."""
        own = [end for end in self._ends if end.span.node == node and not end.span.host]
        others = [end for end in self._ends if end.span.node != node]
        used, offered, touch = _Loss(), _Loss(), defaultdict[object, _Loss](_Loss)
        for near in own:
            for far in others:
                exchanged = touch[far.span if far.span.host else far.span.node]
                exchanged.span = far.span
                for loss, away, here in ((used, near.away, far.here), (offered, far.away, near.here)):
                    before, after = (self._allows(away[side] & here[side]) for side in (0, 1))
                    loss.add(before, after)
                    exchanged.add(before, after)
        lost = {loss.span for loss in touch.values() if loss.before and not loss.after and loss.span is not None}
        return CutOff(
            peers=tuple(sorted(lost)),
            used=self._named(used.before & ~used.after),
            offered=self._named(offered.before & ~offered.after),
        )


def _by_key(ends: Iterable[tuple[Masks, Span]]) -> dict[Masks, list[Span]]:
    found: dict[Masks, list[Span]] = defaultdict(list)
    for masks, span in ends:
        found[masks].append(span)
    return found


def _crosses(row: Row, here: Sequence[list[Span]]) -> bool:
    """True if some of its flows have their ends at two nodes."""
    node = row.sources[0].node
    return any(span.node != node for span in row.sources) or any(
        span.node != node for number in bits(row.targets) for span in here[number]
    )


class _Loss:
    """Services that were allowed with anybody before, and are with anybody after."""

    def __init__(self) -> None:
        self.before: ServiceSet = 0
        self.after: ServiceSet = 0
        self.span: Span | None = None

    def add(self, before: ServiceSet, after: ServiceSet) -> None:
        self.before |= before
        self.after |= after


def joined(ranges: Iterable[ServiceRange]) -> tuple[ServiceRange, ...]:
    """Neighbouring ranges as one: ports of a protocol first, then protocols whose ports are whole."""
    found: list[ServiceRange] = []
    for served in ranges:
        before = found[-1] if found else None
        if before is not None and before[:2] == served[:2] and before.port_last + 1 == served.port_first:
            found[-1] = before._replace(port_last=served.port_last)
        else:
            found.append(served)
    whole: list[ServiceRange] = []
    for served in found:
        before = whole[-1] if whole else None
        if (
            before is not None
            and before[2:] == served[2:] == (0, MAX_PORT)
            and before.protocol_last + 1 == served.protocol_first
        ):
            whole[-1] = before._replace(protocol_last=served.protocol_last)
        else:
            whole.append(served)
    return tuple(whole)
