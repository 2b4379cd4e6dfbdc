"""Hybrid logical clock: a 64-bit reading that follows wall time and never goes back.

A reading is milliseconds since the Unix epoch, shifted left by 16, plus a counter (Kulkarni et al., "Logical
Physical Clocks", 2014, in its packed form). It fits a signed 64-bit column and sorts as an integer.
This module never asks for the time: the caller brings it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

COUNTER_BITS: Final = 16
HLC_MAX: Final = (1 << 63) - 1  # SQLite's INTEGER is signed
_COUNTER_MASK: Final = (1 << COUNTER_BITS) - 1
_MS_MAX: Final = HLC_MAX >> COUNTER_BITS  # the year 6429
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def hlc_pack(ms: int, counter: int) -> int:
    """The reading for *ms* since the epoch and a *counter* of 16 bits; ValueError outside those."""
    if not 0 <= ms <= _MS_MAX or not 0 <= counter <= _COUNTER_MASK:
        raise ValueError(f"no clock reading for {ms} ms and counter {counter}")
    return ms << COUNTER_BITS | counter


def hlc_ms(hlc: int) -> int:
    """Milliseconds since the Unix epoch of a reading."""
    return hlc >> COUNTER_BITS


def hlc_counter(hlc: int) -> int:
    """The counter of a reading: the order of events within its millisecond."""
    return hlc & _COUNTER_MASK


def hlc_text(hlc: int) -> str:
    """A reading for people: RFC 3339 UTC with milliseconds, then `#` and the counter."""
    moment = _EPOCH + timedelta(milliseconds=hlc_ms(hlc))
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z#{hlc_counter(hlc)}"


def moment_text(ms: int) -> str:
    """A moment for people: RFC 3339 in UTC, to the second."""
    return f"{(_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec='seconds')[:-6]}Z"


def hlc_next(last: int, now_ms: int, seen: int = 0) -> int:
    """The smallest reading above *last* and *seen* that is not behind *now_ms*.

    A full counter carries into the milliseconds, so a clock that stands still or runs backwards still
    gives strictly growing readings. ValueError past the year 6429.
    """
    reading = max(now_ms << COUNTER_BITS, last + 1, seen + 1)
    if reading > HLC_MAX:
        raise ValueError("the clock has run out of its 64 bits")
    return reading
