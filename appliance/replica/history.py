"""History of one document: for each change with effect, in fold order, what it did to the values that people see.

A change is stored as operations over others; shown is what follows from them: of several values of a key that were set
at the same time the one with the greatest (counter, actor), as in Automerge. Putting and deleting what each change says
here gives exactly the values after it, at every place in the history. Pure: no Automerge, no disk, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from appliance.replica.change_codec import Change, OpId, Scalar
from appliance.replica.rows import ChangeRow


class DocumentChange(msgspec.Struct, frozen=True):
    """The net effect of one change; of a key whose shown value stays the same nothing is said."""

    change: bytes  # hash
    deps: tuple[bytes, ...]  # hashes of the changes that it follows directly
    author: bytes  # node id
    hlc: int  # of the batch that carried it
    batch: bytes  # hash
    puts: dict[str, Scalar]
    deletes: tuple[str, ...]  # sorted


class History:
    """Grows at its end, and is made again where something came in between. Not thread-safe."""

    def __init__(self) -> None:
        self.changes: tuple[DocumentChange, ...] = ()
        self._rows: list[ChangeRow] = []
        self._known: dict[bytes, tuple[bytes, Change]] = {}  # by hash: author and change
        self._shown: dict[str, dict[OpId, Scalar]] = {}

    def follow(self, rows: Sequence[ChangeRow], read: Callable[[ChangeRow], tuple[bytes, Change]]) -> None:
        """Bring `changes` up to these rows, in fold order; `read` gives author and change of one not seen yet.

        Costs what is new; where something came in between, all of it again, but nothing is read twice.
        """
        if self._rows == rows:
            return
        told = list(self.changes)
        if not told or rows[: len(told)] != self._rows:
            told, self._shown = [], {}
        self._rows = []  # an error on the way leaves a history that begins anew
        self._known = {row.change: self._known.get(row.change) or read(row) for row in rows}
        for row in rows[len(told) :]:
            author, change = self._known[row.change]
            puts, deletes = self._take(change)
            told.append(DocumentChange(change.hash, change.deps, author, row.hlc, row.batch, puts, deletes))
        self.changes, self._rows = tuple(told), list(rows)

    def _take(self, change: Change) -> tuple[dict[str, Scalar], tuple[str, ...]]:
        puts: dict[str, Scalar] = {}
        deletes: list[str] = []
        for number, op in enumerate(change.ops):
            values = self._shown.setdefault(op.key, {})
            before = _winner(values)
            for pred in op.preds:
                values.pop(pred, None)
            if not op.delete:
                values[change.start_op + number, change.actor] = op.value
            after = _winner(values)
            if after is None:
                del self._shown[op.key]
                if before is not None:  # somebody else may have deleted it at the same time
                    deletes.append(op.key)
            elif after != before:
                puts[op.key] = after[1]
        return puts, tuple(sorted(deletes))


def _winner(values: dict[OpId, Scalar]) -> tuple[type, Scalar] | None:
    """The value that is shown, with its type: true and 1 are not the same."""
    if not values:
        return None
    value = values[max(values)]
    return type(value), value
