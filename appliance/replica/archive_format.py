"""Archive format: signed batches in one file, written and read as a stream, in memory for one batch.

    magic "x0t-archive/1\\n" | u32 length, header | (u32 length, COSE_Sign1) ... | u32 0 | SHA-256 of all before

Numbers are big-endian; the header is deterministic CBOR (RFC 8949 section 4.2.1). The digest finds accidents; against
malice each batch has its own signature. The reader takes any bytes and answers what is not of this form with an
`archive.*` error. It judges no batch. ADR 0009 has the reasons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Annotated, Literal, Protocol

import msgspec

from appliance.core import canonical
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import Hash

MAGIC = b"x0t-archive/1\n"
HEADER_BYTES = 4_096  # a key of 1,952 bytes, a mesh id, a few numbers
_COUNT = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_EPOCH = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class Header(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What a file says of itself. `epoch`: it is the archive of this epoch, 0 for an export of all that is there.

    `after`: batches in the archives up to this epoch are not in it, 0 if it stands alone.
    """

    version: Literal[1] = 1
    mesh: Hash
    authority_key: Annotated[bytes, msgspec.Meta(min_length=1952, max_length=1952)]  # FIPS 204, table 2
    channel: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    epoch: _EPOCH
    after: _EPOCH
    count: _COUNT


class File(Protocol):
    """A file by its name; `appliance.storage.archive_file` is the real one."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def exists(self) -> bool:
        """True if there is something under this name."""
        ...

    def create(self) -> AbstractContextManager[IO[bytes]]:
        """To be written; it appears under its name, whole and durable, when the context ends well."""
        ...

    def open(self) -> AbstractContextManager[IO[bytes]]:
        """To be read."""
        ...


class ArchiveWriter:
    """Writes one file front to back."""

    def __init__(self, out: IO[bytes], header: Header) -> None:
        self._out = out
        self._left = header.count
        self._digest = hashlib.sha256()
        fields = msgspec.to_builtins(header, builtin_types=(bytes,))
        self._put(MAGIC)
        self._put_sized(canonical.encode(fields))

    def add(self, blob: bytes) -> None:
        """Append one signed batch."""
        self._left -= 1
        self._put_sized(blob)

    def finish(self) -> None:
        """Write the end. Raises `archive.changed` if there are not as many batches as the header says."""
        if self._left:
            raise error(
                "archive.changed", reason=f"{abs(self._left)} batches too {'few' if self._left > 0 else 'many'}"
            )
        self._put((0).to_bytes(4, "big"))
        self._out.write(self._digest.digest())

    def _put_sized(self, data: bytes) -> None:
        self._put(len(data).to_bytes(4, "big") + data)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._out.write(data)


class ArchiveReader:
    """Reads one file front to back; `digest` is known once it is read to the end."""

    def __init__(self, file: IO[bytes], limits: Limits = LIMITS) -> None:
        self._file = file
        self._limits = limits
        self._hash = hashlib.sha256()
        self._count = 0
        self.digest = b""
        if self._file.read(len(MAGIC)) != MAGIC:
            raise error("archive.form", reason="it does not begin like one")
        self._hash.update(MAGIC)
        self.header = self._header()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(offset, blob) of each batch; raises `archive.*` where the file is not of the form."""
        while size := self._size(self._limits.batch_bytes):
            if self._count == self.header.count:
                raise error("archive.damaged", reason="it holds more batches than its header says")
            offset = self._file.tell()
            yield offset, self._take(size)
            self._count += 1
        if self._count != self.header.count:
            raise error("archive.damaged", reason=f"it holds {self._count} of {self.header.count} batches")
        self.digest = self._hash.digest()
        if self._exactly(32) != self.digest:
            raise error("archive.damaged", reason="its digest does not match")
        if self._file.read(1):
            raise error("archive.damaged", reason="something follows its end")

    def again(self, offset: int) -> bytes:
        """A batch that was read before, by its offset; reading goes on where it was."""
        place = self._file.tell()
        self._file.seek(offset - 4)
        blob = self._exactly(int.from_bytes(self._exactly(4), "big"))
        self._file.seek(place)
        return blob

    def _header(self) -> Header:
        data = self._take(self._size(HEADER_BYTES))
        try:
            return msgspec.convert(canonical.decode(data), Header, builtin_types=(bytes,))
        except (X0tError, msgspec.ValidationError) as err:
            raise error("archive.form", reason=f"its header: {err}") from err

    def _size(self, limit: int) -> int:
        size = int.from_bytes(self._take(4), "big")
        if size > limit:
            raise error("archive.damaged", reason=f"a part of {size} bytes where at most {limit} are allowed")
        return size

    def _take(self, size: int) -> bytes:
        data = self._exactly(size)
        self._hash.update(data)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise error("archive.truncated", batches=self._count)
        return data
