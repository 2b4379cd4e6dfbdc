"""Names of Tailscale's: which of them are users, and what they may become as tags of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable

from appliance.core.names import TAG
from appliance.policy.text import nearest

_TAG_CHARS = 63
_KINDS = ("autogroup:", "group:", "host:", "ipset:", "localpart:", "svc:", "tag:", "user:")


def meant(text: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a wrong name: `Did you mean X?` if a known one is like it."""
    return nearest(text, known).strip() or otherwise


def is_tag(text: str) -> bool:
    """True if the text can be a tag of ours."""
    return TAG.fullmatch(text) is not None


def is_user(text: str) -> bool:
    """True for the login name of a user: `eve@example.com`, `eve@github`, and `eve@` in headscale."""
    return "@" in text and not text.startswith(_KINDS)


def as_tag(text: str) -> str:
    """A tag that reads like a name: `group:Line Ops` becomes `line-ops`, `eve@example.com` becomes `eve`."""
    text = text.removeprefix("user:*@").rpartition(":")[2]
    text = text.partition("@")[0] or text
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_TAG_CHARS].strip("-")
    return slug or "unnamed"
