"""Grants: what a chain allows, and what no later batch can mend."""

from __future__ import annotations

import pytest

from appliance.replica.entries import GrantEntry
from appliance.trust.grants import Role
from tests.sim.world import FAR_MS, START_MS
from tests.unit.replica.site import HELLO, Site, revoke


@pytest.mark.parametrize(
    "issuer, parent, roles, delegate, scope, reason",
    [
        pytest.param("bert", "bert", (Role.OWNER,), 1, (), None, id="one level less"),
        pytest.param("bert", "bert", (Role.OWNER,), 2, (), "grant.widens", id="as many levels"),
        pytest.param("dora", "dora", (Role.OWNER,), 0, (), "grant.widens", id="a higher role"),
        pytest.param("dora", "dora", (Role.MEMBER,), 0, (), None, id="a member, by an admin that may delegate"),
        pytest.param("emil", "emil", (Role.MEMBER,), 0, (), "grant.widens", id="by one that may not delegate"),
        pytest.param("dora", "bert", (Role.ADMIN,), 0, (), "grant.issuer", id="on somebody else's grant"),
    ],
)
def test_a_grant_never_widens(  # noqa: PLR0913, PLR0917  # a row
    site: Site,
    issuer: str,
    parent: str,
    roles: tuple[Role, ...],
    delegate: int,
    scope: tuple[str, ...],
    reason: str | None,
) -> None:
    author, fred = site.mesh.member(issuer), site.mesh.member("fred")
    grant = site.mesh.grant(author, fred, *roles, parent=site.grants[parent], delegate=delegate, scope=scope)
    assert site.reason(site.write(author, GrantEntry(grant))) == reason


def test_a_chain_of_grants_is_bounded(site: Site) -> None:
    chain = [site.mesh.member(name) for name in ("fred", "gina", "hugo")]
    root = site.mesh.grant(None, site.emil, Role.OWNER, delegate=9)
    batch, issuer, parent = site.write(site.emil, GrantEntry(root)), site.emil, root
    reasons = []
    for delegate, subject in zip((8, 7, 6), chain, strict=True):
        parent = site.mesh.grant(issuer, subject, Role.OWNER, delegate=delegate, parent=parent)
        batch, issuer = site.write(issuer, GrantEntry(parent), after=[batch]), subject
        reasons.append(site.reason(batch))
    fifth = site.mesh.grant(issuer, site.mesh.member("ines"), Role.OWNER, delegate=5, parent=parent)
    assert [*reasons, site.reason(site.write(issuer, GrantEntry(fifth), after=[batch]))] == [
        None,
        None,
        None,
        "grant.depth",
    ]


def test_nobody_publishes_a_grant_of_somebody_else_but_the_authoritys(site: Site) -> None:
    fred, gina = site.mesh.member("fred"), site.mesh.member("gina")
    of_bert = site.mesh.grant(site.bert, fred, Role.MEMBER, parent=site.grants["bert"])
    of_authority = site.mesh.grant(None, gina, Role.MEMBER)
    batch = site.write(site.emil, GrantEntry(of_bert), GrantEntry(of_authority))
    assert (site.reason(batch, 0), site.reason(batch, 1)) == ("grant.issuer", None)


def test_a_forged_grant_of_the_authority_is_void_and_stays_void_after_a_restart(site: Site) -> None:
    forged = bytearray(site.mesh.grant(None, site.emil, Role.OWNER, delegate=3))
    forged[-1] ^= 1
    batch = site.write(site.emil, GrantEntry(bytes(forged)), revoke(site.anna))
    replica = site.replica()
    before = replica.reasons()
    assert before == {(batch.hash, 0): "grant.signature", (batch.hash, 1): "grant.role"}
    replica.restart()
    site.write(site.emil, revoke(site.anna))
    replica.take(*site.mesh.batches.values())
    assert replica.reason(site.mesh.member("emil").head or batch) == "grant.role"


def test_a_revoked_owner_does_not_come_back_by_publishing_its_old_grant_again(site: Site) -> None:
    gina = site.mesh.member("gina")
    once = site.mesh.grant(None, gina, Role.OWNER, delegate=3)
    spare = site.mesh.grant(None, gina, Role.OWNER, delegate=3)  # signed at the same time, and kept back
    opened = site.mesh.write(gina, GrantEntry(once), after=[site.last])
    gone = site.write(site.anna, revoke(gina, opened), after=[opened], at_ms=1000)
    back = site.write(gina, GrantEntry(once), GrantEntry(spare), HELLO, after=[gone], at_ms=2000)
    assert [site.reason(back, entry) for entry in range(3)] == ["grant.repeated", None, "revoked"]
    assert site.reason(site.write(gina, HELLO)) == "revoked"


def test_a_new_grant_of_the_authority_lifts_a_revocation_that_is_older_than_it(site: Site) -> None:
    gone = site.write(site.anna, revoke(site.emil), at_ms=1000)
    new = site.mesh.grant(None, site.emil, Role.MEMBER, times=(START_MS + 1000, FAR_MS))
    back = site.write(site.emil, GrantEntry(new), HELLO, after=[gone], at_ms=2000)
    assert (site.reason(back, 0), site.reason(back, 1)) == (None, None)
