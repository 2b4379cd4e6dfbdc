"""Strict codec of Automerge change chunks: bytes in, records out, and back to the very same bytes.

Automerge 1.0.0rc1 accepts changes that it can never load again, and its core is native code. So nothing
from a peer reaches it before this decoder has read every bit: an uncompressed change chunk (type 1 of the
Automerge binary format) whose operations set or delete plain values in the root map, and which encodes to
the same bytes. A compressed chunk is refused because one change has many deflate streams, a document chunk
because a small one can need gigabytes. This module never looks at a document: `doc_index` decides whether a
change fits it.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import assert_never

import msgspec

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.replica import change_columns as col
from appliance.replica.change_columns import Reader, malformed, uint_bytes

Scalar = None | bool | int | str | bytes
OpId = tuple[int, bytes]  # Lamport identity: counter, actor; the greatest of a key's visible operations wins

MAGIC = b"\x85\x6f\x4a\x83"
CHANGE_CHUNK = 1
HASH_BYTES = ACTOR_BYTES = 32
MAX_TIME_S = 253_402_300_799  # 9999-12-31T23:59:59Z
MAX_COUNTER = (1 << 32) - 1  # Automerge keeps counters in 32 bits

_BODY = 8  # offset of what is hashed: type, length, body
_SET, _DELETE = 1, 3
_KEY, _INSERT, _ACTION, _VALUE_META, _VALUE = 0x15, 0x34, 0x42, 0x56, 0x57
_PRED_COUNT, _PRED_ACTOR, _PRED_COUNTER = 0x70, 0x71, 0x73
_COLUMNS = frozenset((_KEY, _INSERT, _ACTION, _VALUE_META, _VALUE, _PRED_COUNT, _PRED_ACTOR, _PRED_COUNTER))
_NULL, _FALSE, _TRUE, _UINT, _INT, _STR, _BYTES = 0, 1, 2, 3, 4, 6, 7  # not 5, 8, 9: float, counter, time
_CONSTANTS: dict[int, Scalar] = {_NULL: None, _FALSE: False, _TRUE: True}


class Op(msgspec.Struct, frozen=True, gc=False):
    """One operation on a key of the root map. `preds` are those that it replaces, in ascending order."""

    key: str
    value: Scalar
    preds: tuple[OpId, ...] = ()
    delete: bool = False


class Change(msgspec.Struct, frozen=True, gc=False):
    """What one actor did at once. Operation i is (start_op + i, actor); `hash` follows from all the rest."""

    deps: tuple[bytes, ...]
    actor: bytes
    seq: int
    start_op: int
    ops: tuple[Op, ...]
    time_s: int = 0
    message: str = ""
    hash: bytes = b""

    @property
    def max_op(self) -> int:
        """Counter of the last operation."""
        return self.start_op + len(self.ops) - 1

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that the change touches: all that a reader must read again."""
        return tuple(op.key for op in self.ops)


def change_hash(chunk: bytes) -> bytes:
    """The identity that Automerge gives to an uncompressed change chunk."""
    return hashlib.sha256(chunk[_BODY:]).digest()


def decode_change(chunk: bytes, limits: Limits = LIMITS) -> Change:
    """Read one chunk in linear time. Raises `change.bounds`, `.canonical`, `.checksum` or `.schema`."""
    reader = _body(chunk, limits)
    deps = _deps(reader, limits)
    actor = _sized(reader)
    seq, start_op, time_s, message = reader.uint(), reader.uint(), reader.sint(), reader.text()
    others = reader.uint()
    if others * ACTOR_BYTES > reader.left:
        malformed("it ends too early")
    actors = [actor, *(_sized(reader) for _ in range(others))]
    ops = _ops(_columns(reader), actors, limits)
    change = Change(deps, actor, seq, start_op, ops, time_s, message, change_hash(chunk))
    _check_ids(change)
    if encode_change(change) != chunk:
        malformed("it is not in the one form that encoding gives")
    return change


