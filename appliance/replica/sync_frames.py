"""Frames of the sync protocol: a length of four bytes, then one canonical CBOR array [type, field, ...].

Writes frames and cuts the byte stream of a peer back into them, strictly: what is not exactly a frame raises
`sync.garbage` or `sync.frame_size`. It buffers no more than one frame, and never decides what a frame may do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, TypeAlias

import msgspec

from appliance.core import canonical
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.vector import BUCKET_DIGEST_BYTES, BUCKETS

PROTOCOL: Final = 1  # goes up with every change that an older node would not understand
LENGTH_BYTES: Final = 4
WANT_HASHES: Final = 256  # hashes of one Want or Answer
WANT_DEPTH: Final = 255  # predecessors that may be asked for with a batch
BATCHES_BYTES: Final = 65_536  # a frame of batches is closed at this size: 26 kbit/s pass it within the stall time
ENTRIES_BYTES: Final = 65_536  # the same for entries of the vector

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Hashes = Annotated[tuple[Hash, ...], msgspec.Meta(max_length=WANT_HASHES)]
Count = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Each side's first frame. `window`: bytes of batches that may be under way to it."""

    version: int
    mesh: Hash
    channel: Annotated[str, msgspec.Meta(max_length=32)]
    digest: Hash
    window: Count


class Round(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Compare again: the digest of the sender's vector."""

    digest: Hash


class Buckets(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """The digests of all buckets, when the digests differed."""

    digests: Annotated[
        bytes,
        msgspec.Meta(min_length=BUCKETS * BUCKET_DIGEST_BYTES, max_length=BUCKETS * BUCKET_DIGEST_BYTES),
    ]


class Entries(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """Entries of the buckets that differ, packed, ascending over all frames up to the `last`."""

    packed: bytes
    last: bool


class Batches(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """Signed batches; their bytes use up credit."""

    blobs: Annotated[tuple[Annotated[bytes, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)]


class Credit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """The sender stored batches of so many bytes: as many more may come."""

    grant: Count


class Done(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """All that the receiver's entries showed missing was sent."""


class Want(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """Batches named by others that came, each with up to `depth` predecessors of its author."""

    hashes: Annotated[tuple[Hash, ...], msgspec.Meta(min_length=1, max_length=WANT_HASHES)]
    depth: Annotated[int, msgspec.Meta(ge=0, le=WANT_DEPTH)]


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """The Want before it is answered; these were not found."""

    missing: Hashes


class Archived(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """Some of what is missing lies in the archive of this epoch (0: not known which) and cannot be sent."""

    epoch: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Ping(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=11):
    """Still here, with this digest. Sent only when nothing else is."""

    digest: Hash


class Bye(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=12):
    """The last frame: the error key, or nothing where all is well."""

    key: Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z0-9._]*$")]


Frame: TypeAlias = Hello | Round | Buckets | Entries | Batches | Credit | Done | Want | Answer | Archived | Ping | Bye


def encode(frame: Frame) -> bytes:
    """One frame as bytes. Batches of more than `BATCHES_BYTES` are the caller's to split."""
    body = canonical.encode(msgspec.to_builtins(frame, builtin_types=(bytes,)))
    return len(body).to_bytes(LENGTH_BYTES) + body


def encode_entries(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Entries over as many frames as they need, the last one marked; at least one frame."""
    parts: list[bytes] = []
    size = 0
    for entry in packed:
        if parts and size + len(entry) > ENTRIES_BYTES:
            yield encode(Entries(b"".join(parts), last=False))
            parts, size = [], 0
        parts.append(entry)
        size += len(entry)
    yield encode(Entries(b"".join(parts), last=True))


def encode_batches(blobs: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Batches over as many frames as they need, none for none; each with the bytes of its batches."""
    parts: list[bytes] = []
    size = 0
    for blob in blobs:
        if parts and size + len(blob) > BATCHES_BYTES:
            yield encode(Batches(tuple(parts))), size
            parts, size = [], 0
        parts.append(blob)
        size += len(blob)
    if parts:
        yield encode(Batches(tuple(parts))), size


class FrameReader:
    """Bytes in, frames out."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames that are complete with `data`. To be used up before the next call.

        Raises `sync.frame_size` as soon as the length is known, `sync.garbage` for a frame that is none.
        """
        self._buffer += data
        at = 0
        try:
            while (end := self._end_of_frame(at)) is not None:
                body = bytes(self._buffer[at + LENGTH_BYTES : end])
                at = end
                yield self._parse(body)
        finally:
            del self._buffer[:at]

    def _end_of_frame(self, at: int) -> int | None:
        """Where the frame at `at` ends, if all of it is here."""
        start = at + LENGTH_BYTES
        if start > len(self._buffer):
            return None
        size = int.from_bytes(self._buffer[at:start])
        if size > self._limits.sync_frame_bytes:
            raise error("sync.frame_size", size=size, limit=self._limits.sync_frame_bytes)
        return start + size if start + size <= len(self._buffer) else None

    def _parse(self, body: bytes) -> Frame:
        try:
            frame: Frame = msgspec.convert(canonical.decode(body, limits=self._limits), Frame)
        except (X0tError, msgspec.ValidationError) as err:
            raise error("sync.garbage", reason=str(err)) from err
        return frame
