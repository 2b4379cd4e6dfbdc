"""Which rules speak about two ends, whatever the service: an index of rules by what their selectors can mean.

Rules are numbered by their place, and sets of them are bit masks. It gives no verdict, and knows no time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from appliance.core.prefix import ADDRESS_BITS
from appliance.policy.model import (
    AnySelector,
    NodeSelector,
    Policy,
    Rule,
    Selector,
    SelfSelector,
    Subject,
    SubnetSelector,
    TagSelector,
)

Mask: TypeAlias = int  # a set of rules: bit n is the rule number n
Key: TypeAlias = "str | bytes | tuple[int, int] | None"  # a tag, a node, a prefix as length and number, everything


class Joined:
    """An index of these rules."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._sources: dict[Key, Mask] = defaultdict(int)
        self._targets: dict[Key, Mask] = defaultdict(int)
        self._selves: dict[Key, Mask] = defaultdict(int)  # a source that pairs with itself
        for number, rule in enumerate(rules):
            bit = 1 << number
            sources = [_key(selector) for selector in rule.sources]
            for source in sources:
                self._sources[source] |= bit
            for selector in rule.targets:
                if not isinstance(selector, SelfSelector):
                    self._targets[_key(selector)] |= bit
                    continue
                for source in sources:
                    self._selves[source] |= bit
        used = {*self._sources, *self._targets}
        self._lengths = sorted({key[0] for key in used if isinstance(key, tuple)})

    def about(self, source: Subject, target: Subject) -> Mask:
        """The rules one of whose pieces selects both."""
        ours, theirs = self._keys(source), self._keys(target)
        found = _union(self._sources, ours) & _union(self._targets, theirs)
        return found | _union(self._selves, ours & theirs) if self._selves else found

    def _keys(self, subject: Subject) -> set[Key]:
        """What selectors can say that means the subject."""
        found: set[Key] = {None}
        if subject.host is not None:
            address = int.from_bytes(subject.host, "big")
            return found.union((length, address >> ADDRESS_BITS - length) for length in self._lengths)
        found.update(subject.tags)
        if subject.node is not None:
            found.add(subject.node)
        return found


def looked_at(policy: Policy) -> int:
    """How many ranges of ports the tests of a policy look at: each those of all rules about its ends, over or not.

    It bounds what the tests cost, and hangs on nothing but the document.
    """
    if not policy.tests:
        return 0
    rules = tuple(policy.rules.values())
    index, digits = Joined(rules), _digits([len(rule.services) for rule in rules])
    return sum(
        (about & digit).bit_count() << place
        for test in policy.tests.values()
        if (about := index.about(test.source, test.target))
        for place, digit in enumerate(digits)
    )


def _digits(weights: Sequence[int]) -> list[Mask]:
    """For each binary digit of the weights, which of them have it set: sums of weights are counts of bits then."""
    return [
        sum(1 << number for number, weight in enumerate(weights) if weight >> place & 1)
        for place in range(max(weights, default=0).bit_length())
    ]


def _key(selector: Selector) -> Key:
    match selector:
        case AnySelector():
            return None
        case TagSelector(name):
            return name
        case NodeSelector(node):
            return node
        case SubnetSelector(prefix):
            return prefix.length, int.from_bytes(prefix.address, "big") >> ADDRESS_BITS - prefix.length
        case SelfSelector():
            raise ValueError("self has no meaning of its own: Rule.pieces() resolves it")


def _union(index: Mapping[Key, Mask], keys: Iterable[Key]) -> Mask:
    found = 0
    for key in keys:
        found |= index.get(key, 0)
    return found
