"""Parking: batches whose dependencies have not arrived. Bounded, never applied early, and forgotten at a restart.

What does not fit is not an error for ever: the peer still has it, and sync brings it again once there is room.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch


class Parking:
    """Waiting batches by hash, and who waits for what."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._waiting: dict[bytes, tuple[SignedBatch, set[bytes]]] = {}
        self._by_missing: dict[bytes, list[bytes]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._waiting

    def park(self, signed: SignedBatch, missing: tuple[bytes, ...]) -> None:
        """Keep a batch until these have arrived. Raises `replica.parked_full`."""
        if signed.hash in self._waiting:
            return
        full = len(self._waiting) >= self._limits.parked_batches
        if full or self._bytes + len(signed.blob) > self._limits.parked_bytes:
            raise error("replica.parked_full", limit=self._limits.parked_batches)
        self._waiting[signed.hash] = (signed, set(missing))
        self._bytes += len(signed.blob)
        for digest in missing:
            self._by_missing.setdefault(digest, []).append(signed.hash)

    def arrived(self, digest: bytes) -> list[SignedBatch]:
        """Batches that wait for nothing more now that this one is in the log."""
        released: list[SignedBatch] = []
        for waiting in self._by_missing.pop(digest, ()):
            signed, missing = self._waiting[waiting]
            missing.discard(digest)
            if not missing:
                del self._waiting[waiting]
                self._bytes -= len(signed.blob)
                released.append(signed)
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
                trail.extend(self._waiting[digest][1])
            else:
                wanted.add(digest)
        return tuple(sorted(wanted))
