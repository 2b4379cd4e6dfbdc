"""Facade over Automerge 1.0.0rc1: one document, a flat map of text keys to plain values.

Only four things of Automerge are used: load, receive one change, read, save. It gets nothing but chunks
that the strict decoder and the index accepted, one hand-built sync message each, because its Python API has
no apply. It never writes: `edit` makes a change in pure Python, so an edit that is not logged in the end
leaves no trace. Whatever Automerge raises, a Rust panic included (a BaseException), ends as
`document.panic` and closes the document: the caller builds it again from the log. This module reads no
clock and no disk. ADR 0004 has the reasons and the measured facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import msgspec
from automerge import core

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.change_codec import Change, Scalar, check_flat_map, decode_change, encode_change
from appliance.replica.change_columns import uint_bytes
from appliance.replica.doc_index import DELETE, DocIndex, Edits, Version

_SYNC_HEAD = b"\x42\0\0\0\1"  # a sync message with no heads, needs or haves, and one change
_CACHE_HEAD = b"x0t-document/1\n"
_DIGEST_BYTES = 32


class Conflict(NamedTuple):
    """One of several values that were set on a key at the same time, and by which change and actor."""

    value: Scalar
    counter: int
    actor: bytes
    change: bytes


class _Cache(msgspec.Struct, frozen=True, array_like=True):
    index: bytes
    automerge: bytes


class Document:
    """One document. Not thread-safe. After `document.panic` every call raises it again: build a new one."""

    def __init__(self, name: str = "", limits: Limits = LIMITS) -> None:
        self.name = name
        self._limits = limits
        self._index = DocIndex(limits)
        self._surplus: dict[bytes, bytes] = {}  # changes that Automerge still holds although undone, and their actors
        self._broken = False
        with self._contained():
            self._core = core.Document()

    @classmethod
    def build(cls, chunks: Iterable[bytes], name: str = "", limits: Limits = LIMITS) -> Document:
        """A document of accepted changes in any order.

        Raises `document.rebuild` if a change is damaged or what it follows is missing.
        """
        document = cls(name, limits)
        try:
            decoded = [(decode_change(chunk, limits), chunk) for chunk in chunks]
            ordered = list(_in_causal_order([change for change, _ in decoded]))
            for change in ordered:
                check_flat_map(change, limits)
                document._index.admit(change, change.actor)
                document._index.add(change)
            kept = {change.hash: chunk for change, chunk in decoded}
            document._load(b"".join([kept[change.hash] for change in ordered]))
        except X0tError as err:
            raise error("document.rebuild", document=name) from err
        return document

    @property
    def index(self) -> DocIndex:
        """What the document holds; to be read only."""
        return self._index

    @property
    def is_broken(self) -> bool:
        """True after `document.panic`: its owner builds another from the log."""
        return self._broken

    def admit(self, chunk: bytes, actor: bytes) -> Change:
        """Decode a change of `actor` and check that it fits, without taking it in. Raises `change.*`."""
        change = decode_change(chunk, self._limits)
        check_flat_map(change, self._limits)
        self._index.admit(change, actor)
        return change

    def apply(self, chunk: bytes, actor: bytes) -> Change:
        """Admit a change and take it in. Raises `change.*` with nothing changed, or `document.panic`."""
        change = decode_change(chunk, self._limits)
        check_flat_map(change, self._limits)
        self.take(change, chunk, actor)
        return change

    def take(self, change: Change, chunk: bytes, actor: bytes) -> None:
        """As `apply`, for a caller that has decoded the chunk and checked its form already."""
        self._check_open()
        self._index.admit(change, actor)
        if self._surplus.pop(change.hash, None) is None:
            if change.actor in self._surplus.values():
                with self._settled():  # a log forked: Automerge would not take another change with the same number
                    pass
            self._receive(chunk, change)
        self._index.add(change)

    def undo(self) -> bytes:
        """Take back the last change; returns its hash. Cheap, unless it stays undone until the next read."""
        self._check_open()
        actor, digest = self._index.last_actor(), self._index.undo()
        self._surplus[digest] = actor
        return digest

    def edit(self, puts: Mapping[str, Scalar], deletes: Sequence[str], actor: bytes, time_s: int) -> bytes:
        """The chunk of one change by `actor`; the document stays as it is until it is applied.

        Raises `document.schema` for what a document cannot hold, `change.bounds` for too much at once.
        """
        for key, value in puts.items():
            if not _is_plain(key) or not _is_plain(value):
                raise error("document.schema", document=self.name, name=key, reason="not a plain value")
        edits: Edits = {**puts, **dict.fromkeys(deletes, DELETE)}
        chunk = encode_change(self._index.next_change(actor, edits, time_s))
        self.admit(chunk, actor)
        return chunk

    def __contains__(self, key: str) -> bool:
        return bool(self._index.versions(key))

    def __len__(self) -> int:
        with self._settled():
            return self._core.length(core.ROOT)

    def get(self, key: str) -> Scalar:
        """The value of a key; None if it is null or not there (`in` tells)."""
        if key not in self:  # nor does a text that is not Unicode get to Automerge
            return None
        with self._settled():
            found = self._core.get(core.ROOT, key)
        return None if found is None else _scalar(found[0])

    def items(self) -> list[tuple[str, Scalar]]:
        """All keys and values, in order of keys."""
        with self._settled():
            keys, values = self._core.keys(core.ROOT), self._core.values(core.ROOT)
        return [(key, _scalar(value)) for key, (value, _) in zip(keys, values, strict=True)]

    def conflicts(self, key: str) -> list[Conflict]:
        """Every value that shows on a key, the winner first; a single one is no conflict."""
        return [
            Conflict(self._value_of(key, version), version.counter, version.actor, version.change)
            for version in self._index.versions(key)
        ]

    def heads(self) -> tuple[bytes, ...]:
        """Hashes of the changes that no other follows, sorted. Equal heads mean equal documents."""
        return self._index.heads()

    def dump(self) -> bytes:
        """The document as bytes for `load`: a cache for our own disk, never for a peer."""
        with self._settled():
            saved = bytes(self._core.save())
        body = msgspec.msgpack.encode(_Cache(self._index.dump(), saved))
        return _CACHE_HEAD + hashlib.sha256(body).digest() + body

    @classmethod
    def load(cls, cache: bytes, name: str = "", limits: Limits = LIMITS) -> Document:
        """The document that `dump` wrote. Raises `document.cache`: then build from the changes."""
        body = cache[len(_CACHE_HEAD) + _DIGEST_BYTES :]
        if cache != _CACHE_HEAD + hashlib.sha256(body).digest() + body:
            raise error("document.cache", document=name, reason="it is damaged or of another release")
        document = cls(name, limits)
        try:
            saved = msgspec.msgpack.decode(body, type=_Cache)
            document._index = DocIndex.load(saved.index, limits)
            document._load(saved.automerge)
        except (X0tError, msgspec.MsgspecError, LookupError) as err:
            raise error("document.cache", document=name, reason="it does not load") from err
        return document

    # ---- Automerge

    def _value_of(self, key: str, version: Version) -> Scalar:
        """The value as its own change left it: its counter is above all in its past, so there it wins."""
        with self._settled():
            found = self._core.get(core.ROOT, key, [version.change])
        return None if found is None else _scalar(found[0])

    def _receive(self, chunk: bytes, change: Change) -> None:
        message = _SYNC_HEAD + uint_bytes(len(chunk)) + chunk
        with self._contained(change):
            self._core.receive_sync_message(core.SyncState(), core.Message.decode(message))
            taken = change.hash in self._core.get_heads()  # what Automerge dislikes is dropped in silence
        if not taken:
            raise self._closed(change)

    def _load(self, data: bytes) -> None:
        """Put what Automerge loads from its own bytes or from change chunks in place of what it holds."""
        with self._contained():
            self._core = core.Document.load(data)
            heads = sorted(self._core.get_heads())
        if tuple(heads) != self._index.heads():
            raise self._closed(None)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Around a read: Automerge holds the changes of the index, no others. Linear after an undo."""
        self._check_open()
        if self._surplus:
            with self._contained():
                changes = self._core.get_changes([])
                chunks = [bytes(change.raw_bytes) for change in changes if change.hash not in self._surplus]
            self._load(b"".join(chunks))
            self._surplus.clear()
        with self._contained():
            yield

    @contextmanager
    def _contained(self, change: Change | None = None) -> Iterator[None]:
        """Around each call into Automerge: no exception leaves it as it is, but for interrupts and exits."""
        try:
            yield
        except BaseException as err:
            closed = self._closed(change)
            if isinstance(err, Exception) or _is_panic(err):
                raise closed from err
            raise

    def _closed(self, change: Change | None) -> X0tError:
        """Close the document, whose state is not known any more; returns the error to raise."""
        self._broken = True
        return error("document.panic", document=self.name, change=change.hash if change else "unknown")

    def _check_open(self) -> None:
        if self._broken:
            raise self._closed(None)


