"""Operations of admission: refused where they could have no effect, and what they achieve otherwise.

Real keys and signatures; each node asks at its own replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.replica.admission_operations import AdmissionOperations, ApproveAsk
from appliance.replica.entries import Action, DecideEntry, make
from appliance.replica.operations import GrantAsk, Operations
from appliance.replica.reports import Receipt
from appliance.replica.service import Replica, Writer
from appliance.trust.certificates import certificate_id, open_certificate
from appliance.trust.enrolment import request_id
from appliance.trust.grants import Role, check_chain
from appliance.trust.tokens import Endpoint, Ticket, check_token, parse_token, token_id
from tests.attach_rig import public
from tests.mesh_rig import START_MS, YEAR_MS
from tests.unit.replica.gate_rig import DAY_MS, GATE, Gate, refused
from tests.unit.replica.operations_rig import Site


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    site = await asyncio.to_thread(Site, tmp_path)
    async with site.live("anna") as replica:
        yield Gate(site, replica)


async def test_a_token_is_published_without_its_secret_and_checks_up_to_the_authority(gate: Gate) -> None:
    receipt, text = await gate.act.create_token(gate.wanted(tags=("robot", "arm", "robot"), note="n" * 300))
    ticket = parse_token(text)
    assert [effect.reason for effect in receipt.effects] == [None]
    found = await gate.ask.token(token_id(ticket.blob))
    assert found is not None
    view, blob = found
    assert (blob, view.row.tags, view.row.note, view.carried) == (ticket.blob, ("arm", "robot"), "n" * 256, ())
    assert ticket.secret not in b"".join(await gate.blobs())
    chain = await gate.ask.chain(ticket.token.issuer, ticket.token.grant)
    mesh = gate.site.mesh
    assert check_token(ticket, chain, mesh.authority.public_key, mesh.by.mldsa_verify, mesh.now_ms) == ticket.token


async def test_a_token_ends_no_later_than_what_it_rests_on(gate: Gate) -> None:
    ticket = await gate.token(lifetime_ms=10 * YEAR_MS, starts_in_ms=DAY_MS)
    assert (ticket.token.not_after_ms, ticket.token.not_before_ms) == (
        START_MS + YEAR_MS,
        gate.site.mesh.now_ms + DAY_MS,
    )
    (view,) = await gate.ask.tokens()
    states = [view.state(now) for now in (START_MS, START_MS + 2 * DAY_MS, START_MS + 2 * YEAR_MS)]
    assert states == ["early", "open", "expired"]


async def test_a_node_asks_is_approved_and_is_a_member_with_its_tags(gate: Gate) -> None:
    ticket = await gate.token(tags=("robot",))
    receipt = await gate.enrol("arm", ticket)
    assert receipt is not None
    assert [effect.reason for effect in receipt.effects] == [None]
    assert (await gate.state("arm"), gate.replica.permitted(gate.id("arm"))) == ("pending", False)
    asked = await gate.ask.enrolled(gate.id("arm"))
    assert asked is not None
    assert (asked.token, request_id(asked.request)) == (ticket.blob, request_id(gate.request("arm", ticket)))
    assert (asked.row.name, asked.row.gateway) == ("arm", gate.replica.node)
    receipt = await gate.act.approve(gate.id("arm"), ApproveAsk(rule="by-night", lifetime_ms=DAY_MS))
    assert [effect.reason for effect in receipt.effects] == [None]
    assert (await gate.state("arm"), gate.replica.permitted(gate.id("arm"))) == ("approved", True)
    (view,) = [view for view in await gate.queries.members() if view.node == gate.id("arm")]
    assert (view.name, view.roles, view.tags, view.state) == ("arm", ("member",), ("robot",), "approved")
    assert gate.replica.member_key(gate.id("arm")) == gate.robot("arm").public_key


async def test_a_certificate_has_the_keys_of_the_request_and_chains_to_the_authority(gate: Gate) -> None:
    await gate.admit("arm", tags=("robot",))
    found = await gate.ask.admission(gate.id("arm"))
    assert found is not None
    assert found.certificate is not None
    blob = await gate.ask.certificate_blob(found.certificate)
    mesh = gate.site.mesh
    chain = await gate.ask.chain(found.certificate.issuer, found.certificate.parent)
    approver = check_chain(chain, mesh.id, mesh.authority.public_key, mesh.by.mldsa_verify)
    said = open_certificate(blob, mesh.by.mldsa_verify, approver.subject_key)
    assert found.certificate.certificate == certificate_id(blob)
    assert (said.subject_key, said.mesh_key, said.name) == (gate.robot("arm").public_key, public("arm"), "arm")
    assert (said.tags, said.not_after_ms, said.enrolment) == (("robot",), START_MS + YEAR_MS, found.row.enrolment)


async def test_everybody_who_asked_is_listed(gate: Gate) -> None:
    await gate.enrol("arm", await gate.token(tags=("robot",)))
    await gate.admit("leg")
    listed = {view.row.node: (view.name, view.state, view.row.tags) for view in await gate.ask.admissions()}
    assert listed == {gate.id("arm"): ("arm", "pending", ("robot",)), gate.id("leg"): ("leg", "approved", ())}
    assert [
        await gate.ask.admission(bytes(32)),
        await gate.ask.enrolled(bytes(32)),
        await gate.ask.token(bytes(32)),
    ] == [None] * 3
    assert await refused(gate.ask.chain(gate.replica.node, bytes(32))) == "replica.not_found"


async def test_asking_again_is_told_apart_from_asking_first(gate: Gate) -> None:
    ticket = await gate.token()
    assert await gate.enrol("arm", ticket) is not None
    again = gate.request("arm", ticket, b"another session")
    assert await gate.act.enrol(ticket.blob, again) is None
    kept = await gate.ask.request_with(token_id(ticket.blob), gate.id("arm"))
    assert kept is not None
    assert request_id(kept) == request_id(gate.request("arm", ticket))
    assert await gate.ask.request_with(bytes(32), gate.id("arm")) is None


async def test_of_many_who_race_for_a_token_as_many_win_as_it_has_uses(gate: Gate) -> None:
    ticket = await gate.token(uses=2)
    names = [f"arm-{number}" for number in range(12)]
    requests = await asyncio.to_thread(lambda: [gate.request(name, ticket) for name in names])
    told = await asyncio.gather(*(gate.act.enrol(ticket.blob, request) for request in requests), return_exceptions=True)
    assert sum(isinstance(one, Receipt) for one in told) == 2
    assert {one.key for one in told if isinstance(one, X0tError)} == {"token.spent"}
    assert [await gate.state(name) for name in names].count("pending") == 2


async def spoilt(gate: Gate, ticket: Ticket) -> object:
    return await gate.act.enrol(ticket.blob, gate.request("arm", ticket)[:-1] + b"x")


async def swapped(gate: Gate, ticket: Ticket) -> object:
    other = await gate.token()
    return await gate.act.enrol(ticket.blob, gate.request("arm", other))


REFUSED: list[tuple[str, Callable[[Gate, Ticket], Awaitable[object]], str]] = [
    ("an unpublished token", lambda g, t: g.act.enrol(g.unpublished(), g.request("arm", t)), "admission.unknown"),
    ("a request for another token", swapped, "admission.token"),
    ("a request that nobody signed", spoilt, "request.signature"),
    ("no request", lambda g, t: g.act.enrol(t.blob, b""), "request.malformed"),
    ("approve a stranger", lambda g, _: g.act.approve(g.id("arm")), "admission.state"),
    ("renew a stranger", lambda g, _: g.act.renew(g.id("arm")), "admission.state"),
    ("reject a stranger", lambda g, _: g.act.reject(g.id("arm"), ""), "admission.state"),
    ("suspend a stranger", lambda g, _: g.act.suspend(g.id("arm"), ""), "admission.state"),
    ("resume a stranger", lambda g, _: g.act.resume(g.id("arm"), ""), "admission.state"),
    ("revoke a stranger", lambda g, _: g.act.revoke_member(g.id("arm"), ""), "admission.state"),
    ("unban a stranger", lambda g, _: g.act.unban(g.id("arm"), ""), "admission.state"),
    ("suspend who holds a grant", lambda g, _: g.act.suspend(g.site.cleo.id, ""), "admission.granted"),
    ("ban who holds a grant", lambda g, _: g.act.ban(g.site.cleo.id, ""), "admission.granted"),
    ("retire what nobody published", lambda g, _: g.act.retire_token(bytes(32), ""), "token.void"),
    ("a token that lasts for no time", lambda g, _: g.act.create_token(g.wanted(lifetime_ms=-1)), "token.malformed"),
    ("a token for nobody", lambda g, _: g.act.create_token(g.wanted(endpoints=())), "token.malformed"),
]  # fmt: skip


@pytest.mark.parametrize("deed, key", [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
async def test_what_could_have_no_effect_is_refused(
    gate: Gate, deed: Callable[[Gate, Ticket], Awaitable[object]], key: str
) -> None:
    assert await refused(deed(gate, await gate.token())) == key


async def test_a_node_goes_through_suspension_revocation_eviction_and_ban_and_back(gate: Gate) -> None:
    node = gate.id("arm")
    await gate.admit("arm")
    seen = []
    deeds: list[Callable[[], Awaitable[Receipt | None]]] = [
        lambda: gate.act.suspend(node, "maintenance", "nightly"),
        lambda: gate.act.resume(node, ""),
        lambda: gate.act.renew(node),
        lambda: gate.act.revoke_member(node, "moved"),
        lambda: gate.act.approve(node),
        lambda: gate.act.evict(node, "stolen"),
    ]
    for deed in deeds:
        receipt = await deed()
        assert receipt is not None
        assert [effect.reason for effect in receipt.effects] == [None] * len(receipt.effects)
        seen.append((await gate.state("arm"), gate.replica.permitted(node)))
    assert seen == [
        ("suspended", False),
        ("approved", True),
        ("approved", True),
        ("revoked", False),
        ("approved", True),
        ("evicted", False),
    ]
    assert await refused(gate.act.approve(node)) == "admission.state"
    await gate.enrol("arm", await gate.token())
    await gate.act.ban(node, "b" * 300)
    assert await refused(gate.enrol("arm", await gate.token())) == "admission.state"
    await gate.act.unban(node, "")
    await gate.enrol("arm", await gate.token())
    await gate.act.reject(node, "")
    await gate.act.resume(node, "")
    assert await gate.state("arm") == "pending"
    course = await gate.ask.course(node)
    assert [step.event.value for step in course] == [
        "enrol", "certify", "suspend", "resume", "certify", "revoke", "certify", "revoke", "evict", "enrol", "ban",
        "unban", "enrol", "reject", "resume",
    ]  # fmt: skip
    assert (course[2].note, course[2].rule, course[2].actor) == ("maintenance", "nightly", gate.replica.node)
    assert {step.fault for step in course} == {""}
    assert len(course[10].note) == LIMITS.text_bytes


async def test_what_a_node_is_already_is_not_decided_again(gate: Gate) -> None:
    await gate.admit("arm")
    node = gate.id("arm")
    await gate.act.suspend(node, "")
    assert await refused(gate.act.suspend(node, "")) == "admission.state"


async def test_a_renewed_certificate_takes_the_place_of_the_one_before(gate: Gate) -> None:
    await gate.admit("arm", tags=("robot",))
    before = await gate.ask.admission(gate.id("arm"))
    await gate.act.renew(gate.id("arm"), ApproveAsk(tags=("crane",), lifetime_ms=DAY_MS))
    after = await gate.ask.admission(gate.id("arm"))
    assert before is not None
    assert after is not None
    assert after.certificate is not None
    assert (after.row.tags, after.row.since_hlc) == (("crane",), before.row.since_hlc)
    gate.site.mesh.tick(2 * DAY_MS)
    over = await gate.ask.admission(gate.id("arm"))
    assert over is not None
    assert (over.state, gate.replica.permitted(gate.id("arm"))) == ("expired", False)


async def test_a_spent_a_retired_and_an_early_token_are_refused_at_the_door(gate: Gate) -> None:
    spent, retired, early, short = [
        await gate.token(), await gate.token(), await gate.token(starts_in_ms=DAY_MS), await gate.token(lifetime_ms=1)
    ]  # fmt: skip
    await gate.enrol("arm", spent)
    await gate.act.retire_token(token_id(retired.blob), "lost")
    gate.site.mesh.tick(1000)
    keys = [await refused(gate.enrol("leg", ticket)) for ticket in (spent, retired, early, short)]
    assert keys == ["token.spent", "token.retired", "token.early", "token.expired"]
    assert await refused(gate.act.retire_token(token_id(retired.blob), "")) == "token.retired"
    assert sorted(view.state(gate.site.mesh.now_ms) for view in await gate.ask.tokens()) == [
        "early", "expired", "retired", "spent",
    ]  # fmt: skip


async def test_who_is_no_approver_may_do_none_of_it(gate: Gate) -> None:
    """Bert is an admin and a gateway, and no approver."""
    ticket = await gate.token(endpoints=(Endpoint(GATE, gate.site.bert.id),))
    await gate.admit("leg")
    await asyncio.to_thread(gate.site.bert.take, await gate.blobs())
    async with gate.site.live("bert") as replica:
        bert = Gate(gate.site, replica)
        bert.act = AdmissionOperations(replica, gate.site.bert.key.sign)
        assert await bert.act.enrol(ticket.blob, gate.request("arm", ticket)) is not None
        deeds = (
            bert.act.create_token(bert.wanted()),
            bert.act.retire_token(token_id(ticket.blob), ""),
            bert.act.approve(gate.id("arm")),
            bert.act.suspend(gate.id("leg"), ""),
            bert.act.evict(gate.id("leg"), ""),
        )
        assert [await refused(deed) for deed in deeds] == ["grant.role"] * 5
        receipt = await bert.act.revoke_member(gate.id("leg"), "an admin may")
        assert [effect.reason for effect in receipt.effects] == [None]


async def test_a_scoped_approver_works_within_its_scope(gate: Gate) -> None:
    eve = await asyncio.to_thread(gate.site.mesh.member, "eve")
    await gate.edit.grant(GrantAsk(eve.key.public_key, (Role.APPROVER,), ("robot",)))
    await gate.enrol("arm", await gate.token(tags=("robot",)))
    await gate.enrol("leg", await gate.token(tags=("crane",)))
    crane = await gate.token(tags=("crane",))
    await gate.act.approve(gate.id("leg"))
    await asyncio.to_thread(eve.take, await gate.blobs())
    mesh = gate.site.mesh
    async with Replica(eve.engine, Writer(eve.id, eve.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        act = AdmissionOperations(replica, eve.key.sign)
        assert (await act.approve(gate.id("arm"))).effects[0].ok
        assert await refused(act.renew(gate.id("arm"), ApproveAsk(tags=("crane",)))) == "certificate.widens"
        assert await refused(act.suspend(gate.id("leg"), "")) == "admission.scope"
        assert await refused(act.revoke_member(gate.id("leg"), "")) == "grant.role"
        assert await refused(act.retire_token(token_id(crane.blob), "")) == "admission.scope"
        assert await refused(act.create_token(gate.wanted())) == "certificate.widens"
        receipt, _ = await act.create_token(gate.wanted(tags=("robot",)))
        assert [effect.reason for effect in receipt.effects] == [None]
        assert (await act.evict(gate.id("arm"), "")).effects[1].ok


async def test_an_approver_does_not_revoke_who_holds_more_than_a_certificate(gate: Gate) -> None:
    eve = await asyncio.to_thread(gate.site.mesh.member, "eve")
    await gate.edit.grant(GrantAsk(eve.key.public_key, (Role.APPROVER,)))
    for name in ("arm", "leg"):
        await gate.admit(name)
    await gate.edit.grant(GrantAsk(gate.robot("arm").public_key, (Role.OPERATOR,)))
    await asyncio.to_thread(eve.take, await gate.blobs())
    mesh = gate.site.mesh
    async with Replica(eve.engine, Writer(eve.id, eve.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        edit = Operations(replica, eve.key.sign)
        assert await refused(edit.revoke(gate.id("arm"), (), "")) == "grant.role"
        assert (await edit.revoke(gate.id("leg"), (), "")).effects[0].ok


async def test_tags_of_an_admin_take_the_place_of_those_in_the_certificate(gate: Gate) -> None:
    await gate.admit("arm", tags=("robot", "slow"))
    node = gate.id("arm")

    async def tags() -> tuple[str, ...]:
        return next(view.tags for view in await gate.queries.members() if view.node == node)

    assert await refused(gate.edit.set_tags(node, ["robot"], [])) == "tags.unchanged"
    assert await refused(gate.edit.set_tags(node, [], ["robot", "slow"])) == "tags.certificate"
    await gate.edit.set_tags(node, ["crane"], ["slow"])
    assert await tags() == ("crane", "robot")
    await gate.edit.set_tags(node, [], ["robot"])
    assert await tags() == ("crane",)
    await gate.act.renew(node, ApproveAsk(tags=("fast",)))
    assert await tags() == ("crane",)


async def test_the_network_forgets_a_suspended_node_and_knows_what_it_may_know(gate: Gate) -> None:
    await gate.admit("arm")
    await gate.admit("leg")
    await gate.edit.rotate_secret()
    await gate.act.suspend(gate.id("arm"), "")
    network = await gate.queries.network()
    trusted = {view.node for view in network.members if "member" in view.roles}
    assert (gate.id("leg") in trusted, gate.id("arm") in trusted) == (True, False)
    assert network.former == frozenset({gate.id("arm")})
    await gate.edit.rotate_secret()
    assert (await gate.queries.network()).former == frozenset()


async def test_what_changed_nothing_is_listed_with_the_rest(gate: Gate) -> None:
    """A decision of which the node's state allows nothing, written by somebody who did not ask first."""
    receipt = await gate.replica.append([make(DecideEntry(gate.id("arm"), Action.SUSPEND, "", ""))])
    assert [effect.reason for effect in receipt.effects] == ["admission.state"]
    (row,) = await gate.queries.no_effect()
    assert (row.batch, row.entry, row.kind, row.reason) == (receipt.hash, 0, "decide", "admission.state")
    shown = await gate.queries.show(receipt.hash)
    assert shown is not None
    assert [entry.reason for entry in shown.entries] == ["admission.state"]
    assert (await gate.queries.status()).no_effect == 1
    assert msgspec.json.decode(shown.entries[0].body)["action"] == "suspend"
