"""The way out: approvers, issuers and gateways that lose the right, and nodes that are put out."""

from __future__ import annotations

import pytest

from appliance.core.clock import hlc_pack
from appliance.replica.entries import (
    Action,
    AnnounceEntry,
    CheckpointEntry,
    DecideEntry,
    GrantEntry,
    RevokeEntry,
    ThawEntry,
)
from appliance.replica.epochs import covered_digest
from appliance.replica.rows import CertificateRow
from appliance.trust.grants import Role
from tests.sim.world import FAR_MS, START_MS
from tests.unit.replica.admission_site import ROBOT, Door, admitted, open_door, row_of, state, steps


@pytest.fixture
def door() -> Door:
    return open_door()


# ---- approvers who lose the right


def test_a_certificate_falls_with_its_approver_if_it_lies_beyond_the_cut(door: Door) -> None:
    token, published = door.token(door.cleo, tags=ROBOT)
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    certified = door.certify(door.bert, door.rolf, token, asked, tags=ROBOT, at_ms=200)
    kept = door.revoke(door.anna, door.bert, certified, cut=certified, at_ms=300)
    assert state(door.settled(), door.rolf) == "approved"
    door.revoke(door.anna, door.bert, kept, at_ms=400)
    replica = door.settled()
    assert (state(replica, door.rolf), replica.reason(certified)) == ("pending", "revoked")
    assert [row.reason for row in replica.view.rows(CertificateRow) if isinstance(row, CertificateRow)] == ["revoked"]


def test_an_approver_certifies_within_its_scope_and_its_time(door: Door) -> None:
    token, published = door.token(tags=("gate",))
    asked = door.enrol(door.gate, door.rolf, token, published)
    refused = [
        door.certify(door.cleo, door.rolf, token, asked, tags=("gate",)),
        door.certify(door.cleo, door.rolf, token, asked),
        door.certify(door.bert, door.rolf, token, asked, tags=("gate",), times=(START_MS, FAR_MS + 1)),
    ]
    replica = door.settled()
    assert [replica.reason(batch) for batch in refused] == ["certificate.widens"] * 3
    assert state(replica, door.rolf) == "pending"


def test_who_is_no_approver_certifies_nobody(door: Door) -> None:
    token, published = door.token()
    asked = door.enrol(door.gate, door.rolf, token, published)
    made = door.certify(door.gate, door.rolf, token, asked)
    replica = door.settled()
    assert (replica.reason(made), replica.engine.key_of(door.rolf.id)) == ("certificate.widens", None)


def test_a_certificate_counts_from_its_first_publication(door: Door) -> None:
    """A copy in knowledge of the revocation would else bring the node back."""
    _, _, certified = admitted(door)
    gone = door.revoke(door.anna, door.rolf, certified, at_ms=300)
    copy = door.write(door.bert, certified.batch.entries[0], after=[gone])
    replica = door.settled()
    assert (replica.reason(copy), state(replica, door.rolf)) == ("certificate.repeated", "revoked")


def test_a_certificate_is_no_grant_that_others_could_rest_on(door: Door) -> None:
    _, _, certified = admitted(door)
    blob = door.mesh.grant(door.rolf, door.rita, Role.MEMBER, parent=door.grants["bert"])
    made = door.write(door.rolf, GrantEntry(blob), after=[certified])
    assert door.settled().reason(made) == "grant.issuer"


# ---- the way out


def test_a_revoked_node_is_certified_again_without_a_new_token(door: Door) -> None:
    token, _, certified = admitted(door)
    gone = door.revoke(door.bert, door.rolf, certified, at_ms=300)
    assert state(door.settled(), door.rolf) == "revoked"
    door.certify(door.bert, door.rolf, token, gone, tags=ROBOT, at_ms=400)
    replica = door.settled()
    assert steps(replica, door.rolf) == ["enrol: pending", "certify: approved", "revoke: revoked", "certify: approved"]


def test_a_renewal_in_ignorance_of_a_revocation_does_not_bring_a_node_back(door: Door) -> None:
    token, _, certified = admitted(door)
    door.revoke(door.anna, door.rolf, certified, at_ms=300)
    renewed = door.certify(door.bert, door.rolf, token, certified, tags=ROBOT, at_ms=400)
    replica = door.settled()
    assert (state(replica, door.rolf), replica.reason(renewed)) == ("revoked", None)
    assert steps(replica, door.rolf)[-1] == "certify: admission.revoked"


@pytest.mark.parametrize("who, outcome", [("bert", None), ("cleo", None), ("gate", "grant.role")])
def test_an_approver_revokes_what_it_could_have_certified(door: Door, who: str, outcome: str | None) -> None:
    _, _, certified = admitted(door)
    made = door.revoke(door.mesh.member(who), door.rolf, certified, cut=None)
    replica = door.settled()
    assert replica.reason(made) == outcome
    assert state(replica, door.rolf) == ("approved" if outcome else "revoked")


