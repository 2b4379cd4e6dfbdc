"""Grants: what is well formed, who may sign, what narrows, and how a chain is checked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from appliance.core import canonical, cose
from appliance.core.canonical import Cbor
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.ids import mesh_id, node_id
from appliance.core.limits import Limits
from appliance.trust.grants import (
    Grant,
    Role,
    active_at,
    check_chain,
    encode_grant,
    grant_id,
    implied_roles,
    narrows,
    open_grant,
    peek_grant,
    sign_grant,
)
from appliance.trust.pqc import provider
from appliance.trust.signed import FOREVER_MS

PROVIDER = provider("auto")
VERIFY = PROVIDER.mldsa_verify
AUTHORITY, ALICE, BOB, CAROL, DAVE = (PROVIDER.mldsa_keypair(bytes([number] * 32)) for number in range(5))
MESH = mesh_id(AUTHORITY.public_key).raw
DAY_MS = 86_400_000

ROOT = Grant(
    mesh=MESH,
    issuer=MESH,
    subject=node_id(ALICE.public_key).raw,
    subject_key=ALICE.public_key,
    roles=(Role.ADMIN, Role.OPERATOR),
    scope=("line-1", "line-2"),
    delegate=2,
    not_before_ms=DAY_MS,
    not_after_ms=10 * DAY_MS,
    parent=None,
    nonce=bytes(16),
)
ROOT_BLOB = sign_grant(ROOT, AUTHORITY.sign)
CHILD = replace(
    ROOT,
    issuer=ROOT.subject,
    subject=node_id(BOB.public_key).raw,
    subject_key=BOB.public_key,
    delegate=1,
    parent=grant_id(ROOT_BLOB),
)
CHILD_BLOB = sign_grant(CHILD, ALICE.sign)
LEAF = replace(
    CHILD,
    issuer=CHILD.subject,
    subject=node_id(CAROL.public_key).raw,
    subject_key=CAROL.public_key,
    delegate=0,
    parent=grant_id(CHILD_BLOB),
)
LEAF_BLOB = sign_grant(LEAF, BOB.sign)


def _key(call: Callable[[], object]) -> str:
    """The key of the error that *call* raises."""
    with pytest.raises(X0tError) as caught:
        call()
    return caught.value.key


def test_a_signed_grant_opens_to_what_was_signed() -> None:
    assert open_grant(ROOT_BLOB, VERIFY, AUTHORITY.public_key) == ROOT == peek_grant(ROOT_BLOB)


def test_signing_again_changes_the_bytes_and_not_the_id() -> None:
    again = sign_grant(ROOT, AUTHORITY.sign)
    assert again != ROOT_BLOB
    assert grant_id(again) == grant_id(ROOT_BLOB)


def test_the_payload_is_a_canonical_array_of_twelve() -> None:
    fields = canonical.decode(encode_grant(ROOT))
    assert fields == [
        1, MESH, MESH, ROOT.subject, ALICE.public_key, ["admin", "operator"], ["line-1", "line-2"], 2, DAY_MS,
        10 * DAY_MS, None, bytes(16),
    ]  # fmt: skip


MALFORMED: list[tuple[str, int, Cbor]] = [
    ("another version", 0, 2),
    ("a version that is true", 0, True),
    ("a short mesh", 1, MESH[:-1]),
    ("a mesh as base64 text", 1, "A" * 43 + "="),
    ("a long issuer", 2, MESH + b"\0"),
    ("a subject of another key", 3, node_id(BOB.public_key).raw),
    ("a short key", 4, ALICE.public_key[:-1]),
    ("no key", 4, None),
    ("no role", 5, []),
    ("an unknown role", 5, ["admin", "emperor"]),
    ("roles out of order", 5, ["operator", "admin"]),
    ("a role twice", 5, ["admin", "admin"]),
    ("roles that are no list", 5, "admin"),
    ("tags out of order", 6, ["line-2", "line-1"]),
    ("a tag twice", 6, ["line-1", "line-1"]),
    ("an empty tag", 6, [""]),
    ("a long tag", 6, ["é" * 129]),
    ("too many tags", 6, [f"{number:03}" for number in range(65)]),
    ("negative levels", 7, -1),
    ("levels beyond a byte", 7, 256),
    ("a time before 1970", 8, -1),
    ("an end before the beginning", 9, DAY_MS - 1),
    ("an end that no clock reaches", 9, FOREVER_MS + 1),
    ("a parent beside the authority as issuer", 10, bytes(32)),
    ("a short nonce", 11, bytes(15)),
]


@pytest.mark.parametrize("at, value", [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_grant_is_malformed_with(at: int, value: Cbor) -> None:
    fields = canonical.decode(encode_grant(ROOT))
    assert isinstance(fields, list)
    fields[at] = value
    blob = cose.sign1(canonical.encode(fields), Domain.GRANT, AUTHORITY.sign)
    assert _key(lambda: open_grant(blob, VERIFY, AUTHORITY.public_key)) == "grant.malformed"


def _resized(count: int) -> bytes:
    fields = canonical.decode(encode_grant(ROOT))
    assert isinstance(fields, list)
    return cose.sign1(canonical.encode([*fields, None][:count]), Domain.GRANT, AUTHORITY.sign)


BLOBS = [
    ("nothing", b""),
    ("no COSE", encode_grant(ROOT)),
    ("a field too few", _resized(11)),
    ("a field too many", _resized(13)),
    ("no field", _resized(0)),
    ("trailing bytes", ROOT_BLOB + b"\0"),
    ("half", ROOT_BLOB[: len(ROOT_BLOB) // 2]),
    ("a payload that is no CBOR", cose.sign1(b"\xff", Domain.GRANT, AUTHORITY.sign)),
    ("a payload that is a map", cose.sign1(b"\xa0", Domain.GRANT, AUTHORITY.sign)),
    ("more than the limit", cose.sign1(bytes(50_000), Domain.GRANT, AUTHORITY.sign)),
]


@pytest.mark.parametrize("blob", [row[1] for row in BLOBS], ids=[row[0] for row in BLOBS])
def test_a_blob_is_no_grant_that_is(blob: bytes) -> None:
    assert _key(lambda: peek_grant(blob)) == "grant.malformed"


UNSIGNABLE = [
    ("a subject of another key", replace(ROOT, subject=bytes(32))),
    ("unsorted roles", replace(ROOT, roles=(Role.OPERATOR, Role.ADMIN))),
    ("a parent beside the authority", replace(ROOT, parent=bytes(32))),
    ("no parent beside another issuer", replace(CHILD, parent=None)),
]


@pytest.mark.parametrize("grant", [row[1] for row in UNSIGNABLE], ids=[row[0] for row in UNSIGNABLE])
def test_nothing_malformed_is_signed(grant: Grant) -> None:
    assert _key(lambda: sign_grant(grant, AUTHORITY.sign)) == "grant.malformed"


def test_a_grant_under_another_label_does_not_verify() -> None:
    blob = cose.sign1(encode_grant(ROOT), Domain.TOKEN, AUTHORITY.sign)
    assert _key(lambda: open_grant(blob, VERIFY, AUTHORITY.public_key)) == "grant.signature"


def test_a_grant_signed_by_another_key_than_its_issuers_does_not_verify() -> None:
    assert _key(lambda: open_grant(sign_grant(ROOT, BOB.sign), VERIFY, AUTHORITY.public_key)) == "grant.signature"
    assert _key(lambda: open_grant(sign_grant(ROOT, BOB.sign), VERIFY, BOB.public_key)) == "grant.issuer"
    assert _key(lambda: open_grant(CHILD_BLOB, VERIFY, AUTHORITY.public_key)) == "grant.issuer"


WIDENS: list[tuple[str, str, Grant]] = [
    ("another role", "grant.widens", replace(CHILD, roles=(Role.ADMIN, Role.APPROVER))),
    ("the owner's role", "grant.widens", replace(CHILD, roles=(Role.OWNER,))),
    ("another tag", "grant.widens", replace(CHILD, scope=("line-1", "line-3"))),
    ("the whole mesh", "grant.widens", replace(CHILD, scope=())),
    ("as many levels", "grant.widens", replace(CHILD, delegate=2)),
    ("more levels", "grant.widens", replace(CHILD, delegate=3)),
    ("an earlier beginning", "grant.widens", replace(CHILD, not_before_ms=DAY_MS - 1)),
    ("a later end", "grant.widens", replace(CHILD, not_after_ms=10 * DAY_MS + 1)),
    ("another mesh", "grant.mesh", replace(CHILD, mesh=bytes(32))),
    ("another issuer", "grant.issuer", replace(CHILD, issuer=node_id(DAVE.public_key).raw)),
]


@pytest.mark.parametrize("key, child", [row[1:] for row in WIDENS], ids=[row[0] for row in WIDENS])
def test_a_holder_cannot_give(key: str, child: Grant) -> None:
    assert _key(lambda: narrows(child, ROOT)) == key


NARROWS = [
    ("the same", CHILD, ROOT),
    ("one role of two", replace(CHILD, roles=(Role.OPERATOR,)), ROOT),
    ("membership, which every role implies", replace(CHILD, roles=(Role.MEMBER,)), ROOT),
    ("any role as an owner", replace(CHILD, roles=tuple(sorted(Role))), replace(ROOT, roles=(Role.OWNER,))),
    ("one tag of two", replace(CHILD, scope=("line-2",)), ROOT),
    ("a tag of the whole mesh", CHILD, replace(ROOT, scope=())),
    ("the whole mesh of the whole mesh", replace(CHILD, scope=()), replace(ROOT, scope=())),
    ("no further level", replace(CHILD, delegate=0), ROOT),
    ("one moment", replace(CHILD, not_before_ms=DAY_MS, not_after_ms=DAY_MS), ROOT),
]


@pytest.mark.parametrize("child, parent", [row[1:] for row in NARROWS], ids=[row[0] for row in NARROWS])
def test_a_holder_can_give(child: Grant, parent: Grant) -> None:
    narrows(child, parent)


def test_a_holder_without_levels_gives_nothing() -> None:
    assert _key(lambda: narrows(replace(CHILD, delegate=0), replace(ROOT, delegate=0))) == "grant.widens"


def test_a_chain_opens_to_its_leaf() -> None:
    assert check_chain([ROOT_BLOB], MESH, AUTHORITY.public_key, VERIFY) == ROOT
    assert check_chain([CHILD_BLOB, ROOT_BLOB], MESH, AUTHORITY.public_key, VERIFY) == CHILD
    assert check_chain([LEAF_BLOB, CHILD_BLOB, ROOT_BLOB], MESH, AUTHORITY.public_key, VERIFY) == LEAF


OTHER_ROOT_BLOB = sign_grant(replace(ROOT, nonce=b"\1" * 16), AUTHORITY.sign)
OTHER_MESH = mesh_id(DAVE.public_key).raw
OTHER_MESH_BLOB = sign_grant(replace(ROOT, mesh=OTHER_MESH, issuer=OTHER_MESH), DAVE.sign)
WIDE_BLOB = sign_grant(replace(LEAF, roles=(Role.OWNER,)), BOB.sign)
FORGED_BLOB = sign_grant(LEAF, DAVE.sign)

CHAINS: list[tuple[str, str, list[bytes]]] = [
    ("nothing", "grant.malformed", []),
    ("a root of another authority", "grant.issuer", [OTHER_MESH_BLOB]),
    ("no root", "grant.issuer", [LEAF_BLOB, CHILD_BLOB]),
    ("the wrong order", "grant.issuer", [ROOT_BLOB, CHILD_BLOB]),
    ("a gap", "grant.issuer", [LEAF_BLOB, ROOT_BLOB]),
    ("a root twice", "grant.issuer", [ROOT_BLOB, ROOT_BLOB]),
    ("a root that is not the parent", "grant.issuer", [CHILD_BLOB, OTHER_ROOT_BLOB]),
    ("a leaf that widens", "grant.widens", [WIDE_BLOB, CHILD_BLOB, ROOT_BLOB]),
    ("a forged leaf", "grant.signature", [FORGED_BLOB, CHILD_BLOB, ROOT_BLOB]),
    ("too many links", "grant.depth", [LEAF_BLOB] * 5),
]


@pytest.mark.parametrize("key, chain", [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_a_chain_is_refused_of(key: str, chain: list[bytes]) -> None:
    assert _key(lambda: check_chain(chain, MESH, AUTHORITY.public_key, VERIFY)) == key


def test_a_chain_for_another_mesh_is_refused() -> None:
    assert _key(lambda: check_chain([ROOT_BLOB], bytes(32), AUTHORITY.public_key, VERIFY)) == "grant.mesh"


def test_a_long_chain_costs_no_verification() -> None:
    def never(*_: bytes) -> bool:
        raise AssertionError("a signature was verified")

    chain = [b""] * 1_000_000
    assert _key(lambda: check_chain(chain, MESH, AUTHORITY.public_key, never)) == "grant.depth"
    limits = Limits(grant_depth=1)
    assert _key(lambda: check_chain([b"", b""], MESH, AUTHORITY.public_key, never, limits)) == "grant.depth"


IMPLIED = [
    ((), frozenset[Role]()),
    ((Role.MEMBER,), {Role.MEMBER}),
    ((Role.AUDITOR,), {Role.AUDITOR, Role.MEMBER}),
    ((Role.OWNER,), set(Role)),
]


@pytest.mark.parametrize("roles, implied", IMPLIED, ids=lambda value: "+".join(sorted(value)) or "none")
def test_roles_imply(roles: tuple[Role, ...], implied: set[Role]) -> None:
    assert implied_roles(roles) == implied


@pytest.mark.parametrize(
    "now_ms, active", [(DAY_MS - 1, False), (DAY_MS, True), (10 * DAY_MS, True), (10 * DAY_MS + 1, False)]
)
def test_a_grant_is_active_from_its_beginning_to_its_end(now_ms: int, active: bool) -> None:
    assert active_at(ROOT, now_ms) is active
