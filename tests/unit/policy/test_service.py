"""The policy service over real replicas: edits are judged, written whole or in parts, and taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.core.clock import hlc_ms
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS
from appliance.policy.model import EMPTY, Action, Protocol, Rule, SelfSelector, Service, TagSelector
from appliance.policy.revisions import Standing
from appliance.policy.service import provenance
from appliance.replica.document_kinds import POLICY
from appliance.replica.operations import DocumentEdit
from appliance.replica.reports import Receipt
from tests.attach_rig import attach
from tests.sim.policies import NOT_TO_GATE, TO_GATE, TO_ROBOT, expected
from tests.unit.policy.desk import Meddler, desk, large, policy, service
from tests.unit.replica.operations_rig import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_before_the_first_edit_nothing_is_allowed_and_there_is_no_revision(site: Site) -> None:
    async with desk(site) as at:
        course = await at.policy.current()
        assert (course.policy, course.in_force, course.head, course.blocked) == (EMPTY, None, None, None)
        assert await at.policy.standings(9) == ()


async def test_an_edit_comes_into_force_with_its_author_and_its_time(site: Site) -> None:
    async with desk(site) as at:
        wanted = policy(TO_GATE, tests=(expected(Action.ALLOW),))
        written = await at.policy.apply(wanted, if_head=b"")
        course = await at.policy.current()
        assert written.course is course
        assert course.policy == wanted
        assert course.in_force is not None
        assert (course.in_force.change, course.in_force.batch) == (written.revision, *written.batches)
        assert (course.in_force.author, course.blocked) == (site.anna.id, None)
        signed = provenance(await at.policy.snapshot(), {site.anna.id: "anna"})
        assert [(rule, by.author, by.name, by.since_ms) for rule, by in signed.items()] == [
            (TO_GATE.id, site.anna.id, "anna", hlc_ms(course.in_force.hlc))
        ]


async def test_an_edit_whose_tests_fail_is_refused_in_words_and_nothing_is_written(site: Site) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_ROBOT))
        before = await at.queries.history(POLICY)
        with pytest.raises(X0tError) as refused:
            await at.policy.apply(policy(TO_GATE, NOT_TO_GATE, tests=(expected(Action.ALLOW),)))
        assert refused.value.key == "policy.tests"
        assert "allow tag:robot -> tag:gate: tcp/502, but tcp/502 is denied" in str(refused.value)
        assert await at.queries.history(POLICY) is before


async def test_an_edit_beyond_a_bound_is_refused_by_name_before_it_is_judged_and_nothing_is_written(site: Site) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_ROBOT))
        before = await at.queries.history(POLICY)
        count = LIMITS.policy_pieces // LIMITS.policy_selectors + 1
        rules = [
            Rule(
                action=Action.ALLOW,
                sources=tuple(TagSelector(f"cell-{number:02}") for number in range(LIMITS.policy_selectors)),
                targets=(SelfSelector(),),
                services=(Service(Protocol.TCP, port, port),),
            )
            for port in range(count)
        ]
        with pytest.raises(X0tError) as refused:
            await at.policy.apply(policy(*rules, tests=(expected(Action.ALLOW),)))
        assert refused.value.key == "policy.bounds"
        assert f"{count * LIMITS.policy_selectors:,} pieces of rules" in str(refused.value)
        assert await at.queries.history(POLICY) is before


async def test_who_is_no_admin_changes_nothing(site: Site) -> None:
    async with desk(site, "cleo") as at:
        with pytest.raises(X0tError) as refused:
            await at.policy.apply(policy(TO_GATE))
        assert refused.value.key == "grant.role"
        assert await at.queries.history(POLICY) == ()


async def test_what_the_policy_says_already_is_not_written_again(site: Site) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE))
        with pytest.raises(X0tError) as refused:
            await at.policy.apply(policy(TO_GATE))
        assert refused.value.key == "policy.unchanged"


async def test_an_edit_of_a_revision_that_is_not_the_newest_any_more_is_refused_and_loses_nothing(site: Site) -> None:
    async with desk(site) as at:
        first = await at.policy.apply(policy(TO_GATE))
        second = await at.policy.apply(policy(TO_GATE, TO_ROBOT), if_head=first.revision)
        for stale in (first.revision, b""):
            with pytest.raises(X0tError) as refused:
                await at.policy.apply(policy(NOT_TO_GATE), if_head=stale)
            assert refused.value.key == "policy.changed"
            assert second.revision.hex()[:16] in str(refused.value)
        assert (await at.policy.current()).policy == policy(TO_GATE, TO_ROBOT)


# -- edits in parts


async def test_a_large_edit_is_written_in_parts_and_comes_into_force_whole(site: Site) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE))
        wanted = large(400)
        written = await at.policy.apply(wanted)
        assert len(written.batches) > 1
        course = await at.policy.current()
        assert course.policy == wanted
        standings = await at.policy.standings(99)
        assert [revision.standing for revision in standings] == [
            Standing.IN_FORCE,
            *[Standing.OPEN] * (len(written.batches) - 1),
            Standing.SUPERSEDED,
        ]
        assert [revision.batch for revision in standings[:-1]] == list(reversed(written.batches))


async def test_what_a_crash_left_of_an_edit_is_not_in_force_and_goes_with_the_next_edit(site: Site) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE))
        left = DocumentEdit(POLICY, {"part/0123456789abcdef": True, "group/half": b"\x81\x65gate1"})
        await at.operations.edit_document(left)
        course = await at.policy.current()
        assert course.policy == policy(TO_GATE)
        assert course.blocked is not None
        assert course.blocked.revision.standing is Standing.OPEN
        await at.policy.apply(policy(TO_GATE, TO_ROBOT))
        course = await at.policy.current()
        assert (course.policy, course.blocked) == (policy(TO_GATE, TO_ROBOT), None)
        assert await at.replica.run(lambda engine: sorted(engine.documents.values(POLICY, "part/"))) == []


async def test_an_edit_in_parts_that_somebody_wrote_over_stops_and_what_they_wrote_stays(site: Site) -> None:
    async with desk(site) as at:
        other = policy(TO_GATE)
        ours = service(at.replica, Meddler(at.operations, 1, lambda: at.policy.apply(other)))
        with pytest.raises(X0tError) as refused:
            await ours.apply(large(400))
        assert refused.value.key == "policy.changed"
        course = await at.policy.current()
        assert (course.policy, course.blocked) == (other, None)


async def test_an_edit_on_top_of_anything_looks_again_when_somebody_wrote_meanwhile(site: Site) -> None:
    async with desk(site) as at:
        ours = service(at.replica, Meddler(at.operations, 0, lambda: at.policy.apply(policy(TO_GATE))))
        await ours.apply(policy(TO_ROBOT))
        assert (await at.policy.current()).policy == policy(TO_ROBOT)


async def test_an_edit_gives_up_where_others_write_all_the_time(site: Site) -> None:
    class Busy(Meddler):
        async def edit_document(self, edit: DocumentEdit) -> Receipt:
            self._left = 0
            return await super().edit_document(edit)

    async with desk(site) as at:
        others = iter([policy(TO_GATE), policy(TO_ROBOT), policy(NOT_TO_GATE)])
        ours = service(at.replica, Busy(at.operations, 0, lambda: at.policy.apply(next(others))))
        with pytest.raises(X0tError) as refused:
            await ours.apply(large(2))
        assert refused.value.key == "policy.changed"
        assert (await at.policy.current()).policy == policy(NOT_TO_GATE)


async def test_edits_at_the_same_time_come_one_after_the_other(site: Site) -> None:
    async with desk(site) as at:
        await asyncio.gather(at.policy.apply(large(400)), at.policy.apply(policy(TO_GATE)))
        assert (await at.policy.current()).policy == policy(TO_GATE)
        assert (await at.policy.current()).blocked is None


async def test_a_full_disk_in_the_middle_leaves_the_former_policy_in_force_and_the_edit_can_be_made_again(
    site: Site,
) -> None:
    async def fails() -> None:
        raise error("replica.disk_full", path="log.db")

    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE))
        ours = service(at.replica, Meddler(at.operations, 1, fails))
        with pytest.raises(X0tError) as refused:
            await ours.apply(large(400))
        assert refused.value.key == "replica.disk_full"
        assert (await at.policy.current()).policy == policy(TO_GATE)
        await at.policy.apply(large(400))
        assert (await at.policy.current()).policy == large(400)


# -- earlier revisions


async def test_a_revert_is_a_new_edit_with_the_content_of_an_earlier_revision(site: Site) -> None:
    async with desk(site) as at:
        first = await at.policy.apply(policy(TO_GATE))
        await at.policy.apply(policy(TO_ROBOT))
        found = await at.policy.find(first.revision.hex()[:12].upper())
        assert (found.change, found.standing) == (first.revision, Standing.SUPERSEDED)
        back = await at.policy.apply(await at.policy.content(found.change))
        assert back.course.policy == policy(TO_GATE)
        assert [revision.standing for revision in await at.policy.standings(2)] == [
            Standing.IN_FORCE,
            Standing.SUPERSEDED,
        ]


@pytest.mark.parametrize("text", ["", "zz", "0123456789abcdef0123"])
async def test_a_revision_that_is_not_there_is_not_found(site: Site, text: str) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE))
        with pytest.raises(X0tError) as refused:
            await at.policy.find(text)
        assert refused.value.key == "policy.no_revision"


async def test_undoing_takes_back_what_an_edit_changed_and_leaves_alone_what_came_after(site: Site) -> None:
    async with desk(site) as at:
        first = await at.policy.apply(policy(TO_GATE))
        second = await at.policy.apply(policy(TO_ROBOT))
        await at.policy.apply(policy(TO_ROBOT, NOT_TO_GATE))
        undone = await at.policy.undo(first.revision, second.revision)
        assert undone.course.policy == policy(TO_GATE, NOT_TO_GATE)


async def test_undoing_the_first_edit_of_all_leaves_nothing(site: Site) -> None:
    async with desk(site) as at:
        first = await at.policy.apply(policy(TO_GATE))
        assert (await at.policy.undo(b"", first.revision)).course.policy == policy()


# -- several islands


async def test_two_edits_that_each_pass_and_together_fail_leave_the_last_that_passed_in_force_on_both_islands(
    site: Site,
) -> None:
    """One island expects robots at the gate, the other denies them; each passes alone."""
    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE))
    await asyncio.to_thread(site.anna.start)
    await asyncio.to_thread(site.bert.pull, site.anna)
    for who, wanted in (
        ("anna", policy(TO_GATE, tests=(expected(Action.ALLOW),))),
        ("bert", policy(TO_GATE, NOT_TO_GATE)),
    ):
        async with desk(site, who) as at:
            await at.policy.apply(wanted)
        await asyncio.to_thread(getattr(site, who).start)
    await asyncio.to_thread(site.anna.pull, site.bert)
    await asyncio.to_thread(site.bert.pull, site.anna)
    courses = []
    for who in ("anna", "bert"):
        async with desk(site, who) as at:
            courses.append(await at.policy.current())
    anna, bert = courses
    assert anna == bert
    assert anna.blocked is not None
    assert {edit.author for edit in anna.blocked.edits} == {site.anna.id, site.bert.id}
    assert anna.blocked.revision.standing is Standing.FAILED
    assert anna.policy == policy(TO_GATE, tests=(expected(Action.ALLOW),))  # the earlier of the two in the fold


async def test_an_edit_by_a_right_that_was_taken_meanwhile_says_so(site: Site) -> None:
    """Anna revokes bert on her island, before his edit and unknown to him; he hears of it while he writes."""
    site.anna.revoke(site.bert, reason="lost")
    blobs = site.anna.blobs()
    async with desk(site, "bert") as at:
        hears = Meddler(at.operations, 1, lambda: at.replica.receive(blobs))
        with pytest.raises(X0tError) as refused:
            await service(at.replica, hears).apply(large(400))
        assert refused.value.key == "grant.role"
        assert (await at.policy.current()).policy == EMPTY


async def test_an_edit_that_lost_its_right_right_after_it_was_written_says_so_too(site: Site) -> None:
    class Late(Meddler):
        async def edit_document(self, edit: DocumentEdit) -> Receipt:
            receipt = await super().edit_document(edit)
            await self._deed()
            return receipt

    site.anna.revoke(site.bert, reason="lost")
    blobs = site.anna.blobs()
    async with desk(site, "bert") as at:
        hears = Late(at.operations, -1, lambda: at.replica.receive(blobs))
        with pytest.raises(X0tError) as refused:
            await service(at.replica, hears).apply(policy(TO_GATE))
        assert refused.value.key == "policy.overtaken"
        assert (await at.policy.current()).policy == EMPTY


async def test_names_and_places_come_from_the_same_moment_as_the_policy(site: Site) -> None:
    async with desk(site) as at:
        await at.operations.attach(attach(site.mesh.id, site.anna.id, "anna"))
        await at.operations.set_name(site.anna.id, "gate-1")
        await at.policy.apply(policy(TO_GATE))
        snapshot = await at.policy.snapshot()
        assert [member.name for member in snapshot.roster.directory.members.values()] == ["gate-1"]
        assert (await at.policy.directory()).members == snapshot.roster.directory.members
        assert snapshot.history == await at.queries.history(POLICY)


async def test_the_origin_of_a_rule_is_who_put_it_last_into_what_is_in_force(site: Site) -> None:
    async with desk(site) as at:
        await at.policy.apply(policy(TO_GATE, TO_ROBOT))
        await at.policy.apply(policy(TO_ROBOT))
        again = await at.policy.apply(policy(TO_GATE, TO_ROBOT))
        await at.operations.edit_document(DocumentEdit(POLICY, {"group/half": b"not a group"}))
        snapshot = await at.policy.snapshot()
        assert snapshot.course.blocked is not None
        signed = provenance(snapshot, {})
        assert signed[TO_GATE.id].batch == again.batches[0]
        assert signed[TO_ROBOT.id].since_ms < signed[TO_GATE.id].since_ms
