"""Text of others made safe to show: on a terminal, in a log line, in a service manager's status.

A control character moves the cursor, recolours, renames the window or begins a line that nobody wrote; a bidirectional
mark lets a name read backwards. Such characters are shown as their escapes and never dropped, so that two names that
differ look different. Standard: the general categories of Unicode (UAX 44), C and Z but for the space.
"""

from __future__ import annotations

import json


def printable(text: str, keep: str = "") -> str:
    """The text with what cannot be printed escaped as in Python source, but for the characters to keep."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def printable_json(text: str) -> str:
    """A JSON document with what cannot be printed escaped as RFC 8259 section 7 has it: the same value."""
    if text.isascii():  # JSON itself escapes the control characters of ASCII
        return text
    return "".join(char if char.isprintable() or char.isascii() else json.dumps(char)[1:-1] for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
