from __future__ import annotations

import pytest

from appliance.core.errors import InputError, IntegrityError, X0tError
from appliance.core.ids import mesh_id
from appliance.trust.descriptor import Descriptor, open_descriptor, seal_descriptor
from appliance.trust.pqc import provider

PROVIDER = provider("openssl")
AUTHORITY = PROVIDER.mldsa_keypair(b"\1" * 32)
BLOB = seal_descriptor(AUTHORITY.public_key, "plant-7", 1_700_000_000_000, AUTHORITY.sign)


def test_a_descriptor_says_the_mesh_its_authority_and_its_name() -> None:
    assert open_descriptor(BLOB, PROVIDER.mldsa_verify) == Descriptor(
        version=1,
        mesh=mesh_id(AUTHORITY.public_key).raw,
        authority_key=AUTHORITY.public_key,
        name="plant-7",
        created_ms=1_700_000_000_000,
    )


def test_a_descriptor_signed_by_another_key_is_refused() -> None:
    other = PROVIDER.mldsa_keypair(b"\2" * 32)
    forged = seal_descriptor(AUTHORITY.public_key, "plant-7", 0, other.sign)
    with pytest.raises(IntegrityError) as caught:
        open_descriptor(forged, PROVIDER.mldsa_verify)
    assert caught.value.key == "mesh.descriptor_signature"


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_out_of_bounds_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_descriptor(seal_descriptor(AUTHORITY.public_key, name, 0, AUTHORITY.sign), PROVIDER.mldsa_verify)
    assert caught.value.key == "mesh.descriptor"


@pytest.mark.parametrize("blob", [b"", b"\xff", b"x" * 9000, BLOB[:-1], BLOB + b"\0"])
def test_what_is_no_descriptor_is_refused(blob: bytes) -> None:
    with pytest.raises(InputError):
        open_descriptor(blob, PROVIDER.mldsa_verify)


@pytest.mark.parametrize("place", range(0, len(BLOB), 97))
def test_no_flipped_bit_passes(place: int) -> None:
    flipped = bytearray(BLOB)
    flipped[place] ^= 0x10
    with pytest.raises(X0tError):
        open_descriptor(bytes(flipped), PROVIDER.mldsa_verify)
