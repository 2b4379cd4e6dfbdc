"""Index of one document: which changes it holds, and whether another one fits them.

A change fits if it is what an honest writer would have made: its actor's next one, after changes that are here, with
the counter that follows from them, replacing exactly the values that they show for its keys (the 64 highest if there
are more). All this depends on the change and its past alone. The order of arrival decides two things only: of changes
with the same actor and number the first stays, and a full document takes no new key. The last change can be taken
back. This module holds no values and never touches Automerge, which believes whatever a change says of its past.

A row is a change, in order of arrival; an operation is `row << 16 | position`. Ancestry is a bit set of rows. A row
that followed all heads at its arrival *covers* everything before it, which ends most searches at once.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping

import msgspec

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.change_codec import Change, Op, OpId, Scalar, change_hash, encode_change

_POSITION_BITS = 16  # operations of a change: limits.change_ops is far below 65,536
_POSITION = (1 << _POSITION_BITS) - 1
_REMEMBERED = 256  # ancestries kept for the next question; 12 KiB each in a document of 100,000 changes


class Delete(msgspec.Struct, frozen=True):
    """In place of a value: the key goes away."""


DELETE = Delete()
Edits = Mapping[str, Scalar | Delete]


class Version(msgspec.Struct, frozen=True, order=True):
    """A visible operation on a key and the change that made it; the greatest wins."""

    counter: int
    actor: bytes
    change: bytes


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A change as the index keeps it on disk; what it refers to are rows, operations and positions."""

    hash: bytes
    actor: int
    start_op: int
    deps: tuple[int, ...]
    keys: tuple[str, ...]
    preds: tuple[tuple[int, ...], ...]
    deleted: tuple[int, ...]


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    actors: tuple[bytes, ...]
    rows: tuple[_Row, ...]


