"""Revocations that meet: in a circle the most junior one loses (ADR 0010)."""

from __future__ import annotations

from appliance.core.clock import hlc_pack
from appliance.replica.circles import source_circles
from appliance.replica.entries import GrantEntry
from appliance.trust.grants import Role
from tests.sim.world import FAR_MS, START_MS
from tests.unit.replica.site import HELLO, Site, revoke


def test_of_two_owners_who_revoke_each_other_the_more_senior_stays(site: Site) -> None:
    senior = site.write(site.bert, revoke(site.cleo, site.start[4]))
    junior = site.write(site.cleo, revoke(site.bert, site.start[3]))
    assert (site.reason(senior), site.reason(junior)) == (None, "conflict")


def test_the_founder_wins_against_the_owners_that_it_made(site: Site) -> None:
    founder = site.write(site.anna, revoke(site.bert))
    made = site.write(site.bert, revoke(site.anna, site.start[2]))
    assert (site.reason(founder), site.reason(made)) == (None, "conflict")


def test_who_answers_a_revocation_that_it_has_seen_is_judged_by_rank_and_not_by_time(site: Site) -> None:
    first = site.write(site.cleo, revoke(site.bert, site.start[3]))
    answer = site.write(site.bert, revoke(site.cleo, site.start[4]), after=[first], at_ms=60_000)
    assert (site.reason(first), site.reason(answer)) == ("conflict", None)


def test_of_three_in_a_circle_the_most_junior_loses_and_then_the_chain_resolves(site: Site) -> None:
    fred = site.mesh.member("fred")
    grant = site.mesh.grant(site.anna, fred, Role.OWNER, parent=site.grants["anna"])
    granted = site.write(site.anna, GrantEntry(grant))
    by_bert = site.write(site.bert, revoke(site.cleo, site.start[4]))
    by_cleo = site.write(site.cleo, revoke(fred))
    by_fred = site.write(fred, revoke(site.bert, site.start[3]), after=[granted])
    assert site.reason(by_fred) == "conflict"
    assert site.reason(by_bert) is None  # nobody is left to take it away
    assert site.reason(by_cleo) == "revoked"


def test_a_revocation_that_nobody_answers_holds_even_against_a_senior(site: Site) -> None:
    taken = site.write(site.cleo, revoke(site.bert, site.start[3]))
    assert site.reason(taken) is None
    assert site.reason(site.write(site.bert, HELLO)) == "revoked"


def test_an_accomplice_granted_beyond_the_cut_does_not_save_its_maker(site: Site) -> None:
    """Bert, revoked, makes fred an owner; fred revokes the revoker. Both are junior to her."""
    fred = site.mesh.member("fred")
    site.write(site.anna, revoke(site.bert, site.start[3]))
    grant = site.mesh.grant(site.bert, fred, Role.OWNER, delegate=1, parent=site.grants["bert"])
    granted = site.write(site.bert, GrantEntry(grant))
    attack = site.write(fred, revoke(site.anna, site.start[2]), after=[granted])
    assert site.reason(attack) == "conflict"
    assert site.reason(granted) == "revoked"


def test_a_revocation_of_whoever_made_the_revoker_defeats_itself(site: Site) -> None:
    suicidal = site.write(site.bert, revoke(site.anna))
    assert site.reason(suicidal) == "conflict"
    assert site.reason(site.write(site.anna, HELLO)) is None


def test_backdating_makes_nobody_senior(site: Site) -> None:
    early = site.write(site.cleo, revoke(site.bert, site.start[3]))
    late = site.write(site.bert, revoke(site.cleo, site.start[4]), at_ms=900_000)
    assert early.batch.hlc < late.batch.hlc
    assert (site.reason(early), site.reason(late)) == ("conflict", None)


def test_a_grant_of_the_authority_published_on_an_old_date_makes_nobody_senior(site: Site) -> None:
    """Rank among the authority's own grants is by their signed time; whoever publishes one has no say in it."""
    gina = site.mesh.member("gina")
    newer = site.mesh.grant(None, site.anna, Role.OWNER, delegate=3, times=(START_MS + 500, FAR_MS))
    site.write(site.anna, GrantEntry(newer), at_ms=1000)
    older = site.mesh.grant(None, gina, Role.OWNER, delegate=3, times=(START_MS, FAR_MS))
    opened = site.mesh.write(gina, GrantEntry(older), hlc=hlc_pack(START_MS, 0))
    by_gina = site.write(gina, revoke(site.anna, site.start[2]), after=[opened, site.last])
    by_anna = site.write(site.anna, revoke(gina), after=[opened])
    assert (site.reason(by_anna), site.reason(by_gina)) == (None, "conflict")


def test_the_newest_grant_of_the_authority_overrules_a_stolen_founder(site: Site) -> None:
    gina = site.mesh.member("gina")
    newest = site.mesh.grant(None, gina, Role.OWNER, delegate=3, times=(START_MS + 10_000, FAR_MS))
    opened = site.mesh.write(gina, GrantEntry(newest), after=[site.last], at_ms=20_000)
    rescue = site.write(gina, revoke(site.anna, site.start[2]))
    defence = site.write(site.anna, revoke(gina), after=[opened, rescue], at_ms=30_000)
    assert (site.reason(rescue), site.reason(defence)) == (None, "conflict")


def test_a_seniority_that_was_taken_does_not_count_any_more(site: Site) -> None:
    """Dora was an owner by the authority, was revoked, and came back as an owner of bert's making."""
    gone = site.write(site.anna, revoke(site.cleo, site.start[4]))
    back = site.mesh.grant(site.bert, site.cleo, Role.OWNER, delegate=1, parent=site.grants["bert"])
    fred = site.mesh.member("fred")
    peer = site.mesh.grant(site.anna, fred, Role.OWNER, parent=site.grants["anna"])
    granted = site.write(site.anna, GrantEntry(peer))
    returned = site.write(site.bert, GrantEntry(back), after=[gone, granted])
    by_cleo = site.write(site.cleo, revoke(fred), after=[returned])
    by_fred = site.write(fred, revoke(site.cleo, site.start[4]), after=[returned])
    assert (site.reason(by_fred), site.reason(by_cleo)) == (None, "conflict")


def test_only_circles_that_wait_for_nothing_else_are_broken() -> None:
    waits = {"a": ["b"], "b": ["a"], "c": ["a", "d"], "d": ["c"], "e": ["e"]}
    assert sorted(sorted(circle) for circle in source_circles(waits)) == [["a", "b"], ["e"]]


def test_a_long_chain_needs_no_recursion() -> None:
    length = 50_000
    waits = {number: [(number + 1) % length] for number in range(length)}
    assert [len(circle) for circle in source_circles(waits)] == [length]
