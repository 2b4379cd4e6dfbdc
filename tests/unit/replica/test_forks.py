"""Logs that fork: both sides are frozen until an owner decides (ADR 0010)."""

from __future__ import annotations

import pytest

from appliance.replica.entries import GrantEntry, ThawEntry
from appliance.trust.grants import Role
from tests.unit.replica.site import HELLO, Site, fork, revoke


def test_both_sides_of_a_fork_are_frozen_and_what_came_before_is_not(site: Site) -> None:
    before = site.write(site.emil, HELLO)
    left, right = fork(site, site.emil)
    assert [site.reason(batch) for batch in (before, left, right)] == [None, "frozen", "frozen"]


def test_a_log_may_fork_at_its_first_batch(site: Site) -> None:
    left, right = fork(site, site.emil)
    assert (left.batch.seq, right.batch.seq) == (1, 1)
    assert [site.reason(batch) for batch in (left, right)] == ["frozen", "frozen"]


def test_grants_of_both_sides_of_a_fork_fall(site: Site) -> None:
    fred, gina = site.mesh.member("fred"), site.mesh.member("gina")
    before = site.bert.head
    to_fred = site.mesh.grant(site.bert, fred, Role.MEMBER, parent=site.grants["bert"])
    left = site.write(site.bert, GrantEntry(to_fred))
    to_gina = site.mesh.grant(site.bert, gina, Role.MEMBER, parent=site.grants["bert"])
    right = site.write(site.bert, GrantEntry(to_gina), prev=before)
    hello = [site.write(fred, HELLO, after=[left]), site.write(gina, HELLO, after=[right])]
    assert [site.reason(batch) for batch in (left, right, *hello)] == ["frozen", "frozen", "revoked", "revoked"]


def test_a_fork_in_a_revokers_log_takes_its_revocation_back(site: Site) -> None:
    before = site.bert.head
    gone = site.write(site.bert, revoke(site.emil))
    hello = site.write(site.emil, HELLO)
    assert (site.reason(gone), site.reason(hello)) == (None, "revoked")
    site.write(site.bert, HELLO, prev=before)
    assert (site.reason(gone), site.reason(hello)) == ("frozen", None)


def test_an_owners_decision_clears_one_side(site: Site) -> None:
    left, right = fork(site, site.emil)
    site.write(site.anna, ThawEntry(site.emil.id, left.hash, ""))
    after = site.write(site.emil, HELLO, prev=left)
    assert [site.reason(batch) for batch in (left, right, after)] == [None, "frozen", None]


def test_a_fork_beyond_what_was_decided_freezes_again(site: Site) -> None:
    left, _ = fork(site, site.emil)
    site.write(site.anna, ThawEntry(site.emil.id, left.hash, ""))
    again = [site.write(site.emil, HELLO, prev=left), site.write(site.emil, HELLO, prev=left, at_ms=5000)]
    assert [site.reason(batch) for batch in (left, *again)] == [None, "frozen", "frozen"]


def test_decisions_that_disagree_clear_nothing_until_one_has_seen_the_other(site: Site) -> None:
    left, right = fork(site, site.emil)
    by_bert = site.write(site.bert, ThawEntry(site.emil.id, left.hash, ""))
    by_cleo = site.write(site.cleo, ThawEntry(site.emil.id, right.hash, ""))
    assert [site.reason(batch) for batch in (left, right)] == ["frozen", "frozen"]
    site.write(site.anna, ThawEntry(site.emil.id, right.hash, ""), after=[by_bert, by_cleo])
    assert [site.reason(batch) for batch in (left, right)] == ["frozen", None]


@pytest.mark.parametrize("who, reason", [("dora", "grant.role"), ("emil", "thaw.self"), ("bert", None)])
def test_only_another_owner_decides(site: Site, who: str, reason: str | None) -> None:
    left, _ = fork(site, site.emil)
    decision = ThawEntry(site.emil.id, left.hash, "")
    assert site.reason(site.write(site.mesh.member(who), decision, prev=site.mesh.member(who).head)) == reason


def test_a_decision_names_a_batch_of_the_log_that_forked(site: Site) -> None:
    fork(site, site.emil)
    assert site.reason(site.write(site.anna, ThawEntry(site.emil.id, site.last.hash, ""))) == "thaw.keep"


def test_nobody_thaws_the_log_that_made_him_an_owner(site: Site) -> None:
    fred = site.mesh.member("fred")
    before = site.bert.head
    grant = site.mesh.grant(site.bert, fred, Role.OWNER, parent=site.grants["bert"])
    granted = site.write(site.bert, GrantEntry(grant))
    site.write(site.bert, HELLO, prev=before)
    thaw = site.write(fred, ThawEntry(site.bert.id, granted.hash, ""), after=[granted])
    assert (site.reason(thaw), site.reason(granted)) == ("conflict", "frozen")


def test_a_revoked_owner_does_not_disarm_a_frozen_revocation_by_thawing_it(site: Site) -> None:
    """Bert's log forked beside his revocation of cleo. She thaws it, so that it takes her own thaw away: she loses."""
    before = site.bert.head
    gone = site.write(site.bert, revoke(site.cleo, site.start[4]))
    site.write(site.bert, HELLO, prev=before)
    trick = site.write(site.cleo, ThawEntry(site.bert.id, gone.hash, ""), after=[gone])
    site.write(site.anna, ThawEntry(site.bert.id, gone.hash, ""), after=[gone])
    assert (site.reason(gone), site.reason(trick)) == (None, "conflict")


def test_an_honest_node_goes_on_where_the_decision_says(site: Site) -> None:
    left, right = fork(site, site.emil)
    site.write(site.anna, ThawEntry(site.emil.id, right.hash, ""), after=[left, right])
    replica = site.replica()
    after = replica.write(site.emil, HELLO, at_ms=10_000)
    assert after.batch.prev == right.hash
    assert replica.reason(after) is None
