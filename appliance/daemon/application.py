"""Application: what a node that asks to be admitted must not forget, in one private file of its data directory.

The file appears with the command, is written whole after each step that matters, and goes when the node follows the
mesh. It holds the token with its secret, so it is as private as a key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from appliance.core.errors import error
from appliance.daemon.membership import write_whole
from appliance.trust.keys import read_file

FILE: Final = "enrolment.json"
FILE_BYTES: Final = 262_144  # a token as text, a descriptor as base64, and words

ASKING: Final = "asking"  # no gateway has taken the request yet
REFUSED: Final = "refused"  # no gateway will


class Application(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node's way into one mesh. `state` is the mesh's, or one of the two above."""

    version: Literal[1] = 1
    text: str  # of the token, or of its short form until the token was fetched
    asked: str  # SHA-256 of the text that the person gave, in hex digits: that may be the short form for good
    name: str
    state: str = ASKING
    reason: str = ""  # an error key
    detail: dict[str, str] = {}  # what the message of that error names
    note: str = ""
    since_ms: int = 0
    gateway: str = ""
    descriptor: bytes = b""

    def __repr__(self) -> str:
        return f"Application(state={self.state!r}, reason={self.reason!r}, text=***)"


class ApplicationFile:
    """Reads and writes the file. Blocking: call it in a thread where the loop runs."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE

    def read(self) -> Application | None:
        """The application; None if there is none. Raises `config.file`, or `key.permissions` if others can read it."""
        if not self._path.exists():
            return None
        data = read_file(self._path, FILE_BYTES, private=True)
        try:
            return msgspec.json.decode(bytes(data), type=Application)
        except msgspec.DecodeError as err:
            raise error("config.file", path=self._path, reason=str(err)) from err

    def write(self, application: Application) -> None:
        """Replace it, durably."""
        write_whole(self._path, msgspec.json.encode(application))

    def remove(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)
