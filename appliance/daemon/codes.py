"""Codes: the tokens that this gateway gives to who comes with the short form of one, in one private file.

The file holds tokens with their secrets, so it is as private as a key, and each stays only for as long as the token can
be used. A code itself is in no file: it is known by its hash.
"""

from __future__ import annotations

import threading
from collections.abc import Set
from pathlib import Path
from typing import Final

import msgspec

from appliance.admission.gateway import code_hash
from appliance.core.errors import error
from appliance.daemon.membership import write_whole
from appliance.trust.keys import read_file

FILE: Final = "codes.json"
FILE_BYTES: Final = 8 << 20  # some 500 tokens as text


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: bytes  # its id
    text: str

    def __repr__(self) -> str:
        return "_Kept(***)"


class Codes:
    """Reads and writes the file. `find` and `tokens` answer at once; the rest blocks: call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._kept: dict[str, _Kept] = {}  # by the hash of the code, as hex digits; replaced, never changed
        self._writing = threading.Lock()

    def load(self) -> None:
        """Read the file. Raises `config.file`, or `key.permissions` if others can read it."""
        if not self._path.exists():
            return
        data = bytes(read_file(self._path, FILE_BYTES, private=True))
        try:
            self._kept = msgspec.json.decode(data, type=dict[str, _Kept])
        except msgspec.DecodeError as err:
            raise error("config.file", path=self._path, reason=str(err)) from err

    def keep(self, code: bytes, token: bytes, text: str) -> None:
        """Give this token to who brings this code."""
        with self._writing:
            self._write(self._kept | {code_hash(code).hex(): _Kept(token, text)})

    def find(self, code: bytes) -> str | None:
        """The text of the token for a code."""
        kept = self._kept.get(code_hash(code).hex())
        return None if kept is None else kept.text

    def tokens(self) -> frozenset[bytes]:
        """Ids of the tokens that are kept."""
        return frozenset(kept.token for kept in self._kept.values())

    def forget(self, tokens: Set[bytes]) -> None:
        """Keep these no longer: nobody can use them any more."""
        with self._writing:
            left = {digest: kept for digest, kept in self._kept.items() if kept.token not in tokens}
            if len(left) < len(self._kept):
                self._write(left)

    def _write(self, kept: dict[str, _Kept]) -> None:
        write_whole(self._path, msgspec.json.encode(kept))
        self._kept = kept
