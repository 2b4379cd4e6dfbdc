"""What policy needs of a kernel: the small interface that real and fake firewalls implement, and its records.

A firewall holds one filter. It changes all of it or nothing, reads back what it wrote, and never is open: before the
first filter, while it changes and after the daemon died, what is not allowed is dropped. It decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from appliance.policy.filter import Address, Filter, Key


class Count(msgspec.Struct, frozen=True):
    """Traffic since the entry was made, both directions of the conversations."""

    packets: int = 0
    bytes: int = 0


class Applied(msgspec.Struct, frozen=True):
    """What a change did to the kernel."""

    added: int = 0  # elements
    removed: int = 0
    rebuilt: bool = False  # the whole table was written
    ended: int = 0  # conversations that were cut, because nothing allows them any more
    owed: str = ""  # why some of those are still to be ended; the filter is in force, and none of their packets passes


class Stage(StrEnum):
    """Which check dropped a packet."""

    IPV4 = "ipv4"  # the mesh carries IPv6 only
    HEADER = "header"  # extension headers
    STATE = "state"  # no conversation that is tracked: invalid or untracked
    SOURCE = "source"  # a mesh address on another interface, or a source that is not the sender's
    INBOUND = "inbound"  # no rule lets the far end open this
    OUTBOUND = "outbound"  # no rule lets this end open this
    HAIRPIN = "hairpin"  # from the mesh to the mesh


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """A sampled packet that was dropped."""

    at_ms: int  # ms since the Unix epoch
    stage: Stage
    source: Address
    target: Address
    protocol: int  # IANA number
    port: int = 0  # destination port, where there is one
    size_bytes: int = 0


class Difference(msgspec.Struct, frozen=True):
    """Where the kernel does not hold what it should: the object, what was wanted, what is there."""

    what: str
    wanted: str
    found: str


class Firewall(Protocol):
    """The firewall of one mesh on this node. Methods raise `firewall.*`; what was in force then stays in force.

    There is one exception: `firewall.unrestored` says that it does not, and what is in its place.
    """

    async def prepare(self) -> None:
        """Make sure that a table that denies exists, before the interface does. Keeps a filter that is in force."""
        ...

    async def apply(self, wanted: Filter) -> Applied:
        """Bring the kernel to this filter by the smallest change in one transaction; read back and compare.

        Conversations that the filter does not allow any more are ended, also established ones. Where that fails, the
        outcome says so, and each later call tries it again, also one that changes nothing.
        """
        ...

    async def verify(self) -> Sequence[Difference]:
        """Compare all that the kernel holds with what was applied last; holds no change up.

        Where it differs, the next `apply` mends it, whatever it was to change.
        """
        ...

    async def counters(self) -> Mapping[tuple[str, Key], Count]:
        """Traffic by entry; the first part of a key is `inbound` or `outbound`."""
        ...

    async def disturbed(self) -> str:
        """Wait until somebody else changed our table; returns who, as far as the kernel tells."""
        ...

    def drops(self) -> Sequence[Drop]:
        """The latest sampled drops, oldest first; bounded."""
        ...

    async def remove(self) -> None:
        """Take our table away: only when the mesh interface is gone."""
        ...
