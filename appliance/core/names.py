"""Forms of the names that people give: tags, names of nodes, and where a node is reached.

Signed records carry them, so they are judged alike on all nodes of a mesh: a changed form is a changed format. This
module never resolves a name and never says whether one is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

TAG: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # a label of a host name, RFC 1123 section 2.1
NAME_CHARS: Final = 64
_HOST = r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])"  # a name, IPv4, or IPv6 in brackets; no zone
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HOST_PORT: Final = re.compile(rf"{_HOST}:{_PORT}")


def is_tag(text: str) -> bool:
    """1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end."""
    return TAG.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """1 to 64 characters that can be printed: no controls, and no marks that turn the direction of reading."""
    return 1 <= len(text) <= NAME_CHARS and text.isprintable()


def is_host_port(text: str) -> bool:
    """`host:port` or `[v6]:port` in lower case, with a port from 1 to 65535; bounded by the caller."""
    return HOST_PORT.fullmatch(text) is not None


def is_sorted_set(texts: Sequence[str]) -> bool:
    """In the one order that signed records have, by code points, and none twice."""
    return all(a < b for a, b in pairwise(texts))


def is_tag_set(tags: Sequence[str], limit: int) -> bool:
    """At most *limit* tags, sorted and unique."""
    return len(tags) <= limit and is_sorted_set(tags) and all(map(is_tag, tags))
