"""Documents of a mesh during the fold: which changes have effect, and the values that follow from them.

The changes come and go in the order of the fold (`admit`, `retract`); the values are read once the fold of a group is
through (`settle`). What a document is for, and who may write which of its keys, is a row in DOCUMENTS (document_kinds).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch, short
from appliance.replica.change_codec import Change, Scalar, check_flat_map, decode_change
from appliance.replica.document import Document
from appliance.replica.document_kinds import DOCUMENTS, Name
from appliance.replica.entries import ChangeEntry, parse
from appliance.replica.rows import DocumentRow
from appliance.replica.stores import Indexed, View


class Cached(NamedTuple):
    """A document as it was saved, and the changes that have effect now, in fold order."""

    saved: bytes
    changes: tuple[bytes, ...]


class Documents:
    """All documents of one replica, opened when first needed. `chunks(name)`: changes with effect, in fold order.

    `cached(name)` may save the work of reading them; a cache that does not fit is as good as none.
    """

    def __init__(
        self,
        chunks: Callable[[Name], Iterable[bytes]],
        limits: Limits = LIMITS,
        cached: Callable[[Name], Cached | None] = lambda _name: None,
    ) -> None:
        self._chunks = chunks
        self._limits = limits
        self._cached = cached
        self._open: dict[Name, Document] = {}
        self._touched: dict[Name, set[str]] = {}
        self._unsaved: set[Name] = set()

    def decode(self, body: ChangeEntry) -> Change:
        """The change of an entry, strictly. Raises `change.*` or `document.*`."""
        if (body.document, body.epoch) not in DOCUMENTS:
            raise error("document.unknown", document=body.document[:96])
        change = decode_change(body.chunk, self._limits)
        check_flat_map(change, self._limits)
        return change

    def scope(self, name: Name, change: Change) -> frozenset[str]:
        """Tags that a change touches; empty if it touches what belongs to the whole mesh. Raises `document.schema`."""
        kind = DOCUMENTS[name]
        scopes = [kind.scope(op) for op in change.ops]
        return frozenset() if None in scopes else frozenset().union(*[scope for scope in scopes if scope])

    def admit(self, name: Name, change: Change, chunk: bytes, author: bytes) -> None:
        """Give a change effect at this place in the fold. Raises `change.*` if it does not fit."""
        self._document(name).take(change, chunk, actor_id(author, *name))
        self._unsaved.add(name)
        self._touched.setdefault(name, set()).update(change.keys)

    def retract(self, name: Name, change: bytes) -> None:
        """Take back the last change that has effect; the fold goes back one place."""
        document = self._document(name)
        self._unsaved.add(name)
        self._touched.setdefault(name, set()).update(document.index.last_keys())
        if document.undo() != change:
            raise error("replica.corrupt", what=name[0], reason="the document index does not follow the journal")

    def settle(self) -> Iterator[tuple[Name, list[str], list[DocumentRow]]]:
        """For each document that changed since the last call: the touched keys, and the rows that they have now."""
        touched, self._touched = self._touched, {}
        for name, keys in sorted(touched.items()):
            document = self._document(name)
            rows = [row for key in sorted(keys) if (row := _row(name, key, document)) is not None]
            yield name, sorted(keys), rows

    def edit(self, name: Name, puts: Mapping[str, Scalar], deletes: Sequence[str], author: bytes, time_s: int) -> bytes:
        """The chunk of a change that makes these edits to the document as it is now."""
        return self._document(name).edit(puts, deletes, actor_id(author, *name), time_s)

    def holds(self, name: Name, key: str) -> bool:
        """True if a document has a value under this key."""
        return key in self._document(name)

    def values(self, name: Name, prefix: str) -> dict[str, Scalar]:
        """Values of a document whose key begins with a prefix."""
        return {key: value for key, value in self._document(name).items() if key.startswith(prefix)}

    def caches(self) -> Iterator[tuple[Name, bytes]]:
        """What is worth saving before a stop."""
        for name in sorted(self._unsaved):
            if name in self._open and not self._open[name].is_broken:
                yield name, self._open[name].dump()

    def close(self) -> None:
        """Forget what is in memory; it is read again when needed."""
        self._open.clear()
        self._touched.clear()

    def _document(self, name: Name) -> Document:
        document = self._open.get(name)
        if document is None:
            document = self._open[name] = self._from_cache(name) or self._from_log(name)
        elif document.is_broken:
            document = self._open[name] = self._from_log(name)
        return document

    def _from_log(self, name: Name) -> Document:
        return Document.build(self._chunks(name), name[0], self._limits)

    def _from_cache(self, name: Name) -> Document | None:
        cached = self._cached(name)
        if cached is None:
            return None
        try:
            document = Document.load(cached.saved, name[0], self._limits)
        except X0tError:
            return None
        return document if document.index.hashes() == cached.changes else None


def actor_id(author: bytes, document: str, epoch: int) -> bytes:
    """The Automerge actor as which an author writes a document: bound to all three, so no change can be moved."""
    return hashlib.sha256(b"x0t/actor/1" + author + document.encode() + epoch.to_bytes(4, "big")).digest()


def _row(name: Name, key: str, document: Document) -> DocumentRow | None:
    texts = [msgspec.json.encode(conflict.value).decode() for conflict in document.conflicts(key)]
    if not texts:
        return None
    return DocumentRow(
        document=name[0], epoch=name[1], key=key, value=texts[0], rivals=tuple(sorted(set(texts[1:]) - {texts[0]}))
    )


def read_chunks(view: View, read: Callable[[Indexed], SignedBatch], name: Name) -> Iterator[bytes]:
    """The chunks of these changes, out of the log."""
    for row in view.changes_of(name):
        indexed = view.lookup(row.batch)
        if indexed is None:
            raise error("replica.corrupt", what="view", reason=f"batch {short(row.batch)} is not in the index")
        body = parse(*read(indexed).batch.entries[row.entry])
        if isinstance(body, ChangeEntry):
            yield body.chunk


def read_cache(view: View, name: Name) -> Cached | None:
    """What the view keeps of a document from the last clean stop."""
    saved = view.document_cache(name)
    if saved is None:
        return None
    return Cached(saved, tuple(row.change for row in view.changes_of(name)))
