from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.core.errors import InputError, StateError
from appliance.core.limits import LIMITS
from appliance.daemon.membership import TEN_YEARS_MS, Membership, found
from appliance.daemon.target import parse_target
from appliance.trust.grants import Role, check_chain
from appliance.trust.pqc import provider

BY = provider("openssl")
GATEWAY, V6 = parse_target("gw:1"), parse_target("[::1]:2")
NOW_MS = 1_700_000_000_000


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """As on a full disk: the kernel cuts every write at this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def membership(tmp_path: Path) -> Membership:
    return Membership(tmp_path, BY)


def founded(membership: Membership, name: str = "plant") -> bytes:
    return found(membership.authority(), membership.node_key(), name, NOW_MS, LIMITS.grant_depth)[0]


def test_the_node_key_is_made_once_and_is_private(membership: Membership, tmp_path: Path) -> None:
    first = membership.node_key()
    assert membership.node_key().id == first.id
    assert (tmp_path / "node.pem").stat().st_mode & 0o777 == 0o600


def test_the_root_grant_makes_the_founder_owner_for_ten_years(membership: Membership) -> None:
    authority, owner = membership.authority(), membership.node_key()
    blob, root = found(authority, owner, "plant", NOW_MS, LIMITS.grant_depth)
    mesh = membership.open(blob).mesh
    grant = check_chain([root], mesh, authority.public_key, BY.mldsa_verify)
    assert (grant.subject, grant.roles, grant.scope) == (owner.id.raw, (Role.OWNER,), ())
    assert (grant.delegate, grant.not_after_ms) == (LIMITS.grant_depth - 1, NOW_MS + TEN_YEARS_MS)


def test_a_node_follows_one_mesh_for_good(membership: Membership, tmp_path: Path) -> None:
    assert membership.descriptor() is None
    blob = founded(membership)
    membership.follow(blob)
    membership.follow(blob)
    followed = membership.descriptor()
    assert followed is not None
    assert followed.name == "plant"
    (tmp_path / "other").mkdir()
    with pytest.raises(StateError) as caught:
        membership.follow(founded(Membership(tmp_path / "other", BY), "another"))
    assert caught.value.key == "replica.mesh_exists"


def test_the_warning_is_there_while_the_authority_key_is(membership: Membership, tmp_path: Path) -> None:
    assert membership.warning() == ""
    membership.authority()
    assert str(tmp_path / "authority.pem") in membership.warning()


def test_an_interrupted_founding_goes_on_with_the_same_authority(membership: Membership) -> None:
    assert membership.authority().id == membership.authority().id


def test_peers_are_kept_without_doubles(membership: Membership, tmp_path: Path) -> None:
    assert membership.peers() == []
    (tmp_path / "other").mkdir()
    blob = founded(Membership(tmp_path / "other", BY))
    membership.follow(blob, [GATEWAY])
    membership.follow(blob, [GATEWAY, V6])
    assert membership.peers() == [GATEWAY, V6]
    assert {path.name for path in tmp_path.iterdir()} == {"peers.json", "mesh.x0t", "other"}


def test_a_descriptor_that_cannot_be_written_leaves_the_files_as_they_were(
    membership: Membership, tmp_path: Path
) -> None:
    blob = founded(membership)

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    before = files()
    with files_of_at_most(1000), pytest.raises(InputError, match=r"mesh\.x0t"):  # a descriptor has 5 KiB
        membership.follow(blob, [GATEWAY])
    assert files() == before
    membership.follow(blob, [GATEWAY])
    before = files()
    with files_of_at_most(10), pytest.raises(InputError, match=r"peers\.json"):
        membership.follow(blob, [V6])
    assert files() == before


def test_peers_of_a_mesh_that_was_never_followed_are_dropped(membership: Membership, tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text("{")  # the power went before the descriptor was written
    membership.follow(founded(membership), [V6])
    assert membership.peers() == [V6]


def test_a_damaged_peer_file_is_named(membership: Membership, tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text("{")
    with pytest.raises(InputError, match=r"peers\.json"):
        membership.peers()
