"""Entries of admission that have no effect, each with its reason."""

from __future__ import annotations

import pytest

from appliance.replica.entries import (
    Action,
    CertifyEntry,
    EnrolEntry,
    TokenEntry,
)
from appliance.trust.tokens import Binding
from tests.sim import papers
from tests.sim.world import FAR_MS, START_MS, Replica
from tests.unit.replica.admission_site import ROBOT, Door, open_door, state


@pytest.fixture
def door() -> Door:
    return open_door()


# ---- what has no effect, ever


def refusal(door: Door, token: bytes, request: bytes | None = None, gateway: str = "gate") -> str | None:
    asked = papers.request(door.mesh, door.rolf, token) if request is None else request
    batch = door.write(
        door.mesh.member(gateway), EnrolEntry(token, asked), after=door.mesh.batches.values(), at_ms=5000
    )
    return door.settled().reason(batch)


def test_an_enrolment_needs_a_gateway_that_the_token_names(door: Door) -> None:
    pinned, _ = door.token(redeemer=door.port)
    assert refusal(door, pinned) == "admission.gateway"
    assert refusal(door, pinned, gateway="cleo") == "admission.gateway"
    assert refusal(door, pinned, gateway="port") is None


def test_an_enrolment_needs_a_token_in_its_time(door: Door) -> None:
    over, _ = door.token(times=(START_MS, START_MS + 4999))
    early, _ = door.token(times=(START_MS + 5001, FAR_MS))
    assert [refusal(door, token) for token in (over, early)] == ["token.expired", "token.early"]


def test_a_request_goes_with_its_token_and_its_key(door: Door) -> None:
    token, _ = door.token()
    other, _ = door.token()
    bound, _ = door.token(binding=Binding("key", bytes(32)))
    spoilt = papers.request(door.mesh, door.rolf, token)[:-1] + b"x"
    assert refusal(door, token, papers.request(door.mesh, door.rolf, other)) == "admission.token"
    assert refusal(door, token, spoilt) == "request.signature"
    assert refusal(door, token, b"x") == "request.malformed"
    assert refusal(door, b"x", papers.request(door.mesh, door.rolf, token)) == "token.malformed"
    assert refusal(door, bound) == "admission.device"


def test_a_token_is_signed_by_an_approver_over_its_tags_and_time(door: Door) -> None:
    issued = {
        "token.issuer": papers.token(door.mesh, door.bert, door.grants["cleo"], (door.gate,), tags=ROBOT),
        "token.signature": door.token()[0][:-1] + b"x",
        "token.widens": papers.token(door.mesh, door.cleo, door.grants["cleo"], (door.gate,), tags=("gate",)),
    }
    no_approver = papers.token(door.mesh, door.gate, door.grants["gate"], (door.gate,))
    too_long = papers.token(door.mesh, door.bert, door.grants["bert"], (door.gate,), times=(START_MS, FAR_MS + 1))
    assert {key: refusal(door, token) for key, token in issued.items()} == {key: key for key in issued}
    assert [refusal(door, token) for token in (no_approver, too_long)] == ["token.widens"] * 2


def test_a_token_of_another_mesh_is_none_of_ours(door: Door) -> None:
    other = open_door()
    object.__setattr__(other.mesh, "id", bytes(32))
    blob = papers.token(other.mesh, door.bert, door.grants["bert"], (door.gate,))
    request = papers.request(other.mesh, door.rolf, blob)
    assert refusal(door, blob, request) == "token.mesh"
    assert refusal(door, blob) == "admission.mesh"


def test_a_certificate_of_another_mesh_is_none_of_ours(door: Door) -> None:
    other = open_door()
    object.__setattr__(other.mesh, "id", bytes(32))
    blob = papers.certificate(other.mesh, door.bert, door.grants["bert"], door.rolf, enrolment=None)
    batch = door.write(door.bert, CertifyEntry(blob, ""))
    spoilt = door.write(door.bert, CertifyEntry(door.mesh.batches[batch.hash].blob, ""))
    replica = door.settled()
    assert [replica.reason(made) for made in (batch, spoilt)] == ["certificate.mesh", "certificate.malformed"]


@pytest.mark.parametrize("who, outcome", [("bert", "token.issuer"), ("cleo", "token.widens"), ("gate", "role")])
def test_a_token_is_published_by_its_issuer_who_may_invite(door: Door, who: str, outcome: str) -> None:
    author = door.mesh.member(who)
    issuer = door.cleo if who == "bert" else author
    tags, times = (ROBOT, (START_MS, FAR_MS + 1)) if who == "cleo" else (ROBOT, (START_MS, FAR_MS))
    blob = papers.token(door.mesh, issuer, door.grants[issuer.name], (door.gate,), tags=tags, times=times)
    batch = door.write(author, TokenEntry(blob, ""))
    assert door.settled().reason(batch) == outcome


def test_who_is_no_approver_decides_and_retires_nothing(door: Door) -> None:
    token, published = door.token()
    batches = [door.decide(door.gate, door.rolf, Action.BAN), door.retire(door.gate, token, published)]
    replica = door.settled()
    assert [replica.reason(batch) for batch in batches] == ["role", "role"]


def test_who_is_no_member_enrols_nobody(door: Door) -> None:
    token, _ = door.token()
    gone = door.revoke(door.anna, door.gate)
    batch = door.enrol(door.gate, door.rolf, token, gone)
    replica = door.settled()
    assert (replica.reason(batch), state(replica, door.rolf)) == ("revoked", "unknown")


def test_effects_tell_what_changed_nothing(door: Door) -> None:
    """The receipt of an author says the same as the list of what has no effect."""
    replica: Replica = door.replica()
    batch = door.decide(door.bert, door.rolf, Action.SUSPEND)
    replica.engine.take([(batch, True)], replica.now_ms)
    replica.engine.commit()
    (effect,) = replica.engine.fold().effects[batch.hash]
    assert effect.reason == "admission.state"
