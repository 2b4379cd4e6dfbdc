"""Hostile batches: wrong in form or in what they say, mostly with a right hash and a right signature."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from appliance.core import canonical, cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS
from appliance.replica.change_codec import decode_change, encode_change
from appliance.replica.document_kinds import NODES
from appliance.replica.documents import actor_id
from appliance.replica.entries import (
    ChangeEntry,
    make,
)
from appliance.trust.grants import Role, encode_grant, peek_grant
from tests.batch_forge import BODIES, Fields, Forge
from tests.change_forge import RawChange, deflated, frame
from tests.sim.world import START_MS, Member

VERSION, MESH, CHANNEL, AUTHOR, SEQ, PREV, PARENTS, HLC, ENTRIES = range(9)
FORKERS = ("max", "oleg")
BOMBS = (
    b"\x9b" + b"\xff" * 8,  # an array that claims 2^64 items
    b"\xbb" + b"\xff" * 8,  # and a map
    b"\x5b" + b"\x7f" * 8,  # bytes that claim 2^63
    b"\x9a\x00\x01\x00\x00" + b"\x80" * 0x9000,  # more items than there are bytes
    b"\x81" * 40_000 + b"\x80",  # forty thousand deep
    b"\xa1\x00" * 20_000 + b"\xa0",
    b"\xd2" * 30_000 + b"\x80",  # tags in tags
    b"\x9f" * 100 + b"\xff" * 100,  # indefinite lengths
    b"\x99\x50\x00" + b"\x80" * 0x5000,  # 20,480 empty arrays: more than a value may hold
    b"\x99\x4e\x00" + b"\x81\x00" * 0x4E00,
)


def signed(member: Member, payload: bytes) -> bytes:
    """With the member's real key."""
    return cose.sign1(payload, Domain.BATCH, member.sign)


def packed(member: Member, fields: Fields) -> bytes:
    """Signed if it can be encoded at all; else the integers that CBOR lacks become bytes."""
    try:
        return signed(member, canonical.encode(fields))  # type: ignore[arg-type]
    except X0tError:
        return signed(member, canonical.encode([str(field)[:99] for field in fields]))


# ---- mutations


