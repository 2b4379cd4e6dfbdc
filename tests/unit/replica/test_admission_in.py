"""The way in: how a node stands follows from what has effect, whoever hears of it when.

`settled` makes sure of the reverse order of arrival and of a view made anew in every case.
"""

from __future__ import annotations

import itertools

import pytest

from appliance.core.ids import NodeId
from appliance.replica.admission_queries import tokens
from appliance.replica.audit import Audit
from appliance.replica.batch import SignedBatch
from appliance.replica.entries import (
    Action,
    AnnounceEntry,
    GrantEntry,
)
from appliance.replica.queries import conflicts
from appliance.replica.rows import NodeRow
from appliance.trust.grants import Role
from tests.sim import papers
from tests.sim.world import START_MS
from tests.unit.replica.admission_site import ROBOT, Door, admitted, open_door, row_of, state, steps


@pytest.fixture
def door() -> Door:
    return open_door()


# ---- the way in


def test_a_node_that_asked_waits_for_an_approver(door: Door) -> None:
    token, published = door.token(tags=ROBOT)
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    replica = door.settled()
    row = row_of(replica, door.rolf)
    assert (state(replica, door.rolf), row.actor, row.tags) == ("pending", door.gate.id, ROBOT)
    assert (row.since_hlc, row.enrolment) == (asked.batch.hlc, papers.enrolment(token, door.rolf))


def test_a_certificate_makes_it_a_member(door: Door) -> None:
    _, _, certified = admitted(door)
    replica = door.settled()
    row = row_of(replica, door.rolf)
    assert state(replica, door.rolf) == "approved"
    assert (row.actor, row.certificate_batch, row.certificate_entry) == (door.bert.id, certified.hash, 0)
    assert replica.reasons() == {}


def test_a_token_that_wants_evidence_leaves_the_node_waiting_for_it(door: Door) -> None:
    token, published = door.token(level="tpm")
    asked = door.enrol(door.gate, door.rolf, token, published)
    certified = door.certify(door.bert, door.rolf, token, asked)
    replica = door.settled()
    assert steps(replica, door.rolf) == ["ask: requested", "certify: admission.state"]
    assert replica.engine.key_of(door.rolf.id) == door.rolf.public_key  # what it may write is another matter
    assert replica.reason(certified) is None


def test_a_certificate_for_another_enrolment_admits_nobody(door: Door) -> None:
    first, published = door.token()
    second, again = door.token()
    asked = door.enrol(door.gate, door.rolf, first, published, again, at_ms=100)
    door.certify(door.bert, door.rolf, second, asked, at_ms=200)
    door.certify(door.bert, door.rolf, None, asked, at_ms=300)
    replica = door.settled()
    assert steps(replica, door.rolf) == ["enrol: pending"] + ["certify: admission.enrolment"] * 2
    assert state(replica, door.rolf) == "pending"


def test_a_node_that_never_asked_is_admitted_by_a_certificate_that_names_no_enrolment(door: Door) -> None:
    token, _ = door.token()
    door.certify(door.bert, door.rita, token)
    door.certify(door.bert, door.rolf, None)
    replica = door.settled()
    assert [state(replica, node) for node in (door.rolf, door.rita)] == ["approved", "suspended"]


def test_the_newest_certificate_counts_even_if_an_older_one_lasts_longer(door: Door) -> None:
    token, _, certified = admitted(door)
    short = door.certify(
        door.bert, door.rolf, token, certified, tags=("gate",), times=(START_MS, START_MS + 60_000), at_ms=300
    )
    replica = door.settled()
    row = row_of(replica, door.rolf)
    assert (row.certificate_batch, row.tags, row.since_hlc) == (short.hash, ("gate",), certified.batch.hlc)
    held = [replica.engine.holds(door.rolf.id, Role.MEMBER, START_MS + ms) for ms in (1000, 60_000, 60_001)]
    assert held == [True, True, False]


def test_asking_again_with_the_same_token_is_the_same_enrolment(door: Door) -> None:
    token, published = door.token(uses=2)
    first = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    door.enrol(door.port, door.rolf, token, published, at_ms=200)
    door.certify(door.bert, door.rolf, token, first, at_ms=300)
    door.enrol(door.port, door.rita, token, published, at_ms=400)
    replica = door.settled()
    assert steps(replica, door.rolf) == ["enrol: pending", "certify: approved"]
    assert [view.carried for view in tokens(replica.engine)] == [(door.rolf.id, door.rita.id)]


