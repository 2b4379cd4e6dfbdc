"""Ten thousand hostile changes, in child processes because what they attack is native code.

Each change is made from a sound one of a document with conflicts and deletions: flipped, spliced, forged with a right
checksum, or a bomb. It must be refused with a key, or be harmless: applied, saved and loaded again with equal content.
Run as a program with a seed and a count, this file is the child; it says on standard error which case it failed.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from automerge import core

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.replica.change_codec import Change, Op, Scalar, decode_change, encode_change
from appliance.replica.document import Document
from tests.change_forge import RawChange, deflated, frame, sleb, uleb

WORKERS, CASES = 4, 2_500
MEMORY_KIB = 300 << 10
ADDRESS_SPACE = 2 << 30  # a bomb that goes off must not take the machine with it
ACTORS = [bytes([number]) * 32 for number in (3, 1, 2)]


class Result(msgspec.Struct, frozen=True):
    """What a child reports: per kind of mutation how many were accepted, how many refused by which key."""

    accepted: dict[str, int]
    refused: dict[str, int]
    peak_kib: int


class Target(NamedTuple):
    """A sound change, the document before it, and the chunks of both."""

    before: tuple[bytes, ...]
    chunk: bytes
    actor: bytes
    later: tuple[bytes, ...]


@pytest.mark.parametrize("seed", range(WORKERS))
def test_hostile_changes_are_refused_or_harmless_in_bounded_memory(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, __file__, str(seed), str(CASES)]
    root = Path(__file__).parents[2]
    child = subprocess.run(command, capture_output=True, cwd=root, env={"PYTHONPATH": str(root)}, check=False)
    assert child.returncode == 0, child.stderr.decode()[-2_000:]
    result = msgspec.json.decode(child.stdout, type=Result)
    accepted, refused = sum(result.accepted.values()), sum(result.refused.values())
    record_property(
        "counts",
        f"hostile changes, seed {seed}: {CASES}; {accepted} accepted and harmless, {refused} refused by "
        f"{len(result.refused)} keys; 0 crashes, 0 documents lost; {result.peak_kib >> 10} MB",
    )
    assert accepted + refused == CASES
    assert result.accepted["honest"] > 100, "the accepting path was not tried"
    assert result.accepted["semantic"] > 20, "no forgery was good enough to reach Automerge"
    assert {"change.ancestry", "change.bounds", "change.canonical", "change.checksum"} <= result.refused.keys()
    assert {"change.schema", "change.sequence"} <= result.refused.keys()
    assert result.peak_kib < MEMORY_KIB


# ---- the child


def run(seed: int, count: int) -> Result:
    """Judge `count` mutations; raises at the first that does harm."""
    targets = history(random.Random(seed))
    documents = {target: Document.build(target.before) for target in targets}
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        target = rng.choice(targets)
        kind, mutate = rng.choice(MUTATIONS)
        chunk = mutate(rng, target)
        try:
            documents[target].admit(chunk, target.actor)
        except X0tError as err:
            if kind == "honest" or not err.key.startswith("change."):
                raise
            refused[err.key] += 1
            continue
        accepted[kind] += 1
        assert is_harmless(target, chunk), f"case {seed}/{number}, {kind}: {chunk.hex()}"
    return Result(dict(accepted), dict(refused), peak_kib())


def is_harmless(target: Target, chunk: bytes) -> bool:
    """True if the document takes the change, saves and loads it, and shows what the change says."""
    document = Document.build(target.before)
    change = document.apply(chunk, target.actor)
    saved = document.dump()
    views = [document, Document.load(saved), Document.build([chunk, *target.before])]
    contents = [(view.items(), view.heads(), [view.conflicts(key) for key in change.keys]) for view in views]
    shown = all(op.delete or op.value in [c.value for c in document.conflicts(op.key)] for op in change.ops)
    return contents[0] == contents[1] == contents[2] and shown and Document.load(saved).dump() == saved


def history(rng: random.Random) -> list[Target]:
    """Edits by three actors who meet now and then."""
    chunks: list[bytes] = []
    made: list[tuple[tuple[bytes, ...], bytes, bytes]] = []
    replicas = {actor: Document() for actor in ACTORS}
    seen: dict[bytes, set[bytes]] = {actor: set() for actor in ACTORS}
    for number in range(24):
        actor = ACTORS[rng.randrange(3)]
        document = replicas[actor]
        if rng.random() < 0.6:
            for chunk in [chunk for chunk in chunks if chunk not in seen[actor]]:
                document.apply(chunk, decode_change(chunk).actor)
                seen[actor].add(chunk)
        chunk = honest_edit(rng, document, actor, bulk=number == 20)
        made.append((tuple(c for c in chunks if c in seen[actor]), chunk, actor))
        document.apply(chunk, actor)
        seen[actor].add(chunk)
        chunks.append(chunk)
    return [Target(before, chunk, actor, tuple(chunks)) for before, chunk, actor in made]


def honest_edit(rng: random.Random, document: Document, actor: bytes, *, bulk: bool = False) -> bytes:
    """A change that must be accepted."""
    there = [key for key, _ in document.items()]
    deletes = rng.sample(there, min(len(there), rng.randrange(2)))
    puts: dict[str, Scalar] = {f"key{rng.randrange(6)}": value(rng) for _ in range(rng.randint(1, 3))}
    if bulk:
        puts |= {f"bulk/{number}": number for number in range(300)}
    return document.edit({k: v for k, v in puts.items() if k not in deletes}, deletes, actor, 1_700_000_000)


def value(rng: random.Random) -> Scalar:
    """Any value that a document holds, with the ends of the ranges."""
    number = rng.choice([0, 1, -1, 63, 64, -64, -65, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1])
    blob = rng.randbytes(rng.choice([0, 1, 40, 300]))
    return rng.choice([None, True, False, number, blob, blob.hex(), "\0", "\N{ROBOT FACE}"])


def peak_kib() -> int:
    """The highest resident memory of this program; getrusage would count the parent before exec too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


