"""Who may do what, and what a revocation takes: the rules of ADR 0010, on the real engine."""

from __future__ import annotations

import pytest

from appliance.replica.entries import GrantEntry, RevokeEntry
from appliance.trust.grants import Role
from tests.sim.world import START_MS, Mesh
from tests.unit.replica.site import HELLO, Site, cut, revoke


def test_a_member_may_announce_itself_once_its_grant_lies_in_its_past(site: Site) -> None:
    assert site.reason(site.write(site.emil, HELLO)) is None


def test_a_grant_that_the_author_had_not_seen_entitles_to_nothing(site: Site) -> None:
    fred = site.mesh.member("fred")
    member = site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"])
    joined = site.write(site.anna, GrantEntry(member))
    admin = site.mesh.grant(site.anna, fred, Role.ADMIN, parent=site.grants["anna"])
    site.write(site.anna, GrantEntry(admin))
    change = site.change(fred, site.emil, "robot")
    assert site.reason(site.write(fred, change, after=[joined])) == "role"


@pytest.mark.parametrize(
    "roles, scope, tag, reason",
    [
        pytest.param((Role.ADMIN,), (), "robot", None, id="an admin of the whole mesh"),
        pytest.param((Role.OWNER,), (), "robot", None, id="an owner may do what an admin may"),
        pytest.param((Role.MEMBER,), (), "robot", "role", id="a member"),
        pytest.param((Role.ADMIN,), ("robot",), "robot", None, id="an admin of these tags"),
        pytest.param((Role.ADMIN,), ("gate",), "robot", "role", id="an admin of other tags"),
    ],
)
def test_a_tag_is_set_by_who_administers_it(
    site: Site, roles: tuple[Role, ...], scope: tuple[str, ...], tag: str, reason: str | None
) -> None:
    fred = site.mesh.member("fred")
    grant = site.mesh.grant(site.anna, fred, *roles, parent=site.grants["anna"], scope=scope)
    granted = site.write(site.anna, GrantEntry(grant))
    change = site.change(fred, site.emil, tag)
    assert site.reason(site.write(fred, change, after=[granted])) == reason


def test_an_expired_grant_entitles_to_nothing_by_the_clock_of_the_batch(site: Site) -> None:
    fred = site.mesh.member("fred")
    times = (START_MS, START_MS + 1000)
    grant = site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"], times=times)
    granted = site.write(site.anna, GrantEntry(grant))
    in_time = site.write(fred, HELLO, after=[granted], at_ms=1000)
    too_late = site.write(fred, HELLO, after=[granted], at_ms=1001)
    assert (site.reason(in_time), site.reason(too_late)) == (None, "expired")


def test_of_two_reasons_the_revocation_is_named_whichever_grant_came_first(site: Site) -> None:
    fred = site.mesh.member("fred")
    short = site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"], times=(START_MS, START_MS + 5))
    long = site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"])
    granted = site.write(site.anna, GrantEntry(short), GrantEntry(long))
    site.write(site.anna, revoke(fred))
    assert site.reason(site.write(fred, HELLO, after=[granted], at_ms=1000)) == "revoked"


def test_a_grant_of_the_authority_counts_for_the_batch_that_brings_it(site: Site) -> None:
    fred = site.mesh.member("fred")
    grant = site.mesh.grant(None, fred, Role.ADMIN)
    opening = site.mesh.write(fred, GrantEntry(grant), HELLO, revoke(site.emil))
    assert [site.reason(opening, entry) for entry in range(3)] == [None, None, None]


def test_what_lies_beyond_the_cut_has_no_effect_whenever_it_arrives(site: Site) -> None:
    kept = site.write(site.emil, HELLO)
    lost = site.write(site.emil, HELLO)
    site.write(site.anna, revoke(site.emil, kept), after=[kept])
    assert (site.reason(kept), site.reason(lost)) == (None, "revoked")


def test_the_cut_counts_even_where_the_revoker_had_seen_more(site: Site) -> None:
    kept = site.write(site.emil, HELLO)
    seen = site.write(site.emil, HELLO)
    site.write(site.anna, revoke(site.emil, kept), after=[seen])
    assert site.reason(seen) == "revoked"


def test_a_cut_at_nothing_takes_everything(site: Site) -> None:
    first = site.write(site.emil, HELLO)
    site.write(site.anna, revoke(site.emil))
    assert site.reason(first) == "revoked"


def test_a_revocation_of_a_key_that_never_wrote_holds_it_off(site: Site) -> None:
    site.write(site.anna, revoke(site.emil))
    assert site.reason(site.write(site.emil, HELLO)) == "revoked"


