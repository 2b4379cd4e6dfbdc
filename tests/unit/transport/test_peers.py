from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId, node_id
from appliance.transport.peers import PeerIdentity, Verdict, identify
from tests.unit.transport.manners import Key, certificate
from tests.unit.transport.rig import now_ms

KEY = mldsa.MLDSA65PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
ID = node_id(PUBLIC).raw
DAY_MS = 86_400_000


def test_the_identity_is_the_hash_of_the_key_whatever_the_name() -> None:
    peer = identify(certificate(KEY), now_ms())
    assert peer == PeerIdentity(ID, PUBLIC)
    assert str(peer) == str(NodeId(ID))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        mldsa.MLDSA44PrivateKey.generate(),
    ],
    ids=["ECDSA", "RSA", "ML-DSA-44"],
)
def test_any_other_algorithm_is_refused(key: Key) -> None:
    with pytest.raises(X0tError, match=r"its key is .* \[tls\.certificate\]"):
        identify(certificate(key), now_ms())


@pytest.mark.parametrize(
    "offset_ms, key",
    [
        (0, None),
        (-DAY_MS + 60_000, None),
        (-DAY_MS - 60_000, "tls.peer_not_yet"),
        (29 * DAY_MS - 60_000, None),
        (29 * DAY_MS + 60_000, "tls.peer_expired"),
        (-now_ms(), "tls.peer_not_yet"),
    ],
)
def test_the_times_of_a_certificate_hold_by_the_clock_that_is_given(offset_ms: int, key: str | None) -> None:
    cert, moment = certificate(KEY, timedelta(days=-1), days=30), now_ms() + offset_ms
    if key is None:
        assert identify(cert, moment).node_id == ID
        return
    with pytest.raises(X0tError) as caught:
        identify(cert, moment)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "expected, is_permitted, key",
    [
        (None, True, None),
        (ID, True, None),
        (None, False, "tls.peer_unknown"),
        (ID, False, "tls.peer_unknown"),
        (bytes(32), True, "tls.peer_key"),
        (bytes(32), False, "tls.peer_key"),
    ],
)
def test_a_verdict_asks_for_the_expected_key_and_for_permission(
    expected: bytes | None, is_permitted: bool, key: str | None
) -> None:
    asked: list[bytes] = []

    def permitted(node: bytes) -> bool:
        asked.append(node)
        return is_permitted

    verdict = Verdict(permitted, now_ms, expected)
    if key is None:
        assert verdict(certificate(KEY)) == PeerIdentity(ID, PUBLIC)
        assert asked == [ID]
        return
    with pytest.raises(X0tError) as caught:
        verdict(certificate(KEY))
    assert caught.value.key == key
