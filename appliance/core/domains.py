"""Domain labels: the context under which a key signs, so that a signature over one kind of thing
can never pass for another.

The label is the ML-DSA context string (FIPS 204, section 5.2: at most 255 bytes). A label is never reused
for a changed format: the number at its end grows instead.
"""

from __future__ import annotations

from enum import StrEnum


class Domain(StrEnum):
    """Every label under which this program signs."""

    ATTACH = "x0t/attach/1"  # by an Ed25519 key, which has no context: it stands at the head of what is signed
    BATCH = "x0t/batch/1"
    DESCRIPTOR = "x0t/descriptor/1"
    ENROL = "x0t/enrol/1"
    GRANT = "x0t/grant/1"
    NODE_CERT = "x0t/node-cert/1"
    TOKEN = "x0t/token/1"  # noqa: S105 - a label, not a secret