def _is_panic(err: BaseException) -> bool:
    """True for a Rust panic: PyO3 makes the type at run time and offers nothing to import."""
    return type(err).__name__ == "PanicException" and type(err).__module__ == "pyo3_runtime"


def _scalar(value: core.Value) -> Scalar:
    """A value as Automerge returns it, which gives bytes as a list of numbers."""
    _, plain = cast("tuple[core.ScalarType, Scalar | list[int]]", value)
    return bytes(plain) if isinstance(plain, list) else plain


def _is_plain(value: object) -> bool:
    """True for what a document can hold: callers may have been less strict than their types."""
    match value:
        case None | bool() | bytes():
            return True
        case int():
            return -(1 << 63) <= value < 1 << 64
        case str():
            return not any("\ud800" <= char <= "\udfff" for char in value)  # surrogates have no UTF-8
        case _:
            return False


def _in_causal_order(changes: Sequence[Change]) -> Iterator[Change]:
    """Each change once, after those that it follows, otherwise in the order given."""
    waiting = {change.hash: change for change in changes}
    for change in changes:
        pending = [change.hash]
        while pending:
            current = waiting.get(pending[-1])
            if current is None:
                pending.pop()
                continue
            before = [dep for dep in current.deps if dep in waiting]
            if before:
                pending += before
            else:
                yield waiting.pop(pending.pop())
