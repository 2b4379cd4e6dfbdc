"""Parking: batches whose dependencies have not arrived. Bounded, never applied early, and forgotten at a restart.

Where there is no room the batch that has waited longest goes: so orphans that somebody hoards never keep out a batch
whose parents are on their way. What went is not lost, for the peer still has it, and sync brings it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch, parse_batch

BATCH_COST = 500  # bytes of memory beside the blob, measured: two dict entries and a set
MISSING_COST = 400  # for each hash that is missing, measured: a key, a list and an entry in three tables


class _Waiting(NamedTuple):
    blob: bytes  # decoded again when it leaves: decoded it takes three times the memory
    missing: set[bytes]
    cost: int


class Parking:
    """Waiting batches by hash, the oldest first, and who waits for what."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._waiting: dict[bytes, _Waiting] = {}
        self._by_missing: dict[bytes, set[bytes]] = {}
        self._cost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._waiting

    def park(self, signed: SignedBatch, missing: tuple[bytes, ...]) -> None:
        """Keep a batch until these have arrived, in place of older ones if need be."""
        if signed.hash in self._waiting:
            return
        cost = len(signed.blob) + BATCH_COST + MISSING_COST * len(missing)
        while self._waiting and (
            len(self._waiting) >= self._limits.parked_batches or self._cost + cost > self._limits.parked_bytes
        ):
            self._remove(next(iter(self._waiting)))
        self._waiting[signed.hash] = _Waiting(signed.blob, set(missing), cost)
        self._cost += cost
        for digest in missing:
            self._by_missing.setdefault(digest, set()).add(signed.hash)

    def arrived(self, digest: bytes) -> list[SignedBatch]:
        """Batches that wait for nothing more now that this one is in the log, by hash."""
        released: list[SignedBatch] = []
        for waiting in sorted(self._by_missing.pop(digest, ())):
            parked = self._waiting[waiting]
            parked.missing.discard(digest)
            if not parked.missing:
                self._remove(waiting)
                released.append(parse_batch(parked.blob, self._limits))
        return released

    def is_wanted(self, digest: bytes) -> bool:
        """True if a parked batch waits for this one."""
        return digest in self._by_missing

    def wanted(self, parked: Iterable[bytes]) -> tuple[bytes, ...]:
        """Hashes to ask for on behalf of these: missing, directly or through others that are parked."""
        wanted: set[bytes] = set()
        seen: set[bytes] = set()
        trail = list(parked)
        while trail:
            digest = trail.pop()
            if digest in seen:
                continue
            seen.add(digest)
            if digest in self._waiting:
                trail.extend(self._waiting[digest].missing)
            else:
                wanted.add(digest)
        return tuple(sorted(wanted))

    def _remove(self, digest: bytes) -> None:
        parked = self._waiting.pop(digest)
        self._cost -= parked.cost
        for missing in parked.missing:
            waiting = self._by_missing[missing]
            waiting.discard(digest)
            if not waiting:
                del self._by_missing[missing]
