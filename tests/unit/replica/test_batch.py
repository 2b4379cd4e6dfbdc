"""Batches: their form, their identity, and what is no batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import pytest

from appliance.core import canonical, cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.replica.batch import Batch, SignedBatch, build_batch, parse_batch, parse_payload, verify_batch
from tests.sim.world import FastSignatures

SEALS = FastSignatures()
KEY, SIGN = SEALS.key(b"author")
A, B = b"a" * 32, b"b" * 32
SOUND = Batch(
    version=1, mesh=A, channel="control", author=A, seq=2, prev=A, parents=(B,), hlc=7, entries=(("note", b"\x80"),)
)


def signed(*fields: object) -> bytes:
    """A signed blob of these payload fields, whatever they are."""
    return cose.sign1(canonical.encode(list(fields)), Domain.BATCH, SIGN)  # type: ignore[arg-type]


def fields_of(batch: Batch) -> list[object]:
    values = [*msgspec.structs.astuple(batch)]
    return [*values[:6], list(batch.parents), batch.hlc, [list(entry) for entry in batch.entries]]


def test_a_batch_reads_back_as_it_was_built() -> None:
    built = build_batch(SOUND, SIGN)
    assert parse_batch(built.blob) == built
    assert built.batch == SOUND


def test_its_identity_is_the_hash_of_its_payload_and_not_of_the_signature() -> None:
    other = build_batch(SOUND, lambda message, context: bytes(3309))
    assert other.hash == build_batch(SOUND, SIGN).hash == hashlib.sha256(other.payload).digest()


def test_only_its_authors_signature_verifies_and_only_under_the_label_for_batches() -> None:
    built = build_batch(SOUND, SIGN)
    other, _ = SEALS.key(b"other")
    grant = cose.sign1(built.payload, Domain.GRANT, SIGN)
    assert verify_batch(built, KEY, SEALS.verify)
    assert not verify_batch(built, other, SEALS.verify)
    assert not verify_batch(parse_batch(grant), KEY, SEALS.verify)


def test_of_an_archived_batch_only_the_payload_is_left() -> None:
    built = build_batch(SOUND, SIGN)
    assert parse_payload(built.payload) == SignedBatch(
        hash=built.hash, blob=b"", payload=built.payload, signature=b"", batch=SOUND
    )


@pytest.mark.parametrize(
    "change, key",
    [
        pytest.param({"channel": "gossip"}, "batch.channel", id="an unknown channel"),
        pytest.param({"prev": None}, "batch.chain", id="a second batch that follows none"),
        pytest.param({"seq": 1}, "batch.chain", id="a first batch that follows one"),
        pytest.param({"parents": (B, A)}, "batch.parents", id="parents out of order"),
        pytest.param({"parents": (B, B)}, "batch.parents", id="a parent twice"),
        pytest.param({"parents": (A,)}, "batch.parents", id="its predecessor among the parents"),
        pytest.param(
            {"parents": tuple(n.to_bytes(32) for n in range(LIMITS.batch_parents + 1))},
            "batch.parents",
            id="too many parents",
        ),
        pytest.param({"entries": ()}, "batch.size", id="no entry"),
        pytest.param({"entries": (("note", b""),) * (LIMITS.batch_entries + 1)}, "batch.size", id="too many entries"),
        pytest.param({"entries": (("note", bytes(LIMITS.entry_bytes + 1)),)}, "batch.size", id="an entry too large"),
        pytest.param({"entries": (("note", bytes(40_000)),) * 2}, "batch.size", id="too large altogether"),
    ],
)
def test_a_batch_of_wrong_shape_is_neither_built_nor_read(change: dict[str, object], key: str) -> None:
    wrong = msgspec.structs.replace(SOUND, **change)
    with pytest.raises(X0tError) as built:
        build_batch(wrong, SIGN)
    with pytest.raises(X0tError) as read:
        parse_batch(signed(*fields_of(wrong)))
    assert (built.value.key, read.value.key) == (key, key)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda f: [2, *f[1:]], id="another version"),
        pytest.param(lambda f: [*f, 0], id="a field more"),
        pytest.param(lambda f: f[:-1], id="a field less"),
        pytest.param(lambda f: [*f[:1], b"short", *f[2:]], id="a short mesh id"),
        pytest.param(lambda f: [*f[:4], 0, *f[5:]], id="seq 0"),
        pytest.param(lambda f: [*f[:4], True, *f[5:]], id="a boolean for seq"),
        pytest.param(lambda f: [*f[:7], 2**63, f[8]], id="a clock beyond 63 bits"),
        pytest.param(lambda f: [*f[:8], [["", b""]]], id="an entry without a kind"),
        pytest.param(lambda f: [*f[:8], [["note", "text"]]], id="a text for bytes"),
        pytest.param(lambda f: [*f[:3], "QUFB" * 10 + "QUE=", *f[4:]], id="base64 text for an id"),
        pytest.param(lambda f: {"batch": 1}, id="a map"),
    ],
)
def test_what_is_no_batch_is_malformed(spoil: Callable[[list[object]], object]) -> None:
    payload = canonical.encode(spoil(fields_of(SOUND)))  # type: ignore[arg-type]
    for blob in (cose.sign1(payload, Domain.BATCH, SIGN), payload, b"", b"\xd2"):
        with pytest.raises(X0tError) as caught:
            parse_batch(blob)
        assert caught.value.key == "batch.malformed"
