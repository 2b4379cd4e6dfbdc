"""Identifiers: kinds, derivation, order and text."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from appliance.core.errors import InputError
from appliance.core.ids import (
    BatchHash,
    CertificateId,
    ChangeHash,
    EnrolmentId,
    GrantId,
    Id,
    MeshId,
    NodeId,
    TokenId,
    mesh_id,
    node_id,
)

KINDS = (NodeId, MeshId, BatchHash, GrantId, ChangeHash, TokenId, CertificateId, EnrolmentId)
RAW = bytes(range(32))


@pytest.mark.parametrize(
    "kind, prefix",
    [
        (NodeId, "node"),
        (MeshId, "mesh"),
        (BatchHash, "batch"),
        (GrantId, "grant"),
        (ChangeHash, "change"),
        (TokenId, "token"),
        (CertificateId, "cert"),
        (EnrolmentId, "enrol"),
    ],
)
def test_the_text_of_an_identifier_names_its_kind_and_parses_back(kind: type[Id], prefix: str) -> None:
    text = str(kind(RAW))
    assert text.startswith(f"{prefix}1")
    assert len(text) == len(prefix) + 1 + 52 + 6
    assert kind.parse(text) == kind(RAW)
    assert kind.parse(text.upper()) == kind(RAW)
    assert kind(RAW).short == text[:12]


def test_the_text_form_never_changes() -> None:
    assert str(NodeId(RAW)) == "node1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0sl8gx07"


@pytest.mark.parametrize("other", [kind for kind in KINDS if kind is not NodeId])
def test_kinds_are_never_equal_nor_ordered_nor_parsed_for_each_other(other: type[Id]) -> None:
    assert NodeId(RAW) != other(RAW)
    assert len({NodeId(RAW), other(RAW)}) == 2
    with pytest.raises(TypeError):
        assert NodeId(RAW) < other(RAW)
    with pytest.raises(InputError, match="not a node identifier"):
        NodeId.parse(str(other(RAW)))


def test_identifiers_of_a_kind_sort_by_their_bytes_and_hash_by_value() -> None:
    low, high = NodeId(bytes(32)), NodeId(RAW)
    assert sorted([high, low]) == [low, high]
    assert {high: 1}[NodeId(bytes(range(32)))] == 1


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytearray(32)])
def test_only_32_bytes_make_an_identifier(raw: bytes) -> None:
    with pytest.raises(InputError) as caught:
        NodeId(raw)
    assert caught.value.key == "id.raw"


def test_an_identifier_is_frozen_and_carries_nothing_else() -> None:
    identifier = NodeId(RAW)
    with pytest.raises(dataclasses.FrozenInstanceError):
        identifier.raw = bytes(32)  # type: ignore[misc]
    assert not hasattr(identifier, "__dict__")


def test_a_text_of_the_right_kind_and_the_wrong_length_is_refused() -> None:
    from appliance.core import bech32m

    with pytest.raises(InputError, match="not a node identifier"):
        NodeId.parse(bech32m.encode("node", bytes(20)))


def test_ids_are_hashes_of_keys_under_their_own_labels() -> None:
    key = bytes(1952)
    assert node_id(key).raw == hashlib.sha256(b"x0t/node-id/1" + key).digest()
    assert mesh_id(key).raw == hashlib.sha256(b"x0t/mesh-id/1" + key).digest()