def test_what_a_certified_node_writes_is_kept_and_counts(door: Door) -> None:
    _, _, certified = admitted(door)
    said = door.write(door.rolf, AnnounceEntry("arm", (), ""), after=[certified])
    stopped = door.decide(door.bert, door.rolf, Action.SUSPEND, said)
    after = door.write(door.rolf, AnnounceEntry("leg", (), ""), after=[certified])
    replica = door.settled()
    assert state(replica, door.rolf) == "suspended"
    assert [replica.reason(batch) for batch in (said, stopped, after)] == [None, None, None]
    assert [row.name for row in replica.view.rows(NodeRow) if isinstance(row, NodeRow)] == ["leg"]


def test_who_checks_a_file_knows_the_key_of_a_certified_node(door: Door) -> None:
    _, _, certified = admitted(door)
    door.write(door.rolf, AnnounceEntry("arm", (), ""), after=[certified])
    batches = list(door.mesh.batches.values())
    audit = Audit(door.mesh.id, door.mesh.authority_key, door.mesh.verify, lambda number: batches[number])
    assert all(audit.take(number, batch) for number, batch in enumerate(batches))
    assert audit.authors == 4  # anna, bert, gate and rolf


def test_a_stranger_writes_nothing(door: Door) -> None:
    token, published = door.token()
    door.enrol(door.gate, door.rolf, token, published)
    door.write(door.rolf, AnnounceEntry("arm", (), ""))
    replica = door.replica()
    assert (replica.engine.refused["batch.author"], len(replica.engine.parking)) == (1, 0)


# ---- one token on two islands


def race(door: Door) -> tuple[bytes, dict[str, SignedBatch]]:
    """Gate and port take one token for rolf and rita, and each island certifies its own."""
    token, published = door.token(tags=ROBOT)
    made = {
        "rolf": door.enrol(door.gate, door.rolf, token, published, at_ms=100),
        "rita": door.enrol(door.port, door.rita, token, published, at_ms=110),
    }
    made["rolf in"] = door.certify(door.bert, door.rolf, token, made["rolf"], tags=ROBOT, at_ms=200)
    made["rita in"] = door.certify(door.cleo, door.rita, token, made["rita"], tags=ROBOT, at_ms=190)
    return token, made


def test_the_first_in_the_fold_wins_and_the_other_is_suspended_with_the_reason(door: Door) -> None:
    race(door)
    replica = door.settled()
    row = row_of(replica, door.rita)
    assert [state(replica, node) for node in (door.rolf, door.rita)] == ["approved", "suspended"]
    assert (row.reason, row.winner, row.actor) == ("token.spent", door.rolf.id, door.port.id)
    assert steps(replica, door.rita) == ["exceed: suspended", "certify: suspended"]
    (shown,) = conflicts(replica.engine, door.anna.id)
    assert (shown.kind, shown.winner, shown.losers) == (
        "token",
        str(NodeId(door.rolf.id)),
        (str(NodeId(door.rita.id)),),
    )


def test_the_winner_is_the_same_in_every_order_of_arrival(door: Door) -> None:
    _, made = race(door)
    wanted = door.replica().dump()
    for order in itertools.permutations(made.values()):
        replica = door.mesh.replica()
        replica.take(*(batch for batch in door.mesh.batches.values() if batch.hash not in {b.hash for b in order}))
        for batch in order:
            replica.take(batch)
        assert replica.dump() == wanted


def test_an_earlier_enrolment_that_arrives_late_takes_the_use_from_a_member(door: Door) -> None:
    _, made = race(door)
    late = {made["rolf"].hash, made["rolf in"].hash}
    replica = door.mesh.replica()
    replica.take(*(batch for batch in door.mesh.batches.values() if batch.hash not in late))
    assert state(replica, door.rita) == "approved"
    replica.take(made["rolf"])
    assert state(replica, door.rita) == "suspended"
    assert row_of(replica, door.rita).winner == door.rolf.id


def test_an_approver_resumes_the_one_who_lost(door: Door) -> None:
    _, made = race(door)
    door.decide(door.cleo, door.rita, Action.RESUME, *made.values(), at_ms=300)
    replica = door.settled()
    row = row_of(replica, door.rita)
    assert [state(replica, node) for node in (door.rolf, door.rita)] == ["approved", "approved"]
    assert (row.reason, row.winner, row.note) == ("", None, "resume")
    assert conflicts(replica.engine, door.anna.id) == []


def test_who_lost_and_was_not_certified_asks_with_another_token(door: Door) -> None:
    token, published = door.token()
    other, again = door.token()
    won = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    lost = door.enrol(door.port, door.rita, token, published, at_ms=110)
    asked = door.enrol(door.port, door.rita, other, again, lost, at_ms=120)
    door.certify(door.bert, door.rita, other, won, asked, at_ms=130)
    replica = door.settled()
    assert steps(replica, door.rita) == ["exceed: suspended", "enrol: pending", "certify: approved"]


