"""A policy as one place on the mesh sees it: the node there, and the hosts behind it. The last step of `compile`.

Only groups that a rule joins to this place tell far ends apart here; far ends that the same of them select are a
class. Classes, and the entries of each, are kept from one filter to the next. The view knows no names and no tags but
as keys to what it keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Final, NamedTuple, TypeAlias

from appliance.core.errors import error
from appliance.core.limits import Limits
from appliance.policy.filter import Address, ClassId, Filter, Grant, Key, ServiceRange
from appliance.policy.partition import partition
from appliance.policy.pieces import Groups, Pieces, PieceSet, bits, digest
from appliance.policy.territory import Stretch, merged

NUMBER_BITS: Final = 32
_PAIR: Final = 8  # steps that a pair of a near and a far class counts for
NOBODY: Final[ClassId] = 0  # the class without rights

Slot: TypeAlias = int  # a class of far ends before it has a number


class Allowed(NamedTuple):
    """What a set of rules allows: classes of services, and for each the grant."""

    services: tuple[ClassId, ...]
    grants: tuple[Grant, ...]
    steps: int


class Far(NamedTuple):
    """A class of far ends: what names it, and what is allowed with each class of near ends, in both directions."""

    content: bytes
    inbound: Sequence[tuple[ClassId, Allowed]]
    outbound: Sequence[tuple[ClassId, Allowed]]
    entries: int
    steps: int


class View:
    """Made of the pieces of a policy and of what is near, ascending; it never changes but for what it remembers."""

    def __init__(self, pieces: Pieces, near: Sequence[Stretch[Groups]], limits: Limits, number_bits: int) -> None:
        self.near: Final = near
        self.by_tags: Final = _ByTags(self)
        self._pieces = pieces
        self._limits = limits
        self._number_bits = number_bits
        self._new_steps = 0  # taken since the last filter was asked for
        self._place()
        self._choose_services()
        self._slots: dict[Groups, Slot] = {}
        self._far: list[Far | None] = []  # by slot; None until it is needed
        self._allowed: dict[PieceSet, Allowed] = {}
        self._grants: dict[PieceSet, Grant] = {}
        self._used: set[Slot] | None = None  # what the tables hold; None before the first and after a refusal
        self._numbers: list[ClassId] = []  # by slot
        self._entered: dict[ClassId, Far] = {}  # the classes that the two tables hold
        self._inbound: dict[Key, Grant] = {}  # a table that was given out is never changed, but copied
        self._outbound: dict[Key, Grant] = {}

    def _place(self) -> None:
        """Classes of near ends, and which groups of far ends any rule joins to them.

        A near class is named by where it begins and not by its groups, so that a new rule does not rename it.
        """
        pieces = self._pieces
        begins: dict[Groups, bytes] = {}
        for stretch in self.near:
            if stretch.value:
                begins.setdefault(stretch.value, digest(stretch.interval[0]))
        numbers = numbered(begins.values(), self._number_bits)
        self._near: list[tuple[ClassId, PieceSet, PieceSet]] = []  # class, pieces that lead here, that lead away
        self._locals = {
            stretch.interval: stretch.value
            for stretch in merged(
                Stretch(first, last, numbers[begins[groups]] if groups else NOBODY) for first, last, groups in self.near
            )
        }
        self._joined: PieceSet = 0
        self.relevant: Groups = 0
        for groups, name in begins.items():
            leads_here, leads_away = pieces.open_to(bits(groups)), pieces.opened_by(bits(groups))
            self._take(leads_here.bit_count() + leads_away.bit_count())
            self._near.append((numbers[name], leads_here, leads_away))
            self._joined |= leads_here | leads_away
            for piece in bits(leads_here):
                self.relevant |= 1 << pieces.pieces[piece].source
            for piece in bits(leads_away):
                self.relevant |= 1 << pieces.pieces[piece].target

    def _choose_services(self) -> None:
        """Classes of services: ranges that are in the same lists, of those lists that a rule of this place has."""
        pieces = self._pieces
        wanted = [number for number, serving in enumerate(pieces.serving) if serving & self._joined]
        allowing = sum(1 << number for number in wanted if pieces.serving[number] & self._joined & pieces.allowing)
        ranges = partition((1 << number, pieces.services[number]) for number in wanted)
        ranges = [(served, lists) for served, lists in ranges if lists & allowing]
        _bound("entries", len(ranges), self._limits.filter_entries)
        names = {
            lists: digest(*(pieces.service_contents[number] for number in bits(lists)))
            for lists in {lists for _, lists in ranges}
        }
        numbers = numbered(names.values(), self._number_bits)
        self._services: dict[ServiceRange, ClassId] = {served: numbers[names[lists]] for served, lists in ranges}
        self._service_classes: list[tuple[ClassId, PieceSet]] = []
        self._in_list = [0] * len(pieces.services)  # by list of services: the classes that are in it, as a mask
        for index, (lists, name) in enumerate(names.items()):
            for number in bits(lists):
                self._in_list[number] |= 1 << index
            self._service_classes.append((numbers[name], pieces.served_by(lists)))

    def slot(self, groups: Groups) -> Slot:
        """The place of the class of far ends that these groups select, of those groups that count here."""
        relevant = groups & self.relevant
        found = self._slots.get(relevant)
        if found is None:
            found = self._slots[relevant] = len(self._far)
            self._far.append(None)
        return found

    def slot_of_tags(self, tags: frozenset[str]) -> Slot:
        """That of the nodes with these tags that no rule names; `by_tags` remembers it."""
        return self.slot(self._pieces.node_groups(tags))

    @property
    def crowded(self) -> bool:
        """True if so much is remembered that is not used that a new view is due."""
        remembered = self.by_tags, self._far, self._allowed, self._grants
        return max(map(len, remembered)) > self._limits.filter_entries

    def filter(self, own: Address, peers: Mapping[Address, Slot], nets: Sequence[Stretch[Groups]]) -> Filter:
        """The filter against these far ends: members by address, and stretches of hosts. Raises `policy.too_large`."""
        self._new_steps = 0
        far_nets = list(merged(Stretch(first, last, self.slot(groups)) for first, last, groups in nets))
        self._use({*peers.values(), *(net.value for net in far_nets)})
        numbers = self._numbers
        made = Filter(
            own=own,
            peers=dict(zip(peers, map(numbers.__getitem__, peers.values()), strict=True)),
            peer_nets={net.interval: numbers[net.value] for net in far_nets if numbers[net.value]},
            locals=self._locals,
            services=self._services,
            inbound=self._inbound,
            outbound=self._outbound,
        )
        _bound("entries", entries(made), self._limits.filter_entries)
        return made

    def _use(self, wanted: set[Slot]) -> None:
        """Makes the classes that are wanted, numbers them, brings the tables to them; refuses as soon as too many."""
        if wanted == self._used:
            return
        self._used = None
        groups = list(self._slots)
        used: dict[Slot, Far] = {}
        count = steps = 0
        for slot in wanted:
            far = used[slot] = self._far[slot] or self._make(groups[slot])
            self._far[slot] = far
            count += far.entries
            steps += far.steps
            if count > self._limits.filter_entries or steps > self._limits.filter_steps:
                break
        _bound("entries", count, self._limits.filter_entries)
        _bound("steps", steps, self._limits.filter_steps)
        numbers = numbered((far.content for far in used.values() if far.entries), self._number_bits)
        self._numbers = [NOBODY] * len(self._far)
        for slot, far in used.items():
            if far.entries:
                self._numbers[slot] = numbers[far.content]
        self._enter({self._numbers[slot]: far for slot, far in used.items() if far.entries})
        self._used = wanted

    def _make(self, groups: Groups) -> Far:
        held = tuple(bits(groups))
        comes, goes = self._pieces.opened_by(held), self._pieces.open_to(held)
        inbound = [(local, self._allows(comes & leads_here)) for local, leads_here, _ in self._near]
        outbound = [(local, self._allows(goes & leads_away)) for local, _, leads_away in self._near]
        count, steps = 0, len(held) + _PAIR * len(self._near)
        for _, allowed in chain(inbound, outbound):
            count += len(allowed.services)
            steps += allowed.steps
        return Far(
            digest(*map(self._pieces.group_contents.__getitem__, held)),
            [row for row in inbound if row[1].services],
            [row for row in outbound if row[1].services],
            count,
            steps,
        )

    def _allows(self, pieces: PieceSet) -> Allowed:
        """What a set of pieces allows: the services that one of them allows and none denies."""
        known = self._allowed.get(pieces)
        if known is not None:
            return known
        allowing, denying = pieces & self._pieces.allowing, pieces & self._pieces.denying
        served = 0
        for piece in bits(allowing):
            served |= self._in_list[self._pieces.pieces[piece].services]
        steps, most = allowing.bit_count() + served.bit_count(), self._limits.filter_steps - self._new_steps
        found: dict[ClassId, Grant] = {}
        for number, serving in map(self._service_classes.__getitem__, bits(served)):
            if not denying & serving:
                held = allowing & serving
                steps += held.bit_count()
                if steps > most:
                    break
                found[number] = self._grant(held)
        self._take(steps)
        made = self._allowed[pieces] = Allowed(tuple(found), tuple(found.values()), steps)
        return made

    def _grant(self, pieces: PieceSet) -> Grant:
        """The rules of a set of pieces, all of which allow. It lasts as long as the last of them."""
        known = self._grants.get(pieces)
        if known is None:
            held = [self._pieces.pieces[piece] for piece in bits(pieces)]
            ends = [piece.until_ms for piece in held if piece.until_ms is not None]
            until_ms = max(ends) if len(ends) == len(held) else None
            known = self._grants[pieces] = Grant(tuple(sorted({piece.rule for piece in held})), until_ms)
        return known

    def _take(self, steps: int) -> None:
        """Counts what is looked at for the first time: as soon as that alone is too much, the filter is."""
        self._new_steps += steps
        _bound("steps", self._new_steps, self._limits.filter_steps)

    def _enter(self, wanted: dict[ClassId, Far]) -> None:
        """Brings the tables to these classes; the entries of a class that has kept its number stay."""
        before, self._entered = self._entered, wanted
        gone = [(number, far) for number, far in before.items() if wanted.get(number) is not far]
        new = [(number, far) for number, far in wanted.items() if before.get(number) is not far]
        if gone or new:
            self._inbound, self._outbound = dict(self._inbound), dict(self._outbound)
        for number, far in gone:
            for key in _keys(number, far.inbound):
                del self._inbound[key]
            for key in _keys(number, far.outbound):
                del self._outbound[key]
        for number, far in new:
            self._inbound.update(zip(_keys(number, far.inbound), _grants(far.inbound), strict=True))
            self._outbound.update(zip(_keys(number, far.outbound), _grants(far.outbound), strict=True))


def _bound(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise error("policy.too_large", what=what, count=f"{count:,}", limit=f"{limit:,}")


class _ByTags(dict[frozenset[str], Slot]):
    """Slots of nodes by their tags; finds those that are new."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def __missing__(self, tags: frozenset[str]) -> Slot:
        found = self[tags] = self._view.slot_of_tags(tags)
        return found