def test_a_revocation_of_one_role_leaves_the_others(site: Site) -> None:
    fred = site.mesh.member("fred")
    grant = site.mesh.grant(site.anna, fred, Role.ADMIN, Role.OPERATOR, parent=site.grants["anna"])
    granted = site.write(site.anna, GrantEntry(grant))
    taken = site.write(site.anna, revoke(fred, None, Role.ADMIN))
    change = site.change(fred, site.emil, "robot")
    batch = site.write(fred, HELLO, change, after=[granted, taken])
    assert (site.reason(batch, 0), site.reason(batch, 1)) == (None, "revoked")


def test_a_grant_given_in_knowledge_of_the_revocation_is_not_touched_by_it(site: Site) -> None:
    gone = site.write(site.anna, revoke(site.emil))
    again = site.mesh.grant(site.bert, site.emil, Role.MEMBER, parent=site.grants["bert"])
    granted = site.write(site.bert, GrantEntry(again), after=[gone])
    assert site.reason(site.write(site.emil, HELLO, after=[granted])) is None


def test_a_grant_given_beside_the_revocation_falls_with_it(site: Site) -> None:
    site.write(site.anna, revoke(site.emil))
    again = site.mesh.grant(site.bert, site.emil, Role.MEMBER, parent=site.grants["bert"])
    granted = site.write(site.bert, GrantEntry(again))
    assert site.reason(site.write(site.emil, HELLO, after=[granted])) == "revoked"


def test_what_rests_on_a_lost_grant_is_lost_down_the_chain(site: Site) -> None:
    fred = site.mesh.member("fred")
    beyond = site.mesh.grant(site.bert, fred, Role.OWNER, delegate=1, parent=site.grants["bert"])
    granted = site.write(site.bert, GrantEntry(beyond))
    site.write(site.anna, revoke(site.bert, site.start[3]))
    attack = site.write(fred, revoke(site.cleo), after=[granted])
    assert (site.reason(granted), site.reason(attack)) == ("revoked", "revoked")


def test_who_was_granted_before_the_cut_stays(site: Site) -> None:
    site.write(site.anna, revoke(site.bert, site.start[3]))
    assert site.reason(site.write(site.dora, site.change(site.dora, site.emil, "robot"))) is None


def test_a_key_may_revoke_itself(site: Site) -> None:
    last = site.write(site.emil, HELLO)
    farewell = site.write(site.emil, revoke(site.emil, last))
    after = site.write(site.emil, HELLO)
    assert (site.reason(last), site.reason(farewell), site.reason(after)) == (None, None, "revoked")


@pytest.mark.parametrize(
    "author, target, reason",
    [
        ("dora", "emil", None),
        ("dora", "bert", "grant.role"),
        ("emil", "dora", "grant.role"),
        ("cleo", "dora", None),
        ("cleo", "bert", None),
    ],
)
def test_admins_revoke_members_and_owners_revoke_all(site: Site, author: str, target: str, reason: str | None) -> None:
    batch = site.write(site.mesh.member(author), revoke(site.mesh.member(target)))
    assert site.reason(batch) == reason


def test_an_admin_that_looks_away_from_an_owners_grant_still_cannot_take_it(site: Site) -> None:
    """It writes on a past in which the target is no owner yet; so its revocation takes only what an admin may take."""
    fred = site.mesh.member("fred")
    owner = site.mesh.grant(site.anna, fred, Role.OWNER, parent=site.grants["anna"])
    promoted = site.write(site.anna, GrantEntry(owner))
    blind = site.write(site.dora, revoke(fred))
    change = site.change(fred, site.emil, "robot")
    assert site.reason(blind) is None
    assert site.reason(site.write(fred, change, after=[promoted])) is None


def test_a_cut_must_be_a_batch_of_the_target(site: Site) -> None:
    wrong_author = site.write(site.anna, RevokeEntry(site.emil.id, (), *cut(site.start[3]), ""))
    wrong_seq = site.write(site.anna, RevokeEntry(site.bert.id, (), 7, site.start[3].hash, ""))
    no_head = site.write(site.anna, RevokeEntry(site.bert.id, (), 7, None, ""))
    assert {site.reason(batch) for batch in (wrong_author, wrong_seq, no_head)} == {"revoke.cut"}


def test_one_author_revokes_one_key_only_so_many_times() -> None:
    mesh = Mesh()
    limit = mesh.limits.revocations_per_target
    anna, emil = mesh.member("anna"), mesh.member("emil")
    root = mesh.grant(None, anna, Role.OWNER, delegate=3)
    mesh.write(anna, GrantEntry(root))
    batch = mesh.write(anna, *[revoke(emil)] * (limit + 1))
    replica = mesh.replica()
    replica.take(*mesh.batches.values())
    assert replica.reasons() == {(batch.hash, limit): "revoke.repeated"}
