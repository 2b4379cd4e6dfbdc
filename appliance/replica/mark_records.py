"""Mark records: the marks of an authority as bytes beside the index, so that a start reads and does not judge.

A record holds what was found out when the mark was made: the opened grant, what it rests on, the cut. Standings are not
kept: they are settled anew from the marks in one pass. The records are made from the log and can be made again from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from appliance.core.errors import error
from appliance.replica.ancestry import Meta
from appliance.replica.authority import Authority
from appliance.replica.entries import AuthorityBody, parse
from appliance.replica.marks import CERTIFIED, OPENED, Mark, role_set, tag_set
from appliance.trust.grants import Grant, Role

MarkRow = tuple[bytes, int, bytes]  # batch hash, entry index, record


class _Record(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    void: str = ""
    kind: str = ""
    body: bytes = b""
    needs: tuple[Role, ...] = ()
    supports: tuple[tuple[bytes, int], ...] = ()
    cut: bytes | None = None
    keep: bytes | None = None
    grant: Grant | None = None
    grant_id: bytes = b""
    root: bool = False
    depth: int = 0
    tags: tuple[str, ...] | None = None  # sorted, as `scope` is
    scope: tuple[str, ...] = ()


_decoder = msgspec.msgpack.Decoder(_Record)


def mark_rows(authority: Authority, batches: Iterable[tuple[Meta, tuple[tuple[str, bytes], ...]]]) -> Iterator[MarkRow]:
    """Records of the authority entries of these batches, given with their entries."""
    for meta, entries in batches:
        for mark in authority.by_batch.get(meta.hash, ()):
            yield meta.hash, mark.index, msgspec.msgpack.encode(_record(mark, *entries[mark.index]))
        for index, void in authority.void_entries(meta.hash):
            yield meta.hash, index, msgspec.msgpack.encode(_Record(void=void))


def load_marks(
    authority: Authority, rows: Iterable[tuple[Meta, int, bytes]], find: Callable[[bytes], Meta | None]
) -> None:
    """Fill an empty authority; rows in order of arrival, so that what a mark rests on comes before it."""
    made: dict[tuple[bytes, int], Mark] = {}
    authority.hold()
    for meta, index, data in rows:
        record = _decoder.decode(data)
        mark = Mark(meta, index, _body(record))
        mark.void = record.void or None
        if record.kind:
            _restore(mark, record, made, find)
            made[meta.hash, index] = mark
        authority.add(mark)


def _record(mark: Mark, kind: str, body: bytes) -> _Record:
    return _Record(
        void=mark.void or "",
        kind=kind,
        body=b"" if mark.grant is not None else body,
        needs=tuple(sorted(mark.needs)),
        supports=tuple((support.meta.hash, support.index) for support in mark.supports),
        cut=None if mark.cut is None else mark.cut.hash,
        keep=None if mark.keep is None else mark.keep.hash,
        grant=mark.grant,
        grant_id=mark.grant_id,
        root=mark.root,
        depth=mark.depth,
        tags=None if mark.tags is None else tuple(sorted(mark.tags)),
        scope=tuple(sorted(mark.scope)),
    )


def _body(record: _Record) -> AuthorityBody:
    if not record.kind or record.grant is not None:
        return OPENED if record.tags is None else CERTIFIED
    body = parse(record.kind, record.body)
    if body is None or not isinstance(body, AuthorityBody):
        raise error("replica.corrupt", what="view", reason=f"a mark of the kind {record.kind}")
    return body


def _restore(
    mark: Mark, record: _Record, made: dict[tuple[bytes, int], Mark], find: Callable[[bytes], Meta | None]
) -> None:
    mark.needs = role_set(record.needs)
    mark.supports = tuple(made[key] for key in record.supports)
    mark.cut = find(record.cut) if record.cut is not None else None
    mark.keep = find(record.keep) if record.keep is not None else None
    mark.grant, mark.grant_id = record.grant, record.grant_id
    mark.root, mark.depth = record.root, record.depth
    mark.tags = None if record.tags is None else tag_set(record.tags)
    mark.scope = tag_set(record.scope)