def check_flat_map(change: Change, limits: Limits = LIMITS) -> None:
    """Check the operations against the schema of all our documents. Raises `change.bounds` or `.schema`."""
    if not change.ops:
        raise error("change.schema", reason="it does nothing")
    if change.message:
        raise error("change.schema", reason="it carries a message")
    if len(set(change.keys)) != len(change.ops):
        raise error("change.schema", reason="it touches a key twice")
    for op in change.ops:
        if not op.key:
            raise error("change.schema", reason="a key is empty")
        if len(op.key.encode()) > limits.text_bytes:
            raise error("change.bounds", reason=f"a key is longer than {limits.text_bytes} bytes")
        if len(op.preds) > limits.change_preds:
            raise error("change.bounds", reason=f"a key replaces more than {limits.change_preds} values")
        if isinstance(op.value, str | bytes) and len(_value_bytes(op.value)[1]) > limits.value_bytes:
            raise error("change.bounds", reason=f"a value is longer than {limits.value_bytes} bytes")
        if op.delete and not op.preds:
            raise error("change.schema", reason="it deletes what is not there")


def encode_change(change: Change) -> bytes:
    """The chunk of a change; its `hash` is not used. Any record encodes: a change is what decodes again."""
    others = sorted({actor for op in change.ops for _, actor in op.preds} - {change.actor})
    columns = [(number, data) for number, data in _op_columns(change, others) if data]
    parts = [uint_bytes(len(change.deps)), *change.deps, uint_bytes(len(change.actor)), change.actor]
    parts += uint_bytes(change.seq), uint_bytes(change.start_op), col.sint_bytes(change.time_s)
    parts += col.text_bytes(change.message), uint_bytes(len(others))
    for actor in others:
        parts += uint_bytes(len(actor)), actor
    parts.append(uint_bytes(len(columns)))
    for number, data in columns:
        parts += uint_bytes(number), uint_bytes(len(data))
    parts += [data for _, data in columns]
    return frame(b"".join(parts))


def frame(body: bytes, chunk_type: int = CHANGE_CHUNK) -> bytes:
    """A chunk around a body, with its checksum."""
    rest = bytes((chunk_type,)) + uint_bytes(len(body)) + body
    return MAGIC + hashlib.sha256(rest).digest()[:4] + rest


# ---- reading


def _body(chunk: bytes, limits: Limits) -> Reader:
    """A reader at the first byte of the body of a change chunk."""
    if len(chunk) > limits.change_bytes:
        raise error("change.bounds", reason=f"it has more than {limits.change_bytes} bytes")
    if chunk[:4] != MAGIC or len(chunk) <= _BODY:
        malformed("it is not an Automerge chunk")
    if chunk[_BODY] != CHANGE_CHUNK:
        malformed("it is not an uncompressed change chunk")
    reader = Reader(chunk)
    reader.take(_BODY + 1)
    if reader.uint() != reader.left:
        malformed("its length is wrong")
    if change_hash(chunk)[:4] != chunk[4:8]:
        raise error("change.checksum")
    return reader


def _deps(reader: Reader, limits: Limits) -> tuple[bytes, ...]:
    count = reader.uint()
    if count > limits.change_deps:
        raise error("change.bounds", reason=f"it follows more than {limits.change_deps} changes")
    deps = tuple([reader.take(HASH_BYTES) for _ in range(count)])
    if any(a >= b for a, b in pairwise(deps)):
        malformed("the changes that it follows are not in order")
    return deps


def _sized(reader: Reader) -> bytes:
    if reader.uint() != ACTOR_BYTES:
        raise error("change.schema", reason="an actor is not 32 bytes long")
    return reader.take(ACTOR_BYTES)


def _columns(reader: Reader) -> dict[int, bytes]:
    count = reader.uint()
    if count > len(_COLUMNS):
        raise error("change.schema", reason="it has columns that a flat map does not need")
    heads = [(reader.uint(), reader.uint()) for _ in range(count)]
    for number, _ in heads:
        if number not in _COLUMNS:
            raise error("change.schema", reason=f"it has the column {number:#04x}, not of a flat map")
    columns = {number: reader.take(length) for number, length in heads}
    if reader.left:
        malformed("bytes follow its end")
    return columns


def _ops(columns: dict[int, bytes], actors: list[bytes], limits: Limits) -> tuple[Op, ...]:
    insertions = columns.get(_INSERT)  # there are none: one run, whose length is the number of operations
    count = 0 if insertions is None else Reader(insertions).uint()
    if count > limits.change_ops:
        raise error("change.bounds", reason=f"it has more than {limits.change_ops} operations")
    keys = col.read_runs(columns.get(_KEY, b""), count, Reader.text)
    actions = col.read_runs(columns.get(_ACTION, b""), count, Reader.uint)
    metas = col.read_runs(columns.get(_VALUE_META, b""), count, Reader.uint)
    preds = _preds(columns, actors, count, limits)
    values = Reader(columns.get(_VALUE, b""))
    ops: list[Op] = []
    for key, action, meta, replaced in zip(keys, actions, metas, preds, strict=True):
        if action not in {_SET, _DELETE}:
            raise error("change.schema", reason=f"it holds the action {action}")
        if action == _DELETE and meta:
            malformed("a deletion has a value")
        value = _value(meta & 15, values.take(meta >> 4))
        ops.append(Op(key, value, replaced, action == _DELETE))
    if values.left:
        malformed("it holds values that nothing uses")
    return tuple(ops)