# ---- mutations


def honest(rng: random.Random, target: Target) -> bytes:
    """The control: nothing is wrong."""
    return honest_edit(rng, Document.build(target.before), target.actor)


def flip(rng: random.Random, target: Target) -> bytes:
    """One to eight bits anywhere; the checksum stays as it was."""
    data = bytearray(target.chunk)
    for bit in rng.sample(range(len(data) * 8), rng.randint(1, 8)):
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def flip_summed(rng: random.Random, target: Target) -> bytes:
    """One to three bytes of the body, with a right checksum."""
    body = bytearray(RawChange.parse(target.chunk).body())
    for _ in range(rng.randint(1, 3)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return frame(bytes(body))


def splice(rng: random.Random, target: Target) -> bytes:
    """A piece of another change in place of a piece of this one."""
    body, other = (RawChange.parse(chunk).body() for chunk in (target.chunk, rng.choice(target.later)))
    a, b = sorted(rng.choices(range(len(body) + 1), k=2))
    c, d = sorted(rng.choices(range(len(other) + 1), k=2))
    return frame(body[:a] + other[c:d] + body[b:])


def cut(rng: random.Random, target: Target) -> bytes:
    """Bytes missing at the end, or too many."""
    raw = RawChange.parse(target.chunk)
    body = raw.body()
    mutated = body[: rng.randrange(len(body))] if rng.random() < 0.5 else body + rng.randbytes(rng.randint(1, 9))
    return frame(mutated) if rng.random() < 0.7 else target.chunk[: rng.randrange(len(target.chunk))]


def replay(rng: random.Random, target: Target) -> bytes:
    """A sound change in a place that is not its own."""
    return rng.choice([chunk for chunk in target.later if chunk != target.chunk])


def swap_column(rng: random.Random, target: Target) -> bytes:
    """A column of other bytes, of another change, or that no flat map has."""
    raw = RawChange.parse(target.chunk)
    number = rng.choice([0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94, 0xA5, 0x1F])
    donor = RawChange.parse(rng.choice(target.later)).column(number)
    run = sleb(rng.choice([0, 1, -1, 2, -2, 300, -300])) + rng.randbytes(rng.randrange(4))
    return raw.with_column(number, rng.choice([donor, run, rng.randbytes(rng.randint(1, 12)), b""])).chunk()


def semantic(rng: random.Random, target: Target) -> bytes:
    """Written by our own encoder: right in form, mostly wrong in what it says."""
    change = decode_change(target.chunk)
    for _ in range(rng.choice([1, 1, 1, 2])):
        change = rng.choice([wrong_header, wrong_deps, wrong_op, wrong_op])(rng, change, target)
    return encode_change(change)


def wrong_header(rng: random.Random, change: Change, target: Target) -> Change:
    """Numbers, actor, message or no operations at all."""
    near = rng.choice([-1, 1, 2, 1000, 1 << 31, 1 << 32, 1 << 62])
    fields: dict[str, object] = rng.choice(
        [
            {"seq": abs(change.seq + near)},
            {"start_op": abs(change.start_op + near)},
            {"actor": rng.choice([*ACTORS, bytes(32), b"short"])},
            {"time_s": rng.choice([0, 5, -1, 1 << 40, -(1 << 63), (1 << 63) - 1])},
            {"message": "hello"},
            {"ops": ()},
            {"ops": change.ops * 2},
        ]
    )
    return msgspec.structs.replace(change, **fields)


def wrong_deps(rng: random.Random, change: Change, target: Target) -> Change:
    """Fewer, more, unknown, later, repeated or unsorted dependencies."""
    others = [decode_change(chunk).hash for chunk in target.later]
    deps = rng.choice(
        [
            change.deps[1:],
            tuple(sorted({*change.deps, rng.choice(others)})),
            tuple(sorted({*change.deps[1:], rng.choice(others)})),
            (*change.deps, rng.randbytes(32)),
            change.deps * 2,
            change.deps[::-1],
            tuple(sorted(rng.randbytes(32) for _ in range(LIMITS.change_deps + 1))),
        ]
    )
    return msgspec.structs.replace(change, deps=deps)


def wrong_op(rng: random.Random, change: Change, target: Target) -> Change:
    """One operation with another key, value or predecessors."""
    if not change.ops:
        return change
    ops = list(change.ops)
    place = rng.randrange(len(ops))
    op = ops[place]
    elsewhere = [pred for chunk in target.later for other in decode_change(chunk).ops for pred in other.preds]
    ops[place] = rng.choice(
        [
            Op(rng.choice(["new", "new\0", "key1", "", "k" * 257]), op.value, op.preds, op.delete),
            Op(op.key, value(rng), op.preds),
            Op(op.key, "v" * (LIMITS.value_bytes + rng.randrange(2)), op.preds),
            Op(op.key, None, op.preds, delete=not op.delete),
            Op(op.key, op.value, op.preds[1:], op.delete),
            Op(op.key, op.value, (*op.preds, *elsewhere[:1]), op.delete),
            Op(op.key, op.value, tuple((counter + 1, actor) for counter, actor in op.preds), op.delete),
            Op(op.key, op.value, ((1, bytes(32)), *op.preds), op.delete),
        ]
    )
    return msgspec.structs.replace(change, ops=tuple(ops))


def bomb(rng: random.Random, target: Target) -> bytes:
    """Little that would become much."""
    raw = RawChange.parse(target.chunk)
    huge = rng.choice([1 << 16, 1 << 24, 1 << 31, 1 << 40, (1 << 62) + 1])
    column = rng.choice([0x15, 0x42, 0x56, 0x70, 0x71, 0x73])
    bombs: list[Callable[[], bytes]] = [
        lambda: raw.with_column(column, sleb(huge) + b"\1").chunk(),
        lambda: raw.with_column(column, b"\0" + uleb(huge)).chunk(),
        lambda: raw.with_column(column, sleb(-huge) + b"\1").chunk(),
        lambda: raw.with_column(0x34, uleb(huge)).chunk(),
        lambda: all_columns(raw, huge).chunk(),
        lambda: raw.with_column(0x56, b"\x7f" + uleb(huge << 4 & (1 << 64) - 1 | 6)).chunk(),
        lambda: raw.chunk(kind=2),
        deflate_bomb,
        lambda: frame(uleb(huge) + raw.body()[1:]),
        lambda: frame(raw.body(), kind=rng.choice([0, 3, 255])),
        lambda: document_chunk(target),
        lambda: frame(raw.body() + rng.randbytes(LIMITS.change_bytes)),
    ]
    return rng.choice(bombs)()


@cache
def deflate_bomb() -> bytes:
    """Twenty mebibytes in twenty kibibytes."""
    return frame(deflated(bytes(20 << 20)), kind=2)


@cache
def document_chunk(target: Target) -> bytes:
    """What Automerge saved, which is sound but from a peer could be anything."""
    return core.Document.load(b"".join(target.before)).save()


def all_columns(raw: RawChange, count: int) -> RawChange:
    """Every column claims `count` rows, so that they agree."""
    for number, cell in ((0x15, b"\1k"), (0x42, b"\1"), (0x56, b"\0"), (0x70, b"\1"), (0x71, b"\0"), (0x73, b"\1")):
        raw.with_column(number, sleb(count) + cell)
    return raw.with_column(0x34, uleb(count))


MUTATIONS: list[tuple[str, Callable[[random.Random, Target], bytes]]] = [
    ("honest", honest),
    ("flip", flip),
    ("flip_summed", flip_summed),
    ("splice", splice),
    ("cut", cut),
    ("replay", replay),
    ("swap_column", swap_column),
    ("semantic", semantic),
    ("semantic", semantic),
    ("bomb", bomb),
]


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    sys.stdout.buffer.write(msgspec.json.encode(run(int(sys.argv[1]), int(sys.argv[2]))))
