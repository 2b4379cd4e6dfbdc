"""A change that nobody confirms is taken back: in time, after a crash, and without what others wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.daemon.confirmation import Confirmation
from appliance.policy.model import Policy
from appliance.policy.service import Written
from tests.sim.policies import NOT_TO_GATE, TO_GATE, TO_ROBOT
from tests.unit.daemon.network_rig import PATIENCE_S, Desk, desk, policy
from tests.unit.replica.operations_rig import Site

WAIT_MS = 60_000
BEFORE, AFTER = policy(TO_GATE), policy(TO_ROBOT)


class Scene:
    """A node with a policy, a clock that stands, and the file of its confirmations."""

    def __init__(self, site: Site, at: Desk, file: Path) -> None:
        self.mesh = site.mesh
        self.policy = at.mesh.policy
        self._replica = at.mesh.replica
        self.file = file

    def confirmation(self) -> Confirmation:
        """One more daemon's."""
        return Confirmation(self.file, self._replica, self.policy)

    async def now(self) -> Policy:
        return (await self.policy.current()).policy

    async def change(self, confirmation: Confirmation, write: Callable[[], Awaitable[Written]] | None = None) -> None:
        """Change the policy to `AFTER`, to be undone in a minute."""
        in_force = (await self.policy.current()).in_force
        before = in_force.change if in_force else b""
        await confirmation.change(before, self.mesh.now_ms + WAIT_MS, write or self.write)

    async def write(self) -> Written:
        return await self.policy.apply(AFTER)

    def pass_time(self) -> None:
        self.mesh.now_ms += WAIT_MS

    async def settle(self) -> None:
        """Wait until nothing is noted any more."""
        async with asyncio.timeout(PATIENCE_S):
            while self.file.exists():  # noqa: ASYNC110 - a file tells nobody that it goes
                await asyncio.sleep(0.001)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@asynccontextmanager
async def scene(site: Site, first: Policy | None = BEFORE) -> AsyncIterator[Scene]:
    async with desk(site) as at:
        if first is not None:
            await at.mesh.policy.apply(first)
        yield Scene(site, at, site.mesh.directory / "unconfirmed.json")


