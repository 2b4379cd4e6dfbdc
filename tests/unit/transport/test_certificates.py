from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.transport.certificates import Credentials, make_certificate
from appliance.transport.peers import identify
from appliance.trust.keys import create_key
from appliance.trust.pqc import provider

DAY_MS = 86_400_000
START_MS = 1_750_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    create_key(tmp_path / "key.pem", provider("openssl"))
    return tmp_path / "key.pem"


def test_a_certificate_carries_the_key_and_ends_in_days() -> None:
    key = MLDSA65PrivateKey.generate()
    certificate = make_certificate(key, START_MS, days=3)
    start = datetime.fromtimestamp(START_MS // 1000, UTC)
    assert certificate.not_valid_before_utc == start - timedelta(days=1)
    assert certificate.not_valid_after_utc == start + timedelta(days=3)
    assert identify(certificate, START_MS).public_key == key.public_key().public_bytes_raw()
    assert certificate.issuer == certificate.subject
    certificate.verify_directly_issued_by(certificate)


def test_credentials_are_those_of_the_key_file(key_file: Path) -> None:
    credentials = Credentials(key_file, Clock())
    peer = identify(credentials.certificate(), START_MS)
    assert credentials.node_id == node_id(peer.public_key)
    assert str(credentials.node_id) in credentials.certificate().subject.rfc4514_string()


@pytest.mark.parametrize(
    "days, is_renewed", [(0, False), (9.9, False), (10.1, True), (29, True), (400, True), (-0.9, False), (-400, True)]
)
def test_a_certificate_is_renewed_after_a_third_of_its_life_and_when_the_clock_goes_far_back(
    key_file: Path, days: float, is_renewed: bool
) -> None:
    clock = Clock()
    credentials = Credentials(key_file, clock, days=30)
    first = credentials.certificate()
    clock.ms += int(days * DAY_MS)
    second = credentials.certificate()
    assert (second != first) is is_renewed
    assert identify(second, clock.ms).node_id == credentials.node_id.raw
    assert credentials.certificate() is second


def test_a_key_file_that_others_can_read_is_refused(key_file: Path) -> None:
    key_file.chmod(0o640)
    with pytest.raises(X0tError, match=r"key\.permissions"):
        Credentials(key_file, Clock())
