"""Reading the ends of rules and tests: selectors, groups, and the subjects that a test speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.core.prefix import ADDRESS_BITS, ADDRESS_BYTES, Prefix, parse_address
from appliance.policy.directory import Directory
from appliance.policy.model import (
    AnySelector,
    NodeSelector,
    Selector,
    SelfSelector,
    Subject,
    SubnetSelector,
    TagSelector,
)
from appliance.policy.names import NAME, NodeNames, is_id_begun
from appliance.policy.text import SHOWN, Field, Mapping, Node, Problem, Problems, Scalar, Sequence, nearest

UNTAGGED = "untagged"
_FORMS = "any, self, tag:NAME, group:NAME, node:NAME, subnet:PREFIX"
_LENGTHS = frozenset(map(str, range(ADDRESS_BITS + 1)))
_TEST_FORMS = "tag:NAME, a list of tags, node:NAME, host:ADDRESS, untagged"


class Ends:
    """Reads ends against one directory. Problems are collected; doubts are warnings."""

    def __init__(self, directory: Directory, limits: Limits, problems: Problems) -> None:
        self._directory = directory
        self._limits = limits
        self._names = NodeNames(directory)
        self._problems = problems
        self._known_tags = frozenset().union(*(member.tags for member in directory.members.values()))
        self._doubts: dict[str, Problem] = {}
        self._read: dict[str, tuple[Selector, ...]] = {}  # of texts without a mistake
        self.groups: dict[str, tuple[str, ...]] = {}

    def warnings(self) -> tuple[Problem, ...]:
        """What may be a mistake: each name once, where it stands first."""
        return tuple(sorted(self._doubts.values()))

    def doubt(self, item: Node, text: str, given: str = "", known: Iterable[str] = ()) -> None:
        """Warn, once of each name; of the first ones with the known name that is most like it."""
        if text not in self._doubts:
            near = nearest(given, known) if given and len(self._doubts) < SHOWN else ""
            self._doubts[text] = Problem(item.line, item.column, text + near)

    def tags(self, node: Node) -> tuple[str, ...]:
        """The tags of a group: `robot` or `tag:robot`, sorted, each once."""
        items = self._texts(node, "a tag, or a list of tags")
        return tuple(sorted({self._tag(item, item.text.removeprefix("tag:")) for item in items} - {""}))

    def selectors(self, node: Node) -> tuple[Selector, ...]:
        """One selector or a list of them; groups become their tags."""
        items = self._texts(node, f"at least one of {_FORMS}")
        return tuple(selector for item in items for selector in self._selector(item))

    def _selector(self, item: Scalar) -> tuple[Selector, ...]:
        if item.text not in self._read:
            found = self._new_selector(item)
            if not found:
                return ()
            self._read[item.text] = found
        return self._read[item.text]

    def _new_selector(self, item: Scalar) -> tuple[Selector, ...]:
        kind, colon, name = item.text.partition(":")
        match kind:
            case "any" if not colon:
                return (AnySelector(),)
            case "self" if not colon:
                return (SelfSelector(),)
            case "tag" if colon:
                tag = self._tag(item, name)
                return (TagSelector(tag),) if tag else ()
            case "group" if colon:
                return self._group(item, name)
            case "node" if colon:
                node = self._node(item, name)
                return () if node is None else (NodeSelector(node),)
            case "subnet" if colon:
                return self._subnet(item, name)
        self._no_selector(item)
        return ()

    def subject(self, node: Node) -> Subject | None:
        """An end of a test. A node has the tags that it has now, unless tags stand beside it."""
        items = list(self._texts(node, f"at least one of {_TEST_FORMS}"))
        tags: set[str] = set()
        found: bytes | None = None
        told = False
        for item in items:
            kind, colon, name = item.text.partition(":")
            if kind == "host" and colon and len(items) == 1:
                return self._host(item, name)
            if kind == "node" and colon and found is None:
                found = self._node(item, name)
                if found is None:
                    return None
            elif kind == "tag" and colon:
                tags.add(self._tag(item, name))
                told = True
            elif item.text == UNTAGGED:
                told = True
            else:
                self._problems.add(item, f"{item.text} is no end of a test: there are {_TEST_FORMS}")
                return None
        if not items or "" in tags:
            return None
        if len(tags) > self._limits.tags_per_node:
            self._problems.add(node, f"a node has at most {self._limits.tags_per_node} tags")
        if found is not None and not told:
            member = self._directory.members.get(found)
            tags |= member.tags if member is not None else frozenset()
        return Subject(node=found, tags=frozenset(tags))

    # -- names

    def _tag(self, item: Scalar, name: str) -> str:
        """A tag; empty if it is none."""
        if NAME.fullmatch(name) is None:
            self._problems.add(item, f"{name} is no tag: lower-case letters, digits and hyphens, at most 63")
            return ""
        if name not in self._known_tags:
            self.doubt(item, f"no node holds the tag {name} yet.", name, self._known_tags)
        return name

    def _group(self, item: Scalar, name: str) -> tuple[Selector, ...]:
        if name not in self.groups:
            self._problems.add(item, f"there is no group {name}.", name, self.groups)
            return ()
        return tuple(TagSelector(tag) for tag in self.groups[name])

    def _node(self, item: Scalar, name: str) -> bytes | None:
        found = self._names.find(name)
        if len(found) == 1:
            return found[0].node
        if len(found) > 1:
            self._problems.add(item, f"{len(found)} nodes are called {name}; write the id of one")
            return None
        try:
            node = NodeId.parse(name).raw
        except X0tError:
            if is_id_begun(name):
                self._problems.add(item, f"no node's id begins with {name}, or more of it is needed")
            else:
                self._problems.add(item, f"there is no node {name}.", name, self._names)
            return None
        self.doubt(item, f"the node {name} is not a member now")
        return node

    def _subnet(self, item: Scalar, name: str) -> tuple[Selector, ...]:
        try:
            prefix = Prefix.parse(name)
        except X0tError:
            self._problems.add(item, f"{name} is no IPv6 prefix such as fd00:1::/64.{_without_host_bits(name)}")
            return ()
        if not any(s.prefix.covers(prefix) or prefix.covers(s.prefix) for s in self._directory.subnets):
            known = (str(subnet.prefix) for subnet in self._directory.subnets)
            self.doubt(item, f"no gateway speaks for a part of {prefix} yet.", str(prefix), known)
        return (SubnetSelector(prefix),)

    def _host(self, item: Scalar, name: str) -> Subject | None:
        try:
            return Subject(host=parse_address(name))
        except X0tError:
            self._problems.add(item, f"{name} is no IPv6 address such as fd00:1::5")
            return None

    def _no_selector(self, item: Scalar) -> None:
        """Say so; of a bare name also which selector it may be meant for."""
        words = {tag: f"tag:{tag}" for tag in self._known_tags} | {group: f"group:{group}" for group in self.groups}
        said = f"{item.text} is no selector: there are {_FORMS}."
        if item.text in words or self._names.find(item.text):
            self._problems.add(item, f"{said} Did you mean {words.get(item.text, f'node:{item.text}')}?")
        else:
            self._problems.add(item, said, item.text, ("any", "self", *words.values()))

    def _texts(self, node: Node, expected: str) -> Iterator[Scalar]:
        items = node.items if isinstance(node, Sequence) else (node,)
        if not items:
            self._problems.add(node, f"expected {expected}")
        for item in items:
            match item:
                case Scalar(text) if text:
                    yield item
                case Mapping((Field(Scalar(kind), Scalar(name)),)):
                    self._problems.add(item, f"a space after the colon makes a mapping: write {kind}:{name}")
                case _:
                    self._problems.add(item, f"expected {expected}")


def _without_host_bits(text: str) -> str:
    """A suggestion for an address where a prefix is expected: `fd00:1::5/64`."""
    address, _, length = text.partition("/")
    if length not in _LENGTHS:
        return ""
    try:
        bits = ADDRESS_BITS - int(length)
        start = int.from_bytes(parse_address(address), "big") >> bits << bits
        return f" Did you mean {Prefix(start.to_bytes(ADDRESS_BYTES, 'big'), int(length))}?"
    except X0tError:
        return ""