def test_an_approver_of_other_tags_does_not_revoke(door: Door) -> None:
    token, published = door.token(tags=("gate",))
    asked = door.enrol(door.gate, door.rolf, token, published)
    certified = door.certify(door.bert, door.rolf, token, asked, tags=("gate",))
    made = door.revoke(door.cleo, door.rolf, certified)
    replica = door.settled()
    assert (replica.reason(made), state(replica, door.rolf)) == ("grant.role", "approved")


def test_an_approvers_revocation_does_not_reach_a_concurrent_certificate_of_other_tags(door: Door) -> None:
    token, _, certified = admitted(door)
    made = door.revoke(door.cleo, door.rolf, certified, at_ms=300)
    door.certify(door.bert, door.rolf, token, certified, tags=("gate",), at_ms=400)
    replica = door.settled()
    assert (replica.reason(made), state(replica, door.rolf)) == (None, "approved")
    assert steps(replica, door.rolf)[-2:] == ["revoke: revoked", "certify: approved"]


def test_how_far_a_revocation_reaches_outlives_a_restart(door: Door) -> None:
    token, _, certified = admitted(door)
    door.revoke(door.cleo, door.rolf, certified, at_ms=300)
    replica = door.replica()
    replica.restart()
    replica.take(door.certify(door.bert, door.rolf, token, certified, tags=("gate",), at_ms=400))
    assert state(replica, door.rolf) == "approved"
    assert replica.dump() == door.settled().dump()


def test_an_approver_does_not_revoke_who_holds_a_grant(door: Door) -> None:
    _, _, certified = admitted(door)
    blob = door.mesh.grant(door.anna, door.rolf, Role.OPERATOR, parent=door.grants["anna"])
    given = door.write(door.anna, GrantEntry(blob), after=[certified])
    unknown = door.revoke(door.bert, door.rolf, certified)  # on a past in which the grant is not
    known = door.revoke(door.bert, door.rolf, given)
    replica = door.settled()
    assert [replica.reason(batch) for batch in (known, unknown)] == ["grant.role", None]
    assert replica.engine.holds(door.rolf.id, Role.OPERATOR, START_MS + 1000)
    assert row_of(replica, door.rolf).state == "revoked"


def test_a_member_by_grant_stays_one_whatever_an_approver_decides(door: Door) -> None:
    for action in (Action.SUSPEND, Action.EVICT, Action.BAN):
        door.decide(door.bert, door.gate, action)
    replica = door.settled()
    assert steps(replica, door.gate) == ["suspend: admission.state", "evict: admission.state", "ban: banned"]
    assert replica.engine.holds(door.gate.id, Role.MEMBER, START_MS + 1000)


def test_what_a_revoked_node_wrote_beyond_the_cut_has_no_effect(door: Door) -> None:
    _, _, certified = admitted(door)
    first = door.write(door.rolf, AnnounceEntry("one", (), ""), after=[certified])
    second = door.write(door.rolf, AnnounceEntry("two", (), ""))
    door.revoke(door.bert, door.rolf, first, cut=first)
    replica = door.settled()
    assert [replica.reason(batch) for batch in (first, second)] == [None, "revoked"]


def test_an_evicted_node_asks_with_a_new_token(door: Door) -> None:
    token, _, certified = admitted(door)
    other, published = door.token()
    out = door.write(
        door.bert,
        RevokeEntry(door.rolf.id, (), 0, None, ""),
        DecideEntry(door.rolf.id, Action.EVICT, "stolen", ""),
        after=[certified],
        at_ms=300,
    )
    door.enrol(door.port, door.rolf, token, out, at_ms=400)
    door.certify(door.bert, door.rolf, token, out, tags=ROBOT, at_ms=500)
    replica = door.settled()
    assert (state(replica, door.rolf), row_of(replica, door.rolf).note) == ("evicted", "stolen")
    asked = door.enrol(door.gate, door.rolf, other, out, published, at_ms=600)
    door.certify(door.bert, door.rolf, other, asked, at_ms=700)
    replica = door.settled()
    assert steps(replica, door.rolf) == [
        "enrol: pending",
        "certify: approved",
        "revoke: revoked",
        "evict: evicted",
        "certify: admission.state",
        "enrol: pending",
        "certify: approved",
    ]


