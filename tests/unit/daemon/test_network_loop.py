"""The network follows the replica: each commit, each end of a rule and each foreign change leads to a round."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from appliance.core.limits import LIMITS
from appliance.core.yggdrasil import node_address
from appliance.policy.compile import Compiler
from appliance.policy.filter import Filter
from appliance.trust.grants import Role
from tests.attach_rig import public
from tests.sim.policies import TO_GATE
from tests.unit.daemon.network_rig import PATIENCE_S, desk, plant, policy, running
from tests.unit.replica.operations_rig import Site

GATE, ROBOT, NEW = (node_address(public(name)) for name in ("anna", "cleo", "new"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return plant(tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Site:
    """Where nobody has said its key yet."""
    return Site(tmp_path)


def lets_in(found: Filter) -> bool:
    return bool(found.inbound)


def lets_nobody_in(found: Filter) -> bool:
    return not found.inbound


async def test_a_commit_leads_to_a_round_and_the_kernel_enforces_what_the_mesh_says(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        first = await at.journal.filter(lets_nobody_in)
        assert (first.own, set(first.peers)) == (GATE, {ROBOT})
        await at.mesh.policy.apply(policy(TO_GATE))
        found = await at.journal.filter(lets_in)
        assert at.firewall.kernel.held is found is at.network.enforced
        state = at.network.state
        assert (state.is_prepared, state.rules, state.members, state.blocked) == (True, 1, 2, "")
        assert state.entries == len(found.inbound) + len(found.outbound)
        assert at.network.policy == policy(TO_GATE)


async def test_what_the_kernel_refuses_is_tried_again_and_shown_and_what_was_in_force_stays(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        before = await at.journal.filter(lets_nobody_in)
        at.firewall.refuse(2)
        await at.mesh.policy.apply(policy(TO_GATE))
        for _ in range(2):
            assert await at.journal.refused.get() == "apply"
            assert "firewall.refused" in at.network.state.blocked
            assert at.firewall.kernel.held == before == at.network.enforced
        await at.journal.filter(lets_in)
        assert at.network.state.blocked == ""


async def test_conversations_that_could_not_be_ended_are_told_and_ended_without_anybody_asking(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await at.journal.filter(lets_nobody_in)
        at.firewall.linger(2)
        await at.mesh.policy.apply(policy(TO_GATE))
        await at.journal.filter(lets_in)
        await at.journal.filter(lets_in)  # tried again
        state = at.network.state
        assert (state.blocked, state.owed, at.network.enforced) == ("", "the test says so", at.firewall.kernel.held)
        await at.journal.filter(lets_in)
        assert at.network.state.owed == ""


async def test_the_table_that_denies_is_there_before_yggdrasil_runs_and_why_it_is_not_is_shown(site: Site) -> None:
    async with desk(site) as at:
        at.firewall.unable = 1
        async with running(at.network):
            assert await at.journal.refused.get() == "prepare"
            assert "firewall.unavailable" in at.network.state.blocked
            assert (at.network.state.is_prepared, at.journal.deeds) == (False, [])
            await at.journal.filter(lets_nobody_in)
            await at.journal.started.wait()
            assert at.journal.deeds == ["prepare", "yggdrasil"]
            assert (at.network.state.is_prepared, at.network.state.blocked) == (True, "")


async def test_a_change_by_somebody_else_is_repaired_and_told(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        before = await at.journal.filter(lets_nobody_in)
        at.firewall.disturb("nft (process 7)")
        await at.journal.filter(lets_nobody_in)
        assert at.firewall.kernel.held == before
        assert (at.network.state.disturbed_by, at.network.state.repairs) == ("nft (process 7)", 1)


async def test_a_change_whose_notice_was_lost_is_found_by_the_sweep(site: Site) -> None:
    async with desk(site) as at:
        (sweep,) = (job for job in at.network.jobs() if job.name == "firewall-sweep")
        await sweep.run()  # nothing is enforced yet, so nothing can differ
        async with running(at.network):
            before = await at.journal.filter(lets_nobody_in)
            at.firewall.lose()
            await sweep.run()
            await at.journal.filter(lets_nobody_in)
            assert at.firewall.kernel.held == before
            assert at.network.state.repairs == 1
            await sweep.run()
            assert at.network.state.repairs == 1


async def test_the_end_of_a_rule_wakes_it(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await at.journal.filter(lets_nobody_in)
        ends_ms = site.mesh.now_ms + 50
        await at.mesh.policy.apply(policy(msgspec.structs.replace(TO_GATE, until_ms=ends_ms)))
        found = await at.journal.filter(lets_in)
        assert {grant.until_ms for grant in found.inbound.values()} == {ends_ms}
        site.mesh.now_ms = ends_ms
        await at.journal.filter(lets_nobody_in)


async def test_a_node_that_is_no_member_lets_nothing_pass(site: Site) -> None:
    async with desk(site) as at:
        await at.mesh.policy.apply(policy(TO_GATE))
        blobs = await asyncio.to_thread(site.anna.blobs)
    async with desk(site, "dora") as at:
        await at.mesh.replica.receive(blobs)
        async with running(at.network):
            own = node_address(public("dora"))
            assert await at.journal.filter(lambda _: True) == Filter(own=own)
            assert at.operations.attached == 0


async def test_a_node_whose_place_is_that_of_another_key_lets_nothing_pass_until_the_mesh_knows_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.daemon.network.ATTACH_S", 0.01)
    async with desk(site, key_name="new") as at:
        await at.mesh.policy.apply(policy(TO_GATE))
        async with running(at.network):
            assert await at.journal.filter(lambda _: True) == Filter(own=NEW)
            found = await at.journal.filter(lets_in)
            assert (found.own, set(found.peers)) == (NEW, {ROBOT})


async def test_a_node_says_its_key_once_and_again_when_that_lost_its_effect(
    bare: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.daemon.network.ATTACH_S", 0.01)
    anna = bare.anna
    async with desk(bare, "cleo") as at, running(at.network):
        await at.journal.filter(lambda found: bool(found.locals))
        await asyncio.to_thread(anna.revoke, bare.cleo)
        await at.mesh.replica.receive(await asyncio.to_thread(anna.blobs))
        await at.journal.filter(lambda found: not found.locals)
        assert at.operations.attached == 1
        bare.mesh.tick()
        await asyncio.to_thread(anna.give, bare.cleo, Role.MEMBER)
        await at.mesh.replica.receive(await asyncio.to_thread(anna.blobs))
        await at.journal.filter(lambda found: bool(found.locals))
        assert at.operations.attached == 2


async def test_yggdrasil_hears_who_the_members_are_also_when_the_kernel_refuses(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await at.journal.filter(lets_nobody_in)
        assert at.journal.wanted.empty()  # the mesh has no secret yet
        await at.operations.rotate_secret()
        async with asyncio.timeout(PATIENCE_S):
            wanted = await at.journal.wanted.get()
            assert {each.key for each in wanted.members} == {public("anna"), public("cleo")}
            at.firewall.refuse(1_000)
            await at.operations.revoke(site.cleo.id, (), "lost")
            while len(wanted.members) > 1:
                wanted = await at.journal.wanted.get()
        assert [each.key for each in wanted.members] == [public("anna")]
        assert wanted.former == frozenset({public("cleo")})


async def test_a_password_follows_from_the_newest_secret(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await at.operations.rotate_secret()
        async with asyncio.timeout(PATIENCE_S):
            first = await at.journal.wanted.get()
            await at.operations.rotate_secret()
            second = first
            while second.password == first.password:
                second = await at.journal.wanted.get()
        assert second.members == first.members


async def test_who_is_evicted_loses_its_rights_also_where_the_policy_does_not_fit_this_node(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(site) as at, running(at.network):
        await at.mesh.policy.apply(policy(TO_GATE))
        before = await at.journal.filter(lets_in)
        assert before.peers[ROBOT]
        tight = Compiler(msgspec.structs.replace(LIMITS, filter_entries=1))
        monkeypatch.setattr(at.network, "_compiler", tight)
        await at.operations.revoke(site.cleo.id, (), "lost")
        after = await at.journal.filter(lambda found: ROBOT not in found.peers)
        assert at.firewall.kernel.held is after is at.network.enforced
        await at.journal.filter(lambda found: ROBOT not in found.peers)  # of the next try
        assert "policy.too_large" in at.network.state.blocked
