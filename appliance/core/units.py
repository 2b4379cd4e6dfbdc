"""Sizes and durations as people write them: one whole number and one unit, both ways without loss.

Sizes are in bytes with the IEC 80000-13 prefixes (`64KiB`); durations are in milliseconds (`90s`, `30d`).
Months and years are left out because their length varies. It never rounds: `1.5h` is refused, `90m` is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from appliance.core.errors import error

_SIZES: Final[Mapping[str, int]] = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SECOND_MS: Final = 1_000
_DURATIONS: Final[Mapping[str, int]] = {
    "ms": 1,
    "s": _SECOND_MS,
    "m": 60 * _SECOND_MS,
    "h": 3_600 * _SECOND_MS,
    "d": 86_400 * _SECOND_MS,
}
_MAX: Final = (1 << 63) - 1  # fits a signed 64-bit column
_FORM: Final = re.compile(r"([0-9]{1,19}) ?([A-Za-z]+)")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `64KiB`; `units.text` otherwise."""
    return _parse(text, _SIZES, "size", "512B, 64KiB or 8MiB")


def format_bytes(count: int) -> str:
    """The shortest exact text of a size: 65536 gives `64KiB`, 65537 gives `65537B`."""
    return _format(count, _SIZES)


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `90s` or `30d`; `units.text` otherwise."""
    return _parse(text, _DURATIONS, "duration", "500ms, 90s, 15m, 12h or 30d")


def format_duration_ms(duration_ms: int) -> str:
    """The shortest exact text of a duration: 90,000 ms give `90s`, 3,600,000 ms give `1h`."""
    return _format(duration_ms, _DURATIONS)


def _parse(text: str, units: Mapping[str, int], what: str, example: str) -> int:
    match = _FORM.fullmatch(text)
    factor = units.get(match[2]) if match else None
    if match is None or factor is None or int(match[1]) * factor > _MAX:
        raise error("units.text", text=text, what=what, example=example)
    return int(match[1]) * factor


def _format(amount: int, units: Mapping[str, int]) -> str:
    """*amount* in the largest unit that divides it; *units* run from small to large."""
    if amount < 0:
        raise ValueError(f"a size or duration is not negative: {amount}")
    unit, factor = max(
        ((unit, factor) for unit, factor in units.items() if amount and amount % factor == 0),
        key=lambda row: row[1],
        default=next(iter(units.items())),
    )
    return f"{amount // factor}{unit}"
