"""The rules that are active at a moment, taken to pieces and numbered, so that sets of them are bit masks.

A group is a list of selectors as rules use it, on either side. A piece joins a group of sources to a group of targets
and a list of services. Nobody can tell two subjects apart that the same groups select, so their mask of groups is all
that is kept of them. Bits are numbered by content. This module gives no verdict.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from appliance.policy.model import (
    Action,
    AnySelector,
    NodeSelector,
    Rule,
    RuleId,
    Selector,
    SelfSelector,
    Service,
    SubnetSelector,
    TagSelector,
)
from appliance.policy.territory import Stretch, layers, overlaid

Groups: TypeAlias = int  # a set of groups: bit n is the group number n
PieceSet: TypeAlias = int
Services: TypeAlias = int  # a set of lists of services

Thing = TypeVar("Thing", bound=Hashable)

_DIGEST_BYTES = 32
_DENSE = 12  # where one bit of so many is set, looking at each is cheaper than finding the next
_LONG, _FEW = 2_048, 8  # bits; a longer mask with more of them set is cut, which costs less than long steps
_CHUNK = 512  # bits
_CHUNK_MASK = (1 << _CHUNK) - 1
_AS_TRUTH = bytes.maketrans(b"01", b"\x00\x01")


class Piece(NamedTuple):
    """A part of a rule; numbers of its groups and of its list of services."""

    rule: RuleId
    source: int
    target: int
    services: int
    action: Action
    until_ms: int | None


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    length, count = mask.bit_length(), mask.bit_count()
    if count * _DENSE >= length:
        return compress(range(length), f"{mask:b}"[::-1].encode().translate(_AS_TRUTH))
    return _few_bits(mask) if length <= _LONG or count < _FEW else _far_bits(mask)


def _few_bits(mask: int, before: int = -1) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield before + low.bit_length()
        mask ^= low


def _far_bits(mask: int) -> Iterator[int]:
    """The same piece by piece: each step costs what the mask is long."""
    for place in range(0, mask.bit_length(), _CHUNK):
        yield from _few_bits(mask >> place & _CHUNK_MASK, place - 1)


class Pieces:
    """Rules by number. All of it is made once and never changes."""

    def __init__(self, rules: Mapping[RuleId, Rule]) -> None:
        parts = [(name, rules[name], *ends) for name in sorted(rules) for ends in rules[name].pieces()]
        groups = _numbered(side for _, _, source, target in parts for side in (source, target))
        lists = _numbered(rule.services for _, rule, _, _ in parts)
        self.pieces = tuple(
            Piece(name, groups[source][0], groups[target][0], lists[rule.services][0], rule.action, rule.until_ms)
            for name, rule, source, target in parts
        )
        self.group_contents = tuple(content for _, content in groups.values())
        self.services: tuple[tuple[Service, ...], ...] = tuple(lists)
        self.service_contents = tuple(content for _, content in lists.values())
        self._select(groups)
        self._join()

    def _select(self, groups: Mapping[tuple[Selector, ...], tuple[int, bytes]]) -> None:
        """What each selector adds to the groups of a subject that it means."""
        self.anybody: Groups = 0
        self._by_tag: dict[str, Groups] = defaultdict(int)
        self.by_node: dict[bytes, Groups] = defaultdict(int)
        by_prefix = []
        for selectors, (number, _) in groups.items():
            group = 1 << number
            for selector in selectors:
                match selector:
                    case AnySelector():
                        self.anybody |= group
                    case TagSelector(name):
                        self._by_tag[name] |= group
                    case NodeSelector(node):
                        self.by_node[node] |= group
                    case SubnetSelector(prefix):
                        by_prefix.append((prefix, group))
                    case SelfSelector():
                        raise ValueError("self has no meaning of its own: Rule.pieces() resolves it")
        self._prefixes = layers(
            ((prefix, self.anybody | group) for prefix, group in by_prefix), lambda outer, inner: outer | inner
        )

    def _join(self) -> None:
        """Which pieces lead from and to each group, what they do, and which services they serve."""
        self._from: list[PieceSet] = [0] * len(self.group_contents)
        self._to: list[PieceSet] = [0] * len(self.group_contents)
        self.serving: list[PieceSet] = [0] * len(self.services)
        self.allowing: PieceSet = 0
        for number, piece in enumerate(self.pieces):
            self._from[piece.source] |= 1 << number
            self._to[piece.target] |= 1 << number
            self.serving[piece.services] |= 1 << number
            if piece.action is Action.ALLOW:
                self.allowing |= 1 << number
        self.denying: PieceSet = (1 << len(self.pieces)) - 1 ^ self.allowing

    def node_groups(self, tags: frozenset[str], node: bytes | None = None) -> Groups:
        """The groups that select a node."""
        found = self.anybody | (self.by_node.get(node, 0) if node is not None else 0)
        for tag in tags & self._by_tag.keys():
            found |= self._by_tag[tag]
        return found

    def host_groups(self, hosts: Sequence[Stretch[bytes]]) -> list[Stretch[tuple[bytes, Groups]]]:
        """Stretches of hosts with their gateway and the groups that select them, cut where a selector ends."""
        return [
            Stretch(first, last, (gateway, self.anybody if groups is None else groups))
            for first, last, (gateway, groups) in overlaid(hosts, self._prefixes)
            if gateway is not None
        ]

    def served_by(self, lists: Services) -> PieceSet:
        """The pieces that have one of these lists of services."""
        found = 0
        for services in bits(lists):
            found |= self.serving[services]
        return found

    def opened_by(self, groups: Iterable[int]) -> PieceSet:
        """The pieces one of whose sources means a subject of these groups, given as numbers."""
        found = 0
        for group in groups:
            found |= self._from[group]
        return found

    def open_to(self, groups: Iterable[int]) -> PieceSet:
        """The pieces one of whose targets does."""
        found = 0
        for group in groups:
            found |= self._to[group]
        return found


def active(rules: Mapping[RuleId, Rule], now_ms: int) -> dict[RuleId, Rule]:
    """The rules that are not over."""
    return {name: rule for name, rule in rules.items() if rule.active(now_ms)}


def digest(*contents: bytes) -> bytes:
    """A name for a set or list of things that have one themselves; the caller brings them in order."""
    return hashlib.blake2b(b"".join(contents), digest_size=_DIGEST_BYTES).digest()


def _numbered(things: Iterable[Thing]) -> dict[Thing, tuple[int, bytes]]:
    """Each thing once, with its number and the digest that numbers are in the order of."""
    contents = {thing: digest(msgspec.msgpack.encode(thing)) for thing in set(things)}
    ordered = sorted(contents, key=contents.__getitem__)
    return {thing: (number, contents[thing]) for number, thing in enumerate(ordered)}
