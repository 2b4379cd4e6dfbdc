"""What a change says of itself is so: which filter is in force when it fails half-way, and what is still owed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.core.prefix import address_text, parse_address
from appliance.netstack.nft import wire
from appliance.netstack.nft.access import Access, Ground
from appliance.netstack.nft.endings import Endings
from appliance.netstack.nft.firewall import wall_clock_ms
from appliance.netstack.nft.skeleton import Kind
from appliance.netstack.nft.turns import Turns
from appliance.policy.filter import Filter
from tests.faults.firewall_child import NEW, OLD
from tests.faults.firewall_faults import (
    Fault,
    Plan,
    about_conversations,
    answers,
    changes_on_the_way,
    refuses,
    where,
)
from tests.firewall_bench import FAULTS, Bench, at_once, standing, who_gets_through
from tests.firewall_rig import FAR, LOW, MEMBERS, OTHER, OWN, TABLE, KernelTalk, a_filter

pytestmark = pytest.mark.usefixtures("root")

COMMIT = 1  # the request of a change that writes
LOW_PORT, HIGH_PORT = 1500, 2500
LEAVERS = [parse_address(f"200::a{number}") for number in range(10)]
(NEW_KEY,) = (b"".join(part.to_bytes(4, "little") for part in key) for key in NEW.inbound)
OTHER_KEY = NEW_KEY[:-4] + b"\x63\0\0\0"


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with standing() as made:
        await made.to_old()
        yield made


@pytest.fixture
def talk(bench: Bench) -> Callable[[bytes, int], KernelTalk]:
    """A conversation from the far end to the node."""
    return lambda opener, port: KernelTalk(bench.pair, (opener, OWN), port)


Talk = Callable[[bytes, int], KernelTalk]


# ---- conversations


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_change_whose_conversations_cannot_be_ended_is_in_force_and_owes_that(
    bench: Bench, talk: Talk, fault: str
) -> None:
    open_ = talk(FAR, LOW_PORT)
    assert [await open_.ask(), await open_.answer()] == [True] * 2
    bench.plan.arm(where(about_conversations, FAULTS[fault]))
    for removed in (4, 0):
        done = await bench.firewall.apply(NEW)
        assert (done.removed, done.ended) == (removed, 0)
        assert done.owed.startswith("Conversations that nothing allows any more could not be ended")
    assert await bench.holds(NEW)
    assert [await open_.ask(), await open_.answer()] == [False] * 2
    bench.plan.arm(None)
    assert await bench.firewall.verify() == []
    assert len(await _tracked(bench)) == 1
    done = await bench.firewall.apply(NEW)
    assert (done.ended, done.owed) == (1, "")
    assert await _tracked(bench) == []
    open_.close()


async def test_conversations_that_many_changes_left_are_all_ended_at_last(bench: Bench, talk: Talk) -> None:
    peers = dict.fromkeys(LEAVERS, MEMBERS)
    lines = [f"addr add {address_text(each)}/7 dev far0 nodad" for each in LEAVERS]
    await asyncio.to_thread(bench.pair.far.ip, *lines)
    await bench.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)], peers=dict(peers)))
    for number, each in enumerate(LEAVERS):
        made = talk(each, LOW_PORT + number)
        assert await made.ask()
        made.close()
    bench.plan.arm(where(about_conversations, refuses(errno.ENOMEM)))
    for each in LEAVERS:
        del peers[each]
        done = await bench.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)], peers=dict(peers)))
        assert (done.removed, bool(done.owed)) == (1, True)
    assert len(await _tracked(bench)) == len(LEAVERS)
    bench.plan.arm(None)
    assert (await bench.firewall.apply(a_filter(peers={}))).ended == len(LEAVERS)


async def test_each_change_has_a_second_look_for_what_comes_in_late(bench: Bench, talk: Talk) -> None:
    await bench.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)], peers=dict.fromkeys((FAR, OTHER), MEMBERS)))
    access = Access(TABLE, LIMITS, Ground(bench.pair.connect, wall_clock_ms, lambda: False, lambda _: None))
    endings = Endings(access, Turns(), lambda: Filter(own=OWN))  # by which nothing is allowed
    endings.owe(a_filter(peers={FAR: MEMBERS}))
    await asyncio.to_thread(endings.end)
    endings.owe(a_filter(peers={OTHER: MEMBERS}))
    await asyncio.to_thread(endings.end_late)  # of the first change; of the second it is the first look
    late = talk(OTHER, LOW_PORT)
    assert await late.ask()
    late.close()
    assert len(await _tracked(bench)) == 1
    await asyncio.to_thread(endings.end_late)
    assert await _tracked(bench) == []
    endings.close()


async def _tracked(bench: Bench) -> list[str]:
    listed = await asyncio.to_thread(bench.node.run, ["conntrack", "-L", "-f", "ipv6", "-p", "udp"])
    return [line for line in listed.stdout.splitlines() if line.startswith("udp")]


# ---- what the kernel does not hold


def arrives_altered(then: Fault) -> Fault:
    """The commit reaches the kernel with another grant than was meant, and then something else is wrong."""

    def fault(plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        if plan.count == COMMIT + 1:
            return changes_on_the_way(NEW_KEY, OTHER_KEY)(plan, data, real)
        return then(plan, data, real)

    return fault


def writes(messages: list[wire.Message]) -> bool:
    return len(messages) > 1


def writes_the_old(messages: list[wire.Message]) -> bool:
    """The whole table, with a grant of the old filter."""
    is_whole = any(one.kind == Kind.TABLE for one in messages)
    grants = [b"".join(part.to_bytes(4, "little") for part in key) for key in OLD.inbound]
    return is_whole and any(grants[0] in one.payload for one in messages)


async def test_what_the_kernel_does_not_hold_is_told_and_the_former_filter_restored(bench: Bench) -> None:
    bench.plan.arm(changes_on_the_way(NEW_KEY, OTHER_KEY), at_once(COMMIT))
    with pytest.raises(X0tError) as caught:
        await bench.firewall.apply(NEW)
    assert caught.value.key == "firewall.mismatch"
    assert (caught.value.detail["wanted"], caught.value.detail["found"]) == ("for good", "nothing")
    bench.plan.arm(None)
    assert await bench.holds(OLD)
    assert await bench.firewall.verify() == []
    await bench.firewall.apply(NEW)
    assert await bench.holds(NEW)


async def test_where_the_former_filter_cannot_be_restored_everything_is_denied(bench: Bench, talk: Talk) -> None:
    open_ = talk(FAR, LOW_PORT)
    assert [await open_.ask(), await open_.answer()] == [True] * 2
    bench.plan.arm(arrives_altered(where(writes_the_old, answers(errno.ENOMEM))))
    with pytest.raises(X0tError) as caught:
        await bench.firewall.apply(NEW)
    assert (caught.value.key, caught.value.detail["state"]) == ("firewall.unrestored", "everything is denied now")
    bench.plan.arm(None)
    assert await bench.holds(Filter(own=OWN))
    assert [await open_.ask(), await open_.answer()] == [False] * 2
    assert await who_gets_through(bench.pair) == set()
    await _comes_to_new_by_a_look_at_all(bench)
    open_.close()


@pytest.mark.parametrize("fault", ["no memory", "answer lost", "kernel has no memory"])
async def test_where_nothing_can_be_written_any_more_that_is_told_and_nothing_more_is_open(
    bench: Bench, talk: Talk, fault: str
) -> None:
    open_ = talk(FAR, LOW_PORT)
    assert [await open_.ask(), await open_.answer()] == [True] * 2
    refusing = FAULTS[fault] if fault != "answer lost" else _takes_nothing
    bench.plan.arm(arrives_altered(where(writes, refusing)))
    with pytest.raises(X0tError) as caught:
        await bench.firewall.apply(NEW)
    assert caught.value.key == "firewall.unrestored"
    assert caught.value.detail["state"] == "what it holds now is not known"
    bench.plan.arm(None)
    assert await bench.firewall.verify() != []
    assert [await open_.ask(), await open_.answer()] == [False] * 2  # what the change took away is gone
    assert await who_gets_through(bench.pair) == set()  # and what it gave did not come
    await _comes_to_new_by_a_look_at_all(bench)
    open_.close()


async def _comes_to_new_by_a_look_at_all(bench: Bench) -> None:
    asked: list[int] = []

    def note(_: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        asked.append(next(wire.messages(data)).kind)
        return real(data)

    bench.plan.arm(note)
    await bench.firewall.apply(NEW)
    bench.plan.arm(None)
    assert asked[1:4] == [Kind.GENERATION + 1, Kind.TABLE + 1, Kind.SET + 1]
    assert await bench.holds(NEW)
    assert await who_gets_through(bench.pair) == {(OTHER, HIGH_PORT)}
    assert await bench.firewall.verify() == []


def _takes_nothing(plan: Plan, data: bytes, _: Callable[[bytes], int]) -> int:
    """Neither the request arrives nor an answer."""
    plan.answer_next(OSError(errno.ENOBUFS, "no buffer"))
    return len(data)
