"""Documents of a mesh during the fold: which changes have effect, and the values that follow from them.

The changes come and go in the order of the fold (`admit`, `retract`); the values are read once the fold of a group is
through (`settle`). What a document is for, and who may write which of its keys, is a row in DOCUMENTS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch, short
from appliance.replica.change_codec import Change, Op, Scalar, check_flat_map, decode_change
from appliance.replica.document import Document
from appliance.replica.entries import ChangeEntry, parse
from appliance.replica.rows import ChangeRow, DocumentRow
from appliance.replica.stores import Indexed, View
from appliance.trust.grants import Role

Name = tuple[str, int]  # document, epoch
NODES: Name = ("nodes", 0)
TAG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # a label of a host name, RFC 1123 section 2.1
NAME_CHARS = 64
_NODE_KEY = re.compile(rf"node1[02-9ac-hj-np-z]{{58}}/(?:tag/(?P<tag>{TAG.pattern})|name)")


class DocumentKind(msgspec.Struct, frozen=True):
    """Who may change a document, and the scope (tags) of a key; None where it belongs to the whole mesh."""

    need: Role
    scope: Callable[[Op], frozenset[str] | None]


def _nodes_scope(op: Op) -> frozenset[str] | None:
    key, value = op.key, op.value
    match = _NODE_KEY.fullmatch(key)
    if match is None:
        raise error("document.schema", name=key[:96], reason="it is no node's tag or name")
    tag = match["tag"]
    fits = value is True if tag else isinstance(value, str) and 1 <= len(value) <= NAME_CHARS
    if not op.delete and not fits:
        raise error("document.schema", name=key[:96], reason="a tag is true, a name is a text of 1 to 64 characters")
    return frozenset({tag}) if tag else None


DOCUMENTS: dict[Name, DocumentKind] = {NODES: DocumentKind(Role.ADMIN, _nodes_scope)}


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


def changes_in_effect(view: View, name: Name) -> list[ChangeRow]:
    """Changes of a document that have effect, in the order of the fold."""
    rows = [row for row in view.rows(ChangeRow) if isinstance(row, ChangeRow) and (row.document, row.epoch) == name]
    return sorted(rows, key=lambda row: (row.hlc, row.batch, row.entry))


def read_chunks(view: View, read: Callable[[Indexed], SignedBatch], name: Name) -> Iterator[bytes]:
    """The chunks of these changes, out of the log."""
    for row in changes_in_effect(view, name):
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
    return Cached(saved, tuple(row.change for row in changes_in_effect(view, name)))
