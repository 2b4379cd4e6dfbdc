"""Moments in the text of a policy: RFC 3339 with a zone outside, ms since the Unix epoch inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def parse_moment(text: str) -> int | None:
    """The moment, ms since the Unix epoch; None for what is none, has no zone, or lies before the epoch."""
    try:
        moment = datetime.fromisoformat(text)
        since = moment - _EPOCH if moment.tzinfo is not None else -_MS
    except (ValueError, OverflowError):
        return None
    return since // _MS if since >= timedelta(0) and since % _MS == timedelta(0) else None


def moment_text(at_ms: int) -> str:
    """`2026-12-01T00:00:00Z`, with milliseconds where there are any."""
    text = (_EPOCH + at_ms * _MS).isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")
