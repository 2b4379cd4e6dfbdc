"""Our table in the kernel, read and written: whole, or element by element. Decides nothing, remembers nothing.

All of a write is one transaction that happens only if nobody changed the ruleset since the generation it was made for;
all of a read is of one generation. Only our own table is ever written.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from appliance.netstack.nft import elements, wire
from appliance.netstack.nft.channel import Channel, OvertakenError, RefusedError, Request, generation_of
from appliance.netstack.nft.difference import Change
from appliance.netstack.nft.elements import Element
from appliance.netstack.nft.raw import GRANTS, INTERVALS, NAMES, Raw, RawKey, RawTable, grant_key
from appliance.netstack.nft.skeleton import SAID, Kind, Layout, MeshTable, forgetting, replacing
from appliance.netstack.nft.turns import Pace, at_once
from appliance.policy.enforcement import Count
from appliance.policy.filter import Key

_READS = 8  # of the whole table, until two generations agree; to list 60,000 elements takes 0.05 s
_GET, _DELETE = 1, 2  # beside a Kind
_LIST_ELEMENTS = 3
BY_ONE = frozenset(NAMES) - {*INTERVALS, "services"}  # sets whose elements are found by their key alone


class Listing(NamedTuple):
    """The table at one generation of the ruleset, its sets as the kernel lists them.

    Sets that are not ours to understand are left out.
    """

    generation: int
    at_ms: int  # since the epoch: ends of grants count from then
    layout: Layout
    blocks: Mapping[str, Sequence[bytes]]  # set -> lists of its elements


class Reading(NamedTuple):
    """A listing whose sets are taken apart."""

    generation: int
    at_ms: int
    layout: Layout
    raw: Raw


class Kernel:
    """One table, seen through one channel. What takes long goes at the pace that is given."""

    def __init__(self, channel: Channel, table: MeshTable, skeleton: Layout, pace: Pace = at_once) -> None:
        self._channel = channel
        self._pace = pace
        self._table = table
        self._name = wire.text(1, table.name)
        self._skeleton = skeleton

    def generation(self) -> int:
        """The generation of the whole ruleset."""
        (body,) = self._channel.ask(Request(Kind.GENERATION + _GET, b"", family=wire.FAMILY_UNSPEC))
        return generation_of(body)

    def read(self, now_ms: int) -> Reading:
        """Everything in the table. Raises `OvertakenError` if others change the ruleset all the time."""
        for _ in range(_READS):
            try:
                return self.taken_apart(self.listing(now_ms, NAMES))
            except OvertakenError:
                continue
        raise OvertakenError

    def listing(self, now_ms: int, names: Sequence[str]) -> Listing:
        """The objects of the table, and the elements of these sets. Raises `OvertakenError` if others change it."""
        begun = self.generation()
        try:
            layout = self._layout()
            blocks = {name: self._blocks(name) for name in names if self._is_sound(layout, name)}
        except RefusedError as err:
            if err.code == errno.ENOENT:  # deleted meanwhile
                raise OvertakenError from err
            raise
        if self.generation() != begun:
            raise OvertakenError
        return Listing(begun, now_ms, layout, blocks)

    def taken_apart(self, listed: Listing) -> Reading:
        """What was listed, in raw form."""
        raw = {name: self._raw(name, blocks, listed.at_ms) for name, blocks in listed.blocks.items()}
        return Reading(listed.generation, listed.at_ms, listed.layout, raw)

    def read_set(self, name: str, now_ms: int) -> RawTable:
        """All elements of one set."""
        return self._raw(name, self._blocks(name), now_ms)

    def find(self, name: str, keys: Iterable[RawKey], now_ms: int) -> RawTable:
        """Those of the elements that are there."""
        found: list[Element] = []
        for element in elements.pack_keys(name, keys):
            try:
                bodies = self._channel.ask(Request(Kind.ELEMENTS + _GET, self._list(name, element)))
            except RefusedError as err:
                if err.code != errno.ENOENT:
                    raise
            else:
                found += elements.parse(wire.fields(body)[_LIST_ELEMENTS] for body in bodies)
        return elements.raw_table(name, found, now_ms)

    def counters(self, name: str) -> Mapping[tuple[str, Key], Count]:
        """Traffic by grant of this set. Raises `OvertakenError` if others change the ruleset."""
        return {
            (name, grant_key(one.key)): Count(
                int.from_bytes(one.packet_count, "big"), int.from_bytes(one.byte_count, "big")
            )
            for one in elements.parse(self._pace(self._blocks(name)))
        }

    def rewrite(self, seen: Reading, wanted: Raw, now_ms: int) -> None:
        """Replace whatever was seen by the skeleton and these elements."""
        requests = [*replacing(self._table, seen.layout, self._skeleton)]
        for name in NAMES:
            requests += self._adding(name, wanted[name], now_ms)
        self._channel.transact(seen.generation, requests)

    def change(self, generation: int, wanted: Sequence[Change], now_ms: int, *, forget: bool) -> None:
        """Take elements away and add others. Memories are emptied if they may be wrong now, or on request."""
        requests: list[Request] = []
        if forget or any(change.name not in GRANTS for change in wanted):
            requests += forgetting(self._table, self._skeleton)
        for change in wanted:
            requests += [
                Request(Kind.ELEMENTS + _DELETE, self._list(change.name, chunk))
                for chunk in elements.chunks(elements.pack_keys(change.name, change.removed))
            ]
            requests += self._adding(change.name, change.added, now_ms)
        self._channel.transact(generation, requests)

    def remove(self) -> None:
        """Delete the table, if it is there."""
        seen = self._channel.dump(Request(Kind.TABLE + _GET, b""))
        if any(wire.string(wire.fields(body)[1]) == self._table.name for body in seen):
            self._channel.transact(self.generation(), [Request(Kind.TABLE + _DELETE, self._name)])

    def _adding(self, name: str, table: RawTable, now_ms: int) -> Iterator[Request]:
        for chunk in elements.chunks(elements.pack(name, table, now_ms)):
            yield Request(Kind.ELEMENTS, self._list(name, chunk), wire.NLM_F_CREATE)

    def _list(self, name: str, chunk: bytes) -> bytes:
        return self._name + wire.text(2, name) + wire.nest(_LIST_ELEMENTS, chunk)

    def _blocks(self, name: str) -> list[bytes]:
        """A set as the kernel lists it: some hundred elements each."""
        request = Request(Kind.ELEMENTS + _GET, self._name + wire.text(2, name))
        return [wire.fields(body).get(_LIST_ELEMENTS, b"") for body in self._channel.dump(request, self._pace)]

    def _raw(self, name: str, blocks: Iterable[bytes], now_ms: int) -> RawTable:
        return elements.raw_table(name, elements.parse(self._pace(blocks)), now_ms)

    def _is_sound(self, layout: Layout, name: str) -> bool:
        label = f"set {name}"
        return label in layout and wire.agrees(self._skeleton[label], layout[label])

    def _layout(self) -> Layout:
        """Tables, sets, chains and rules of ours, as far as they are ours to say."""
        layout: Layout = {}
        for kind in (Kind.TABLE, Kind.SET, Kind.CHAIN, Kind.RULE):
            if kind is not Kind.TABLE and not layout:
                break
            named = b"" if kind in (Kind.TABLE, Kind.CHAIN) else self._name
            places: dict[str, Iterator[int]] = {}
            for body in self._channel.dump(Request(kind + _GET, named)):
                said = wire.fields(body)
                if wire.string(said[1]) == self._table.name:
                    layout[_label(kind, said, places)] = _said(kind, body)
        return layout


def _label(kind: Kind, said: Mapping[int, bytes], places: dict[str, Iterator[int]]) -> str:
    match kind:
        case Kind.TABLE:
            return "table"
        case Kind.SET:
            return f"set {wire.string(said[2])}"
        case Kind.CHAIN:
            return f"chain {wire.string(said[3])}"
        case _:
            chain = wire.string(said[2])
            return f"rule {chain} {next(places.setdefault(chain, count()))}"


def _said(kind: Kind, body: bytes) -> bytes:
    return b"".join(
        wire.attribute(number, body[begin:end]) for number, begin, end in wire.spans(body) if number in SAID[kind]
    )
