"""A preview as a table that people read: tags instead of all who hold them, and a bound on what is listed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from appliance.core.network_records import PreviewRow
from appliance.core.prefix import address_text
from appliance.policy.directory import Directory
from appliance.policy.preview import Preview, Span, State
from appliance.policy.wording import node_name, range_text

NAMES = 8  # names of one side of a row; the rest is a number


def rows(found: Preview, before: State, after: State) -> tuple[PreviewRow, ...]:
    """What is lost, then what is gained, the widest change first. `loses` and `gains` are said of the source."""
    naming = _Naming(before.directory, after.directory)
    return tuple(
        PreviewRow(
            change=change,
            sources=naming.listed(row.sources),
            targets=naming.listed(row.targets),
            services=tuple(map(range_text, row.services)),
        )
        for change, changes in (("loses", found.lost), ("gains", found.gained))
        for row in changes
    )


class _Naming:
    """What sets of nodes are called."""

    def __init__(self, before: Directory, after: Directory) -> None:
        self._directories = after, before
        self._sets: dict[frozenset[bytes], str] = {}  # nodes to a word for all of them
        for directory in self._directories:
            holders: dict[str, set[bytes]] = defaultdict(set)
            for member in directory.members.values():
                for tag in member.tags:
                    holders[tag].add(member.node)
            for tag in sorted(holders):
                if len(holders[tag]) > 1:
                    self._sets.setdefault(frozenset(holders[tag]), f"tag:{tag}")
            self._sets.setdefault(frozenset(directory.members), "every node")

    def listed(self, spans: Sequence[Span]) -> tuple[str, ...]:
        """Tags that name some of them exactly, the largest first; then names, then a number for the rest."""
        left = {span.node for span in spans if not span.host}
        words = []
        for nodes, word in sorted(self._sets.items(), key=lambda item: (-len(item[0]), item[1])):
            if len(nodes) > 1 and nodes <= left:
                words.append(f"{word} ({len(nodes)})")
                left -= nodes
        words += sorted(self._name(node) for node in left)
        words += [self._hosts(span) for span in spans if span.host]
        if len(words) > NAMES:
            words[NAMES - 1 :] = [f"{len(words) - NAMES + 1} more"]
        return tuple(words)

    def _name(self, node: bytes) -> str:
        return node_name(node, next((known for known in self._directories if node in known.members), Directory()))

    def _hosts(self, span: Span) -> str:
        first, last = address_text(span.first), address_text(span.last)
        return f"{first if span.first == span.last else f'{first}-{last}'} behind {self._name(span.node)}"