@asynccontextmanager
async def running(confirmation: Confirmation) -> AsyncIterator[None]:
    task = asyncio.create_task(confirmation.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def refusal(work: Awaitable[object]) -> str:
    with pytest.raises(X0tError) as refused:
        await work
    return refused.value.key


async def test_a_change_that_nobody_confirms_is_undone_when_it_is_due_and_not_before(site: Site) -> None:
    async with scene(site) as at:
        confirmation = at.confirmation()
        await at.change(confirmation)
        assert (await at.now(), confirmation.by_ms) == (AFTER, at.mesh.now_ms + WAIT_MS)
        at.pass_time()
        async with running(confirmation):
            await at.settle()
            assert await refusal(confirmation.confirm()) == "policy.no_confirmation"
            assert (await at.now(), confirmation.by_ms) == (BEFORE, 0)


async def test_a_change_that_is_made_while_it_runs_is_undone_too(site: Site) -> None:
    async with scene(site) as at:
        confirmation = at.confirmation()
        async with running(confirmation):
            await confirmation.change(await _head(at), at.mesh.now_ms + 20, at.write)
            at.mesh.now_ms += 20
            await at.settle()
        assert await at.now() == BEFORE


async def test_a_confirmed_change_stays_and_is_confirmed_once(site: Site) -> None:
    async with scene(site) as at:
        confirmation = at.confirmation()
        await at.change(confirmation)
        await confirmation.confirm()
        assert await refusal(confirmation.confirm()) == "policy.no_confirmation"
        at.pass_time()
        assert not at.file.exists()
        again = at.confirmation()
        assert await refusal(again.confirm()) == "policy.no_confirmation"
        assert await at.now() == AFTER


async def test_the_first_policy_of_all_is_undone_to_none(site: Site) -> None:
    async with scene(site, None) as at:
        await at.change(at.confirmation())
        at.pass_time()
        async with running(at.confirmation()):
            await at.settle()
        assert await at.now() == policy()


async def test_a_restart_in_between_forgets_nothing(site: Site) -> None:
    async with scene(site) as at:
        await at.change(at.confirmation())
        again = at.confirmation()
        assert await refusal(at.change(again)) == "policy.waiting"
        at.pass_time()
        async with running(at.confirmation()):
            await at.settle()
        assert await at.now() == BEFORE


async def test_a_crash_before_the_revision_was_noted_forgets_nothing_either(site: Site) -> None:
    async with scene(site) as at:

        async def crash() -> Written:
            await at.write()
            raise OSError("power cut")

        with pytest.raises(OSError, match="power cut"):
            await at.change(at.confirmation(), crash)
        assert await at.now() == AFTER
        at.pass_time()
        async with running(at.confirmation()):
            await at.settle()
        assert await at.now() == BEFORE


async def test_a_crash_before_anything_was_written_undoes_nothing(site: Site) -> None:
    async with scene(site) as at:

        async def crash() -> Written:
            raise OSError("power cut")

        with pytest.raises(OSError, match="power cut"):
            await at.change(at.confirmation(), crash)
        at.pass_time()
        async with running(at.confirmation()):
            await at.settle()
        assert await at.now() == BEFORE


async def test_a_change_that_is_refused_leaves_nothing_that_waits(site: Site) -> None:
    async with scene(site) as at:
        confirmation = at.confirmation()
        assert await refusal(at.change(confirmation, lambda: at.policy.apply(BEFORE))) == "policy.unchanged"
        assert (confirmation.by_ms, at.file.exists()) == (0, False)
        await at.change(confirmation)


async def test_what_somebody_else_wrote_after_it_stays(site: Site) -> None:
    async with scene(site) as at:
        await at.change(at.confirmation())
        await at.policy.apply(policy(TO_ROBOT, NOT_TO_GATE))
        at.pass_time()
        async with running(at.confirmation()):
            await at.settle()
        assert await at.now() == policy(TO_GATE, NOT_TO_GATE)


async def test_what_somebody_took_back_already_is_let_be(site: Site) -> None:
    async with scene(site) as at:
        await at.change(at.confirmation())
        await at.policy.apply(BEFORE)
        at.pass_time()
        async with running(at.confirmation()):
            await at.settle()
        assert await at.now() == BEFORE


async def test_a_second_change_is_refused_while_one_waits_and_changes_nothing(site: Site) -> None:
    async with scene(site) as at:
        confirmation = at.confirmation()
        second = await asyncio.gather(at.change(confirmation), at.change(confirmation), return_exceptions=True)
        assert [getattr(each, "key", None) for each in second] == [None, "policy.waiting"]
        assert await refusal(at.change(confirmation, lambda: at.policy.apply(policy()))) == "policy.waiting"
        assert await at.now() == AFTER


async def test_a_change_that_takes_longer_than_its_time_is_undone_when_it_is_made(site: Site) -> None:
    async with scene(site) as at:
        begun, let_go = asyncio.Event(), asyncio.Event()

        async def slow() -> Written:
            begun.set()
            await let_go.wait()
            return await at.write()

        confirmation = at.confirmation()
        async with running(confirmation), asyncio.TaskGroup() as group:
            group.create_task(confirmation.change(await _head(at), at.mesh.now_ms, slow))
            await begun.wait()
            let_go.set()
        async with running(confirmation):
            await at.settle()
        assert [each.author for each in await at.policy.standings(9)] == [site.anna.id] * 3
        assert await at.now() == BEFORE


@pytest.mark.parametrize("text", ["", "{}", '{"before": "", "after": "", "by_ms": "soon"}'])
async def test_a_note_that_cannot_be_read_stops_further_changes(site: Site, text: str) -> None:
    async with scene(site) as at:
        at.file.write_text(text)
        confirmation = at.confirmation()
        for _ in range(2):
            assert await refusal(at.change(confirmation)) == "config.file"
            assert await refusal(confirmation.run()) == "config.file"
        assert (await at.now(), at.file.read_text()) == (BEFORE, text)


async def _head(at: Scene) -> bytes:
    head = (await at.policy.current()).head
    assert head is not None
    return head.change