def test_a_banned_node_does_not_even_ask_until_the_ban_is_lifted(door: Door) -> None:
    first, published = door.token()
    second, again = door.token()
    out = door.decide(door.bert, door.rolf, Action.BAN, published, again, at_ms=100)
    refused = door.enrol(door.gate, door.rolf, first, published, at_ms=200)  # it had not heard
    replica = door.settled()
    assert (state(replica, door.rolf), replica.reason(refused)) == ("banned", None)
    back = door.decide(door.bert, door.rolf, Action.UNBAN, out, at_ms=300)
    assert state(door.settled(), door.rolf) == "evicted"
    door.enrol(door.gate, door.rolf, second, back, at_ms=400)
    replica = door.settled()
    assert steps(replica, door.rolf) == ["ban: banned", "enrol: admission.state", "unban: evicted", "enrol: pending"]


def test_a_rejection_is_undone_and_a_rejected_node_may_ask_again(door: Door) -> None:
    token, published = door.token()
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    out = door.decide(door.bert, door.rolf, Action.REJECT, asked, at_ms=200)
    back = door.decide(door.bert, door.rolf, Action.RESUME, out, at_ms=300)
    door.certify(door.bert, door.rolf, token, back, at_ms=400)
    replica = door.settled()
    assert steps(replica, door.rolf) == ["enrol: pending", "reject: rejected", "resume: pending", "certify: approved"]


@pytest.mark.parametrize("who, outcome", [("cleo", "admission.scope"), ("bert", "")])
def test_a_decision_counts_within_the_scope_of_who_makes_it(door: Door, who: str, outcome: str) -> None:
    token, published = door.token(tags=("gate", "robot"))
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    door.decide(door.mesh.member(who), door.rolf, Action.REJECT, asked, at_ms=200)
    assert steps(door.settled(), door.rolf)[1] == f"reject: {outcome or 'rejected'}"


def test_a_scoped_approver_bans_no_stranger(door: Door) -> None:
    door.decide(door.cleo, door.rolf, Action.BAN)
    assert steps(door.settled(), door.rolf) == ["ban: admission.scope"]


def test_two_scopes_of_one_approver_add_up(door: Door) -> None:
    blob = door.mesh.grant(door.anna, door.cleo, Role.APPROVER, parent=door.grants["anna"], scope=("gate",))
    more = door.write(door.anna, GrantEntry(blob))
    token, published = door.token(tags=("gate", "robot"))
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    door.decide(door.cleo, door.rolf, Action.REJECT, asked, more, at_ms=200)
    assert state(door.settled(), door.rolf) == "rejected"


# ---- gateways, forks and checkpoints


def test_who_enrolled_at_a_gateway_that_falls_is_suspended_until_an_approver_has_looked(door: Door) -> None:
    _, asked, certified = admitted(door)
    gone = door.revoke(door.anna, door.gate, certified, at_ms=300)
    replica = door.settled()
    assert (replica.reason(asked), state(replica, door.rolf)) == ("revoked", "suspended")
    assert row_of(replica, door.rolf).reason == "admission.enrolment"
    door.decide(door.cleo, door.rolf, Action.RESUME, gone, at_ms=400)
    assert steps(door.settled(), door.rolf) == ["orphan: suspended", "resume: approved"]


def test_what_a_forked_gateway_wrote_waits_for_an_owner(door: Door) -> None:
    _, asked, _ = admitted(door)
    clone = door.write(door.gate, AnnounceEntry("clone", (), ""), prev=None, at_ms=101)
    assert state(door.settled(), door.rolf) == "suspended"
    door.write(door.anna, ThawEntry(door.gate.id, asked.hash, ""), after=[door.start[-1], asked, clone], at_ms=500)
    assert state(door.settled(), door.rolf) == "approved"


def test_an_enrolment_that_a_checkpoint_leaves_out_has_no_effect(door: Door) -> None:
    """Anna closes the epoch without the island on which rolf asked."""
    token, published = door.token(tags=ROBOT)
    known = door.write(door.anna, AnnounceEntry("anna", (), ""), after=[published], at_ms=50)
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    certified = door.certify(door.bert, door.rolf, token, asked, tags=ROBOT, at_ms=2000)
    assert state(door.replica(), door.rolf) == "approved"
    covered = sorted((b for b in (*door.start, published, known)), key=lambda batch: (batch.batch.hlc, batch.hash))
    replica = door.mesh.replica()
    replica.take(*covered)
    digest = covered_digest(replica.engine.intake.lookup(batch.hash) for batch in covered)  # type: ignore[misc]
    close = CheckpointEntry(1, hlc_pack(START_MS + 1000, 0), len(covered), digest)
    door.write(door.anna, close, at_ms=3000)
    replica = door.settled()
    assert [replica.reason(batch) for batch in (asked, certified)] == ["late", None]
    assert (state(replica, door.rolf), steps(replica, door.rolf)) == ("suspended", ["orphan: suspended"])