def honest(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """The control: a batch that is accepted, whatever its entries achieve."""
    return packed(member, forge.fields(rng, member))


def flip(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """One to eight bits anywhere in what was accepted or could have been."""
    return flipped(rng, rng.choice([rng.choice(forge.accepted).blob, honest(forge, rng, member)]))


def flip_signed(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """Bits of the payload, before it is signed."""
    return signed(member, flipped(rng, canonical.encode(forge.fields(rng, member))))  # type: ignore[arg-type]


def flipped(rng: random.Random, blob: bytes) -> bytes:
    data = bytearray(blob)
    for bit in rng.sample(range(len(data) * 8), min(len(data) * 8, rng.randint(1, 8))):
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def splice(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """A piece of another batch in place of a piece of this one."""
    body = canonical.encode(forge.fields(rng, member))  # type: ignore[arg-type]
    other = rng.choice(forge.accepted).payload
    a, b = sorted(rng.choices(range(len(body) + 1), k=2))
    c, d = sorted(rng.choices(range(len(other) + 1), k=2))
    spliced = body[:a] + other[c:d] + body[b:]
    return signed(member, spliced) if rng.random() < 0.7 else spliced


def cut(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """Bytes missing at the end, or too many."""
    blob = rng.choice(forge.accepted).blob
    return blob[: rng.randrange(len(blob))] if rng.random() < 0.5 else blob + rng.randbytes(rng.randint(1, 99))


def replay(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """Old payloads under a new signature, the author's own or somebody else's; signatures of other batches."""
    old, other = rng.choice(forge.accepted), rng.choice(forge.accepted)
    if rng.random() < 0.5:
        return signed(member, old.payload)
    return cose.sign1(old.payload, Domain.BATCH, lambda _message, _context: other.signature)


def wrong_field(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """One field says what it must not, or one is missing or one too many."""
    fields = forge.fields(rng, member)
    place = rng.randrange(len(fields))
    fields[place] = wild(rng)
    if rng.random() < 0.1:
        fields.append(wild(rng))
    elif rng.random() < 0.1:
        del fields[place]
    return packed(member, fields)


def wrong_chain(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """Another number, predecessor, parents, clock, author, channel or mesh: right in form."""
    fields = forge.fields(rng, member)
    own = [batch for batch in forge.accepted if batch.batch.author == member.id] or forge.accepted[:1]
    other = rng.choice(forge.accepted)
    some = sorted({batch.hash for batch in rng.choices(forge.accepted, k=LIMITS.batch_parents * 2)})
    near = rng.choice([-2, -1, 1, 2, 1000, 1 << 40])
    now_ms = forge.target.now_ms
    hlcs = [1, other.batch.hlc, now_ms << 16, now_ms + LIMITS.clock_ahead_ms + 1 << 16, (1 << 63) - 1, START_MS << 16]
    place, wrong = rng.choice(
        [
            (SEQ, abs(int(str(fields[SEQ])) + near)),
            (PREV, other.hash),
            (PREV, rng.choice(own).hash),
            (PREV, rng.randbytes(32)),
            (PREV, None),
            (PARENTS, some),
            (PARENTS, some[: LIMITS.batch_parents]),
            (PARENTS, some[:5][::-1]),
            (PARENTS, [other.hash] * 2),
            (PARENTS, [rng.randbytes(32)]),
            (PARENTS, sorted({other.hash, own[-1].hash})),
            (PARENTS, []),
            (HLC, rng.choice(hlcs)),
            (HLC, rng.choice(hlcs)),
            (AUTHOR, other.batch.author),
            (AUTHOR, rng.randbytes(32)),
            (AUTHOR, forge.mesh.id),
            (CHANNEL, rng.choice(["ledger", "audit", "Control", ""])),
            (MESH, rng.randbytes(32)),
            (VERSION, rng.choice([0, 2])),
        ]
    )
    fields[place] = wrong
    return packed(member, fields)


def fork(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """A second batch with a number that there is already: both are kept, as proof. Only some do this."""
    member = rng.choice([one for one in forge.hostile if one.name in FORKERS])
    own = [batch for batch in forge.accepted if batch.batch.author == member.id]
    fields = forge.fields(rng, member)
    before = rng.choice([*own, None])
    fields[PREV], fields[SEQ] = (before.hash, before.batch.seq + 1) if before else (None, 1)
    fields[PARENTS] = sorted({forge.accepted[4].hash} - {fields[PREV]})
    return packed(member, fields)


def wrong_body(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """An entry of a known kind whose body was changed a little, or a lot."""
    entries: list[list[object]] = []
    for _ in range(rng.choice([1, 2, 5])):
        kind, body = make(rng.choice(BODIES)(forge, rng, member))
        fields = canonical.decode(body)
        assert isinstance(fields, list)
        match rng.randrange(6):
            case 0:
                body = flipped(rng, body)
            case 1:
                fields[rng.randrange(len(fields))] = wild(rng)  # type: ignore[call-overload]
                body = canonical.encode(fields)
            case 2:
                body = canonical.encode([*fields, wild(rng)])  # type: ignore[list-item]
            case 3:
                body = canonical.encode(fields[:-1])
            case 4:
                kind = rng.choice(["announce", "change", "grant", "revoke", "thaw", "checkpoint", "", "new", "k" * 33])
            case _:
                odd = [b"", b"\x80", b"\xf6", canonical.encode({1: fields}), body + b"\0", rng.randbytes(40)]
                body = rng.choice(odd)
        entries.append([kind, body])
    return packed(member, forge.fields(rng, member, entries))


def wrong_grant(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """A grant inside that widens, lies about its issuer or its times, or was signed by another key."""
    grant = peek_grant(forge.mesh.grant(member, rng.choice(forge.hostile), Role.MEMBER, parent=forge.grants[member.id]))
    wrong = rng.choice(
        [
            {"roles": tuple(sorted(rng.sample(list(Role), 3)))},
            {"roles": ()},
            {"roles": (Role.OWNER, Role.ADMIN)},
            {"scope": tuple(f"tag{number:04}" for number in range(rng.choice([1, 60, 2000])))},
            {"delegate": rng.choice([1, 3, 255])},
            {"issuer": forge.mesh.id},
            {"issuer": forge.mesh.id, "parent": None},
            {"issuer": rng.choice(forge.accepted).batch.author},
            {"mesh": rng.randbytes(32)},
            {"parent": rng.randbytes(32)},
            {"subject": rng.randbytes(32)},
            {"subject_key": rng.randbytes(1952)},
            {"subject_key": b""},
            {"not_before_ms": 0, "not_after_ms": (1 << 47) - 1},
            {"not_after_ms": START_MS - 1},
        ]
    )
    payload = encode_grant(msgspec.structs.replace(grant, **wrong))  # type: ignore[arg-type]
    if rng.random() < 0.2:
        payload = flipped(rng, payload)
    entry = ["grant", canonical.encode([cose.sign1(payload, Domain.GRANT, rng.choice(forge.hostile).sign)])]
    return packed(member, forge.fields(rng, member, [entry]))  # type: ignore[list-item]


def wrong_change(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """An Automerge change that is right in its checksum and its actor, and wrong elsewhere."""
    body = forge.change(rng, member)
    assert isinstance(body, ChangeEntry)
    change = decode_change(body.chunk)
    key = rng.choice(["", "x", "\0", f"{NodeId(member.id)}/name", f"{NodeId(member.id)}/tag/-", "k" * 257])
    value = rng.choice([True, None, "", "n" * 65, 1 << 63, b"b", "\N{ROBOT FACE}"])
    ops = tuple(msgspec.structs.replace(op, key=key, value=value) for op in change.ops)
    own = msgspec.structs.replace(change, actor=actor_id(member.id, *NODES))
    raw = bytearray(RawChange.parse(body.chunk).body())
    raw[rng.randrange(len(raw))] = rng.randrange(256)
    wrongs: list[Callable[[], bytes]] = [
        lambda: encode_change(msgspec.structs.replace(own, ops=ops)),
        lambda: encode_change(msgspec.structs.replace(own, seq=own.seq + rng.choice([1, 1 << 31]))),
        lambda: encode_change(msgspec.structs.replace(own, start_op=rng.choice([1, 7, 1 << 32]))),
        lambda: encode_change(msgspec.structs.replace(own, deps=(rng.randbytes(32),))),
        lambda: encode_change(msgspec.structs.replace(own, deps=())),
        lambda: encode_change(own),
        lambda: frame(bytes(raw)),
        lambda: frame(deflated(bytes(1 << 20)), kind=2),
        lambda: flipped(rng, body.chunk),
    ]
    chunk = rng.choice(wrongs)()
    name = rng.choice([NODES, NODES, NODES, NODES, ("nodes", 1), ("Nodes", 0), ("n" * 256, 0)])
    entry = ["change", canonical.encode([*name, chunk])]
    return packed(member, forge.fields(rng, member, [entry]))  # type: ignore[list-item]


def bomb(forge: Forge, rng: random.Random, member: Member) -> bytes:
    """As large, as deep or as many as it gets; or only claims to be."""
    body = rng.choice(BOMBS)
    many = rng.choice([LIMITS.batch_entries, LIMITS.batch_entries + 1, 9_000, 0])
    kind = rng.choice(["announce", "change", "grant", "revoke", "thaw", "checkpoint", "new"])
    size = rng.choice([LIMITS.entry_bytes, LIMITS.entry_bytes + 1, LIMITS.batch_bytes])
    choices: list[Callable[[], bytes]] = [
        lambda: body,
        lambda: signed(member, body),
        lambda: packed(member, forge.fields(rng, member, [[kind, body]])),
        lambda: packed(member, forge.fields(rng, member, [[kind, b"\x80"]] * many)),
        lambda: packed(member, forge.fields(rng, member, [[kind, bytes(size)]])),
        lambda: packed(member, forge.fields(rng, member, [["new", bytes(30_000)]] * 2)),
        lambda: rng.randbytes(LIMITS.batch_bytes + 1),
        lambda: signed(member, bytes(LIMITS.cbor_bytes)),
    ]
    return rng.choice(choices)()


def wild(rng: random.Random) -> object:
    """Any value that CBOR can hold, with the ends of the ranges."""
    deep: object = []
    for _ in range(9):
        deep = [deep]
    number = rng.choice([0, 1, -1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 64)])
    text = rng.choice(["", "\0", "a", "x" * 257, "é" * 256, "\N{ROBOT FACE}", "owner", "nodes"])
    blob = rng.randbytes(rng.choice([0, 31, 32, 33]))
    return rng.choice([None, True, number, number, text, blob, deep, {}, {1: text}, []])


MUTATIONS: list[tuple[str, Callable[[Forge, random.Random, Member], bytes]]] = [
    (mutate.__name__, mutate)
    for mutate in (
        honest,
        honest,
        flip,
        flip_signed,
        splice,
        cut,
        replay,
        wrong_field,
        wrong_chain,
        wrong_chain,
        fork,
        wrong_body,
        wrong_body,
        wrong_grant,
        wrong_change,
        bomb,
    )
]


def case(forge: Forge, rng: random.Random) -> tuple[str, bytes]:
    """The kind of mutation and a hostile blob."""
    kind, mutate = rng.choice(MUTATIONS)
    return kind, mutate(forge, rng, rng.choice(forge.hostile))