def _preds(columns: dict[int, bytes], actors: list[bytes], count: int, limits: Limits) -> list[tuple[OpId, ...]]:
    """For each operation those that it replaces; at most two on average, where ordinary edits need one."""
    lengths = col.read_runs(columns.get(_PRED_COUNT, b""), count, Reader.uint)
    total = sum(lengths)
    if not total:
        return [()] * count
    if total > 2 * limits.change_ops:
        raise error("change.bounds", reason=f"it replaces more than {2 * limits.change_ops} values")
    indexes = col.read_runs(columns.get(_PRED_ACTOR, b""), total, Reader.uint)
    counters = col.read_deltas(columns.get(_PRED_COUNTER, b""), total)
    if max(indexes) >= len(actors):
        malformed("it names an actor that it does not list")
    ids = list(zip(counters, [actors[index] for index in indexes], strict=True))
    preds: list[tuple[OpId, ...]] = []
    start = 0
    for length in lengths:
        preds.append(tuple(ids[start : start + length]))
        start += length
    return preds


def _value(kind: int, data: bytes) -> Scalar:
    match kind:
        case 0 | 1 | 2:
            if data:
                malformed("a constant has bytes")
            return _CONSTANTS[kind]
        case 6:
            return col.utf8(data)
        case 7:
            return data
        case 3:
            return Reader(data).uint()
        case 4:
            return Reader(data).sint()
        case _:
            raise error("change.schema", reason=f"it holds a value of type {kind}")


def _check_ids(change: Change) -> None:
    """Bounds of numbers, before anything computes with them, and order of identities."""
    if not 1 <= change.seq <= MAX_COUNTER or not 1 <= change.start_op <= change.max_op + 1 <= MAX_COUNTER:
        raise error("change.bounds", reason="a number of it is out of range")
    if not 0 <= change.time_s <= MAX_TIME_S:
        raise error("change.bounds", reason="its time is out of range")
    for op in change.ops:
        previous: OpId = (0, b"")
        for pred in op.preds:
            if pred <= previous or not 0 < pred[0] < change.start_op:
                malformed("the operations that it replaces are not in order or not before it")
            previous = pred


# ---- writing


def _op_columns(change: Change, others: list[bytes]) -> list[tuple[int, bytes]]:
    ops = change.ops
    values = [_value_bytes(op.value) for op in ops]
    preds = [pred for op in ops for pred in op.preds]
    numbers = {actor: number for number, actor in enumerate([change.actor, *others])}
    return [
        (_KEY, col.runs_bytes([op.key for op in ops], col.text_bytes)),
        (_INSERT, uint_bytes(len(ops)) if ops else b""),
        (_ACTION, col.runs_bytes([_DELETE if op.delete else _SET for op in ops], uint_bytes)),
        (_VALUE_META, col.runs_bytes([len(data) << 4 | kind for kind, data in values], uint_bytes)),
        (_VALUE, b"".join([data for _, data in values])),
        (_PRED_COUNT, col.runs_bytes([len(op.preds) for op in ops], uint_bytes)),
        (_PRED_ACTOR, col.runs_bytes([numbers[actor] for _, actor in preds], uint_bytes)),
        (_PRED_COUNTER, col.deltas_bytes([counter for counter, _ in preds])),
    ]


def _value_bytes(value: Scalar) -> tuple[int, bytes]:
    """Type and bytes of a value. A number is unsigned only if 63 bits do not hold it: each has one form."""
    match value:
        case None:
            return _NULL, b""
        case bool():
            return _TRUE if value else _FALSE, b""
        case int():
            return (_INT, col.sint_bytes(value)) if value < 1 << 63 else (_UINT, uint_bytes(value))
        case str():
            return _STR, value.encode()
        case bytes():
            return _BYTES, value
        case _:
            assert_never(value)
