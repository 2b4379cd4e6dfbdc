"""COSE_Sign1 in its one form; the independent reader is cbor2."""

from __future__ import annotations

import cbor2
import pytest

from appliance.core.canonical import Cbor, Tagged, encode
from appliance.core.cose import SIGNATURE_BYTES, Signed, open1, sign1, to_be_signed
from appliance.core.domains import Domain
from appliance.core.errors import InputError

PROTECTED = bytes.fromhex("a1013830")
SIGNATURE = bytes(range(256)) * 12 + bytes(237)
PARTS: list[Cbor] = [PROTECTED, {}, b"payload", SIGNATURE]


def test_a_message_is_signed_over_the_structure_of_rfc_9052_under_its_domain() -> None:
    asked: list[tuple[bytes, bytes]] = []

    def sign(message: bytes, context: bytes) -> bytes:
        asked.append((message, context))
        return SIGNATURE

    blob = sign1(b"payload", Domain.BATCH, sign)
    assert asked == [(to_be_signed(b"payload"), b"x0t/batch/1")]
    assert open1(blob) == Signed(b"payload", SIGNATURE, -49)


def test_another_reader_sees_the_same_message_and_the_same_bytes_to_be_signed() -> None:
    message = cbor2.loads(sign1(b"payload", Domain.GRANT, lambda *_: SIGNATURE))
    assert (message.tag, list(message.value)) == (18, PARTS)
    assert cbor2.loads(message.value[0]) == {1: -49}
    assert to_be_signed(b"payload") == cbor2.dumps(["Signature1", PROTECTED, b"", b"payload"])


@pytest.mark.parametrize("size", [0, SIGNATURE_BYTES - 1, SIGNATURE_BYTES + 1])
def test_a_signer_that_gives_another_size_is_refused(size: int) -> None:
    with pytest.raises(InputError) as caught:
        sign1(b"payload", Domain.BATCH, lambda *_: bytes(size))
    assert caught.value.key == "cose.signature"


@pytest.mark.parametrize(
    "message, key",
    [
        pytest.param(PARTS, "cose.tag", id="no tag"),
        pytest.param(Tagged(98, PARTS), "cbor.tag", id="COSE_Sign instead"),
        pytest.param(Tagged(18, b""), "cose.shape", id="no array"),
        pytest.param(Tagged(18, PARTS[:3]), "cose.shape", id="three parts"),
        pytest.param(Tagged(18, [*PARTS, 0]), "cose.shape", id="five parts"),
        pytest.param(Tagged(18, [b"", *PARTS[1:]]), "cose.protected", id="no algorithm"),
        pytest.param(Tagged(18, [{1: -49}, *PARTS[1:]]), "cose.protected", id="a bare map"),
        pytest.param(Tagged(18, [encode({1: -50}), *PARTS[1:]]), "cose.protected", id="another algorithm"),
        pytest.param(Tagged(18, [encode({1: -49, 4: b""}), *PARTS[1:]]), "cose.protected", id="a key id"),
        pytest.param(Tagged(18, [bytes.fromhex("a101390030"), *PARTS[1:]]), "cose.protected", id="not shortest"),
        pytest.param(Tagged(18, [PROTECTED, {4: b"x"}, *PARTS[2:]]), "cose.unprotected", id="an open header"),
        pytest.param(Tagged(18, [PROTECTED, [], *PARTS[2:]]), "cose.unprotected", id="an array for a map"),
        pytest.param(Tagged(18, [PROTECTED, {}, None, SIGNATURE]), "cose.payload", id="a detached payload"),
        pytest.param(Tagged(18, [PROTECTED, {}, "text", SIGNATURE]), "cose.payload", id="a text payload"),
        pytest.param(Tagged(18, [*PARTS[:3], SIGNATURE[:-1]]), "cose.signature", id="a short signature"),
        pytest.param(Tagged(18, [*PARTS[:3], None]), "cose.signature", id="no signature"),
    ],
)
def test_any_other_form_is_refused(message: Cbor, key: str) -> None:
    with pytest.raises(InputError) as caught:
        open1(encode(message))
    assert caught.value.key == key


def test_bytes_behind_the_message_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        open1(encode(Tagged(18, PARTS)) + b"\x00")
    assert caught.value.key == "cbor.trailing"
