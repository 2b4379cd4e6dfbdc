"""What a sync session asks of its driver, and what the driver answers.

Events are all that a session wants done; it does nothing itself. Records only: no decision is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from appliance.replica.sync_difference import Difference

Cursor: TypeAlias = tuple[int, bytes]

START: Cursor = (0, b"")


# --- from the session to its driver ---------------------------------------------------------------------


class Received(msgspec.Struct, frozen=True):
    """Batches came: verify them, make them durable, then call `stored`."""

    blobs: tuple[bytes, ...]


class NeedBatches(msgspec.Struct, frozen=True):
    """Read on from `cursor`, predecessors and parents first, what the peer has not; call `supply`."""

    cursor: Cursor
    have: Difference
    budget_bytes: int


class NeedBlobs(msgspec.Struct, frozen=True):
    """Read these batches, each with up to `depth` predecessors of its author; call `supply_blobs`."""

    hashes: tuple[bytes, ...]
    depth: int
    budget_bytes: int


class InSync(msgspec.Struct, frozen=True):
    """Both replicas had the same vector a moment ago."""

    digest: bytes


class PeerArchived(msgspec.Struct, frozen=True):
    """What this replica lacks lies in an archive: import it, for the peer cannot send it. Epoch 0: not known which."""

    epoch: int


class Drop(msgspec.Struct, frozen=True):
    """The session is over by the peer's fault: send what is left to send, close, and back off.

    `error(key, **detail)` is its message.
    """

    key: str
    detail: Mapping[str, str]


class Closed(msgspec.Struct, frozen=True):
    """The peer ended the session; `key` is its reason, empty where all is well."""

    key: str


Event: TypeAlias = Received | NeedBatches | NeedBlobs | InSync | PeerArchived | Drop | Closed


# --- from the driver to the session ---------------------------------------------------------------------


class Stored(msgspec.Struct, frozen=True):
    """What became of batches that came: all of them, in the order of their `Received` events.

    `cost`: their bytes. `new`: those of them that entered the log. `refused`: hashes of those that this replica
    does not take for reasons that are not the peer's. `parked`: how many wait for others. `wanted`: these others.
    """

    cost: int
    count: int
    new: tuple[bytes, ...] = ()
    refused: tuple[bytes, ...] = ()
    parked: int = 0
    wanted: tuple[bytes, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """Answer to `NeedBatches`. `epoch`: of the archive, where some that are missing can no longer be read."""

    blobs: tuple[bytes, ...]
    cursor: Cursor
    done: bool
    epoch: int | None = None


class Found(msgspec.Struct, frozen=True):
    """Answer to `NeedBlobs`: hashes and bytes that were read, predecessors first, within the budget.

    What is named nowhere is asked for again. `pruned` lie in the archive of `epoch`.
    """

    hashes: tuple[bytes, ...]
    blobs: tuple[bytes, ...]
    missing: tuple[bytes, ...] = ()
    pruned: tuple[bytes, ...] = ()
    epoch: int = 0
