"""Reading a token that a person names: the text itself, a file that holds it, or standard input."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Final

from appliance.core.errors import error
from appliance.core.limits import LIMITS
from appliance.trust.tokens import POINTER_PREFIX, TOKEN_PREFIX

_FILE_BYTES: Final = 4 * LIMITS.guest_message_bytes  # the longest token, folded into short lines


def read_text(text: str) -> str:
    """The argument itself, or the content of the file that it names. No error repeats what may be a secret."""
    if text.lstrip().startswith((TOKEN_PREFIX, POINTER_PREFIX)):
        return text
    try:
        if text == "-":
            data = sys.stdin.buffer.read(_FILE_BYTES)
        else:
            with Path(text).open("rb") as file:
                data = file.read(_FILE_BYTES)
    except OSError as err:
        if err.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
            raise error("token.text", reason="it begins like none, and there is no file of that name") from err
        raise error("control.file", path=text, reason=err.strerror or err) from err
    return data.decode("ascii", "replace")