def test_a_token_carries_as_many_nodes_as_it_has_uses(door: Door) -> None:
    token, published = door.token(uses=2)
    hal = door.mesh.member("hal")
    for number, node in enumerate((door.rolf, door.rita, hal)):
        door.enrol((door.gate, door.port)[number % 2], node, token, published, at_ms=100 + number)
    replica = door.settled()
    (view,) = tokens(replica.engine)
    assert (view.carried, view.state(START_MS)) == ((door.rolf.id, door.rita.id), "spent")
    assert [(row.node, row.reason, row.winner) for row in view.surplus] == [(hal.id, "token.spent", door.rita.id)]


# ---- the end of a token


def test_who_comes_after_the_retirement_of_a_token_is_held_back(door: Door) -> None:
    token, published = door.token(tags=ROBOT, uses=9)
    before = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    door.retire(door.bert, token, published, at_ms=200)
    door.enrol(door.gate, door.rita, token, before, at_ms=300)
    replica = door.settled()
    assert [state(replica, node) for node in (door.rolf, door.rita)] == ["pending", "suspended"]
    assert row_of(replica, door.rita).reason == "token.retired"
    assert [view.state(START_MS) for view in tokens(replica.engine)] == ["retired"]


def test_an_approver_retires_tokens_within_its_scope_alone(door: Door) -> None:
    token, published = door.token(tags=("gate", "robot"))
    door.retire(door.cleo, token, published, at_ms=100)
    door.enrol(door.gate, door.rolf, token, published, at_ms=200)
    assert state(door.settled(), door.rolf) == "pending"
    other, again = door.token(tags=ROBOT)
    door.retire(door.cleo, other, again, at_ms=300)
    door.enrol(door.gate, door.rita, other, again, at_ms=400)
    assert state(door.settled(), door.rita) == "suspended"


def test_a_token_ends_with_the_right_of_its_issuer_and_what_came_before_stays(door: Door) -> None:
    token, published = door.token(uses=9)
    door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    door.revoke(door.anna, door.bert, published, cut=published, at_ms=200)
    door.enrol(door.gate, door.rita, token, published, at_ms=300)
    replica = door.settled()
    assert [state(replica, node) for node in (door.rolf, door.rita)] == ["pending", "suspended"]
    assert row_of(replica, door.rita).reason == "token.revoked"


def test_a_token_ends_for_who_was_admitted_with_it_meanwhile(door: Door) -> None:
    """The revocation of its issuer arrives after an enrolment that lies behind it in the fold."""
    token, published = door.token(uses=9)
    gone = door.revoke(door.anna, door.bert, published, cut=published, at_ms=200)
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=300)
    replica = door.mesh.replica()
    replica.take(*(batch for batch in door.mesh.batches.values() if batch is not gone))
    assert state(replica, door.rolf) == "pending"
    replica.take(gone)
    assert (state(replica, door.rolf), replica.reason(asked)) == ("suspended", None)
    assert row_of(replica, door.rolf).reason == "token.revoked"


def test_a_revocation_without_effect_ends_no_token(door: Door) -> None:
    """Port was an owner, and what it revoked lies beyond the cut of its own revocation."""
    blob = door.mesh.grant(door.anna, door.port, Role.OWNER, parent=door.grants["anna"])
    owner = door.write(door.anna, GrantEntry(blob))
    token, published = door.token()
    spite = door.revoke(door.port, door.bert, owner, published, cut=published, at_ms=200)
    door.revoke(door.anna, door.port, spite, at_ms=300)
    door.enrol(door.gate, door.rolf, token, published, at_ms=400)
    replica = door.settled()
    assert (replica.reason(spite), state(replica, door.rolf)) == ("revoked", "pending")


def test_a_token_that_was_published_beyond_the_cut_of_its_issuer_never_was(door: Door) -> None:
    """A stolen key makes a token and another approver certifies who came with it, before the theft is known."""
    before = door.write(door.bert, AnnounceEntry("bert", (), ""))
    token, published = door.token(tags=ROBOT)
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    certified = door.certify(door.cleo, door.rolf, token, asked, tags=ROBOT, at_ms=200)
    assert state(door.replica(), door.rolf) == "approved"
    door.revoke(door.anna, door.bert, cut=before, at_ms=300)
    replica = door.settled()
    assert (state(replica, door.rolf), row_of(replica, door.rolf).reason) == ("suspended", "token.void")
    door.decide(door.cleo, door.rolf, Action.RESUME, certified, at_ms=400)
    assert state(door.settled(), door.rolf) == "approved"


def test_a_token_that_nobody_published_admits_nobody(door: Door) -> None:
    blob = papers.token(door.mesh, door.bert, door.grants["bert"], (door.gate,))
    door.enrol(door.gate, door.rolf, blob)
    replica = door.settled()
    assert (state(replica, door.rolf), row_of(replica, door.rolf).reason) == ("suspended", "token.void")
