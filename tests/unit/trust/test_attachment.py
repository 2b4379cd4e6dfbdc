"""Attachments: a proof holds for one mesh, one node and one key, and for nothing that Yggdrasil signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.domains import Domain
from appliance.trust.attachment import PROOF_BYTES, attach_statement, verify_attachment
from tests.attach_rig import network_key, public

MESH, NODE, KEY = b"m" * 32, b"n" * 32, public("robot")
ids = st.binary(min_size=32, max_size=32)
facts = st.tuples(ids, ids, ids)


def proof(mesh: bytes = MESH, node: bytes = NODE, key: bytes = KEY) -> bytes:
    return network_key("robot").sign(attach_statement(mesh, node, key))


def test_a_key_proves_that_it_belongs_to_a_node_of_a_mesh() -> None:
    assert len(proof()) == PROOF_BYTES
    assert verify_attachment(MESH, NODE, KEY, proof())


@pytest.mark.parametrize(
    "mesh, node, key, said",
    [
        (b"M" * 32, NODE, KEY, proof()),
        (MESH, b"N" * 32, KEY, proof()),
        (MESH, NODE, public("thief"), proof()),
        (MESH, NODE, public("thief"), proof(key=public("thief"))),
        (NODE, MESH, KEY, proof()),
        (MESH, NODE, KEY, network_key("robot").sign(MESH + NODE + KEY)),
        (MESH, NODE, KEY, proof()[:-1]),
        (MESH, NODE, KEY, b""),
        (MESH, NODE, KEY[:-1], proof()),
        (MESH, NODE, b"\xff" * 32, proof()),
        (MESH[:-1], NODE, KEY, proof()),
    ],
    ids=[
        "another mesh",
        "another node",
        "another key",
        "another key that did not sign itself",
        "mesh and node the other way round",
        "a statement without its label",
        "a proof too short",
        "no proof",
        "a key too short",
        "a key that is no point of the curve",
        "a mesh id too short",
    ],
)
def test_a_proof_holds_for_nothing_else(mesh: bytes, node: bytes, key: bytes, said: bytes) -> None:
    assert not verify_attachment(mesh, node, key, said)


@given(st.integers(0, 8 * PROOF_BYTES - 1))
def test_a_flipped_bit_of_a_proof_is_found(bit: int) -> None:
    spoilt = bytearray(proof())
    spoilt[bit // 8] ^= 1 << bit % 8
    assert not verify_attachment(MESH, NODE, KEY, bytes(spoilt))


@given(facts, facts)
def test_two_statements_are_equal_only_if_they_say_the_same(
    one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    assert (attach_statement(*one) == attach_statement(*other)) == (one == other)
    assert len(attach_statement(*one)) == 108
    assert attach_statement(*one).startswith(Domain.ATTACH.encode())


def test_a_statement_about_something_of_another_length_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        attach_statement(MESH, NODE + b"n", KEY[:-1])