_key = partial(tuple.__new__, Key)  # Key._make costs twice as much, and there are a hundred thousand of them


def _keys(number: ClassId, rows: Sequence[tuple[ClassId, Allowed]]) -> Iterator[Key]:
    for local, allowed in rows:
        yield from map(_key, zip(repeat(number), repeat(local), allowed.services, strict=False))


def _grants(rows: Sequence[tuple[ClassId, Allowed]]) -> Iterator[Grant]:
    for _, allowed in rows:
        yield from allowed.grants


def entries(made: Filter) -> int:
    """How many elements the kernel must hold."""
    tables = made.peers, made.peer_nets, made.locals, made.services, made.inbound, made.outbound
    return sum(len(table) for table in tables)


def numbered(contents: Iterable[bytes], number_bits: int = NUMBER_BITS) -> dict[bytes, ClassId]:
    """A number from 1 up for each content, which is a digest: its beginning. A function of the set of contents.

    Of those that begin alike the lowest has the number, the others the next free ones: who does not collide keeps its
    number whoever comes.
    """
    ordered = sorted(set(contents))
    numbers: dict[bytes, ClassId] = {}
    taken: set[ClassId] = set()
    for content in ordered:
        first = _beginning(content, number_bits)
        if first not in taken:
            taken.add(first)
            numbers[content] = first
    for content in ordered:
        if content not in numbers:
            free = _beginning(content, number_bits)
            while free in taken:
                free = free + 1 if free < (1 << NUMBER_BITS) - 1 else 1
            taken.add(free)
            numbers[content] = free
    return numbers


def _beginning(content: bytes, number_bits: int) -> ClassId:
    return int.from_bytes(content[: NUMBER_BITS // 8], "big") >> NUMBER_BITS - number_bits or 1