class DocIndex:
    """The changes of one document. Not thread-safe."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._row_of: dict[bytes, int] = {}
        self._hashes: list[bytes] = []
        self._actors: list[bytes] = []
        self._chains: dict[bytes, list[int]] = {}  # rows of an actor; the i-th has seq i + 1
        self._actor = array("L")
        self._start = array("Q")
        self._children = array("L")
        self._covers = bytearray()
        self._deps: list[tuple[int, ...]] = []
        self._keys: list[tuple[str, ...]] = []
        self._preds: list[tuple[tuple[int, ...], ...]] = []
        self._deleted: set[int] = set()
        self._history: dict[str, list[int]] = {}  # operations on a key, in order of rows
        self._heads: set[int] = set()
        self._pasts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, change: bytes) -> bool:
        return change in self._row_of

    def heads(self) -> tuple[bytes, ...]:
        """Hashes of the changes that no other follows, sorted."""
        return tuple(sorted([self._hashes[row] for row in self._heads]))

    def hashes(self) -> tuple[bytes, ...]:
        """Hashes of all changes in order of arrival."""
        return tuple(self._hashes)

    def versions(self, key: str) -> tuple[Version, ...]:
        """The visible operations on a key, winner first: several are a conflict, none is no such key."""
        visible = reversed(self._visible(key, None))
        return tuple([Version(*self._id(op), self._hashes[op >> _POSITION_BITS]) for op in visible])

    def conflicts(self) -> list[str]:
        """The keys with more than one visible operation, sorted. Linear in the number of keys."""
        return sorted([key for key in self._history if len(self._visible(key, None)) > 1])

    def admit(self, change: Change, actor: bytes) -> None:
        """Check that a change of `actor` fits. Raises `change.actor`, `.sequence`, `.ancestry`, `.bounds`."""
        if change.actor != actor:
            raise error("change.actor")
        rows = self._rows_before(change)
        if change.start_op != self._next_op(rows):
            raise error("change.ancestry")
        past = self._past_of(rows)
        for op in change.ops:
            if op.preds != (self._replaced(op.key, past) if op.key in self._history else ()):
                raise error("change.ancestry")
        new_keys = sum(op.key not in self._history for op in change.ops)
        if len(self._history) + new_keys > self._limits.doc_keys:
            raise error("change.bounds", reason=f"the document is full with {self._limits.doc_keys} keys")

    def add(self, change: Change) -> None:
        """Take in an admitted change. Raises `change.ancestry` if its past is not here."""
        preds = tuple([tuple([self._op(pred) for pred in op.preds]) for op in change.ops])
        deleted = tuple([position for position, op in enumerate(change.ops) if op.delete])
        deps = tuple([self._row(dep) for dep in change.deps])
        chain = self._chains.get(change.actor)
        if chain is None:
            chain = self._chains[change.actor] = []
            self._actors.append(change.actor)
        number = self._actor[chain[0]] if chain else self._actors.index(change.actor)
        self._append(_Row(change.hash, number, change.start_op, deps, change.keys, preds, deleted))

    def last_keys(self) -> tuple[str, ...]:
        """The keys that the last change touched; what `undo` would take back."""
        return self._keys[-1] if self._keys else ()

    def last_actor(self) -> bytes:
        """Who made the last change. IndexError if there is none."""
        return self._actors[self._actor[-1]]

    def undo(self) -> bytes:
        """Take back the last change that came; returns its hash. IndexError if there is none."""
        digest = self._hashes.pop()
        row = self._row_of.pop(digest)
        self._chains[self._actors[self._actor.pop()]].pop()
        self._start.pop()
        self._children.pop()
        self._covers.pop()
        self._preds.pop()
        self._pasts.pop(row, None)
        self._heads.discard(row)
        for dep in self._deps.pop():
            self._children[dep] -= 1
            if not self._children[dep]:
                self._heads.add(dep)
        for key in self._keys.pop():
            history = self._history[key]
            self._deleted.discard(history.pop())
            if not history:
                del self._history[key]
        return digest

    def next_change(self, actor: bytes, edits: Edits, time_s: int) -> Change:
        """The change by which `actor` makes these edits. Raises `document.schema` to delete nothing."""
        rows = self._parents(actor, edits)
        past = self._past_of(rows)
        ops: list[Op] = []
        for key, value in sorted(edits.items()):
            preds = self._replaced(key, past)
            if not isinstance(value, Delete):
                ops.append(Op(key, value, preds))
            elif preds:
                ops.append(Op(key, None, preds, delete=True))
            else:
                raise error("document.schema", name=key, reason="it is not there and cannot be deleted")
        deps = tuple(sorted([self._hashes[row] for row in rows]))
        seq = len(self._chains.get(actor, ())) + 1
        change = Change(deps, actor, seq, self._next_op(rows), tuple(ops), time_s)
        return msgspec.structs.replace(change, hash=change_hash(encode_change(change)))

    def dump(self) -> bytes:
        """The index as bytes for `load`; for our own disk, not for peers."""
        return msgspec.msgpack.encode(_Saved(tuple(self._actors), tuple(self._saved_rows())))

    @classmethod
    def load(cls, data: bytes, limits: Limits = LIMITS) -> DocIndex:
        """The index that `dump` wrote, from bytes known to be ours. Raises msgspec.DecodeError."""
        saved = msgspec.msgpack.decode(data, type=_Saved)
        index = cls(limits)
        index._actors = list(saved.actors)
        index._chains = {actor: [] for actor in saved.actors}
        for row in saved.rows:
            index._append(row)
        return index

    # ---- rows

    def _append(self, new: _Row) -> None:
        row = len(self._hashes)
        self._row_of[new.hash] = row
        self._hashes.append(new.hash)
        self._chains[self._actors[new.actor]].append(row)
        self._actor.append(new.actor)
        self._start.append(new.start_op)
        self._children.append(0)
        self._covers.append(self._heads.issubset(new.deps))
        self._deps.append(new.deps)
        keys = tuple([sys.intern(key) for key in new.keys])
        self._keys.append(keys)
        self._preds.append(new.preds)
        for dep in new.deps:
            self._children[dep] += 1
        self._heads.difference_update(new.deps)
        self._heads.add(row)
        first = row << _POSITION_BITS
        self._deleted.update([first + position for position in new.deleted])
        for position, key in enumerate(keys):
            self._history.setdefault(key, []).append(first + position)

    def _saved_rows(self) -> Iterable[_Row]:
        for row, digest in enumerate(self._hashes):
            first = row << _POSITION_BITS
            keys = self._keys[row]
            deleted = tuple([position for position in range(len(keys)) if first + position in self._deleted])
            facts = (self._actor[row], self._start[row], self._deps[row], keys, self._preds[row])
            yield _Row(digest, *facts, deleted)

    def _row(self, change: bytes) -> int:
        row = self._row_of.get(change)
        if row is None:
            raise error("change.ancestry")
        return row

    def _rows_before(self, change: Change) -> list[int]:
        """Rows of the dependencies, with the actor's previous change among them."""
        if change.hash in self._row_of:
            raise error("change.sequence", reason="it is here already")
        chain = self._chains.get(change.actor, [])
        if change.seq != len(chain) + 1:
            raise error("change.sequence", reason=f"it has the number {change.seq}, not {len(chain) + 1}")
        rows = [self._row(dep) for dep in change.deps]
        if chain and chain[-1] not in rows:
            raise error("change.sequence", reason="it does not follow it directly")
        return rows

    def _next_op(self, rows: Iterable[int]) -> int:
        """Counter of the first operation of a change that follows these rows."""
        return max([self._start[row] + len(self._keys[row]) for row in rows], default=1)

    def _parents(self, actor: bytes, edits: Edits) -> list[int]:
        """Rows for a new change to follow: the actor's last, then heads, those that are replaced first."""
        own = self._chains.get(actor, [])[-1:]
        heads = self._heads.difference(own)
        if len(heads) + len(own) > self._limits.change_deps:
            replaced = {op >> _POSITION_BITS for key in edits for op in self._visible(key, None)}
            ranked = sorted(heads, key=lambda row: (row in replaced, row), reverse=True)
            return own + ranked[: self._limits.change_deps - len(own)]
        return own + list(heads)

    # ---- operations

    def _id(self, op: int) -> OpId:
        row = op >> _POSITION_BITS
        return self._start[row] + (op & _POSITION), self._actors[self._actor[row]]

    def _op(self, identity: OpId) -> int:
        """The operation with a Lamport identity."""
        counter, actor = identity
        chain = self._chains.get(actor, [])
        place = bisect_right(chain, counter, key=self._start.__getitem__) - 1
        row = chain[place] if place >= 0 else None
        if row is None or (position := counter - self._start[row]) >= len(self._keys[row]):
            raise error("change.ancestry")
        return row << _POSITION_BITS | position

    def _replaced(self, key: str, past: int | None) -> tuple[OpId, ...]:
        """What an operation on a key must replace if it is made with this past."""
        visible = self._visible(key, past)
        return tuple([self._id(op) for op in visible[-self._limits.change_preds :]])

    def _visible(self, key: str, past: int | None) -> list[int]:
        """Operations that show on a key to somebody who saw `past` (None: everything), the winner last."""
        replaced: set[int] = set()
        visible: list[int] = []
        for op in reversed(self._history.get(key, ())):
            row = op >> _POSITION_BITS
            if past is not None and not past >> row & 1:
                continue
            if op not in replaced and op not in self._deleted:
                visible.append(op)
            preds = self._preds[row][op & _POSITION]
            replaced.update(preds)
            if len(preds) < self._limits.change_preds:  # it replaced all that was in its own past
                past = past and past & ~self._pasts.get(row, 0)
                if self._covers[row] or past == 0:
                    break
        if len(visible) > 1:
            visible.sort(key=self._id)
        return visible

    # ---- ancestry

    def _past_of(self, rows: Iterable[int]) -> int | None:
        """The bit set of these rows and all that is before them; None if that is everything."""
        if self._heads.issubset(rows):
            return None
        bits = 0
        for row in rows:
            known = self._known_past(row)
            if known is None:
                known = self._walk(row)
                if len(self._pasts) >= _REMEMBERED:
                    del self._pasts[next(iter(self._pasts))]
                self._pasts[row] = known
            bits |= known
        return bits

    def _known_past(self, row: int) -> int | None:
        return (2 << row) - 1 if self._covers[row] else self._pasts.get(row)

    def _walk(self, row: int) -> int:
        bits = 0
        pending = [row]
        while pending:
            current = pending.pop()
            if bits >> current & 1:
                continue
            known = self._known_past(current)
            if known is None:
                bits |= 1 << current
                pending += self._deps[current]
            else:
                bits |= known
        return bits
