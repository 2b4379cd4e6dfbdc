"""The Yggdrasil manager with the real daemon in namespaces; what needs no network, with the fake as well."""
# size: one contract; its scenes share the daemons' rig

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from appliance.core.limits import Limits
from appliance.core.prefix import Prefix, address_text
from appliance.core.yggdrasil import RANGE, node_address, node_subnet
from appliance.lab.site import Site
from appliance.netstack.fake.yggdrasil import FakeYggdrasil, Underlay
from appliance.netstack.links import Links, Route, barrier_metric
from appliance.netstack.yggdrasil import turns
from appliance.netstack.yggdrasil.config import Config, peer_password, to_json
from appliance.netstack.yggdrasil.key import YggdrasilKey, generate_key
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.records import Candidate, Phase, Place, State, Wanted
from tests.yggdrasil_rig import MESH, SECRET, Node, flow, links, on_a_lan, running, want, wanted

KEYS = 1_000
METRIC = barrier_metric(MESH)
EVICT_S = 2.0  # issue: an evicted member loses its links within 2 s


@pytest.fixture
def site(root: None) -> Iterator[Site]:
    with Site() as made:
        yield made


def is_running(state: State) -> bool:
    return state.phase is Phase.RUNNING


# ---- derivation


def test_addresses_and_blocks_of_1000_keys_are_those_that_the_daemon_derives(
    record_property: Callable[[str, object], None],
) -> None:
    def derived(key: YggdrasilKey) -> list[str]:
        config = Config(
            key=key.secret_text(), password="", interface="none", mtu=1280, admin_socket="", listen=(), discovery=(),
            allowed=frozenset(),
        )  # fmt: skip
        return [
            subprocess.run(["yggdrasil", "-useconf", option], input=to_json(config), capture_output=True, check=True)
            .stdout.decode()
            .strip()
            for option in ("-address", "-subnet")
        ]

    keys = [generate_key() for _ in range(KEYS)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(derived, keys))
    ours = [[address_text(node_address(key.public)), str(node_subnet(key.public))] for key in keys]
    assert found == ours
    record_property("counts", f"yggdrasil: {KEYS} keys, address and /64 derived as the daemon does")


# ---- one contract, two implementations


class Trio:
    """Three managers of one mesh, real or fake, and their runs."""

    def __init__(self, keys: list[YggdrasilKey], make: Callable[[int], Yggdrasil | FakeYggdrasil]) -> None:
        self.members = [Candidate(key=key.public, uris=(f"tls://10.9.0.{n + 1}:7331",)) for n, key in enumerate(keys)]
        self._make = make
        self.managers = [make(n) for n in range(len(keys))]

    def want(self, *who: int, password: str = "one") -> None:
        """Tell these managers that they are the members."""
        for n in who:
            self.managers[n].want(Wanted(members=tuple(self.members[m] for m in who), password=password))

    def renew(self, n: int) -> Yggdrasil | FakeYggdrasil:
        """A new manager, as after a restart of the program."""
        self.managers[n] = self._make(n)
        return self.managers[n]

    async def until(self, n: int, holds: Callable[[State], bool], timeout_s: float = 30.0) -> State:
        """Wait for a state of one manager."""
        async with asyncio.timeout(timeout_s):
            while not holds(self.managers[n].state):
                await self.managers[n].changed()
        return self.managers[n].state

    async def linked(self, n: int, *others: int) -> State:
        """Wait until exactly these are linked."""
        return await self.until(n, lambda state: links(state) == {self.members[m].key for m in others})


@pytest.fixture(params=["fake", "real"])
def trio(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trio]:
    keys = [generate_key() for _ in range(3)]
    names = [f"host{n}" for n in range(3)]
    if request.param == "fake":
        underlay = Underlay()
        places = [Place(mesh=MESH, interface="x0t0", run_dir=tmp_path / name) for name in names]
        yield Trio(keys, lambda n: FakeYggdrasil(places[n], keys[n], underlay))
        return
    request.getfixturevalue("root")
    with Site() as made:
        hosts = made.hosts(*names)
        made.bridge("lan", list(hosts), prefixes=["10.9.0.0/24"])
        places = [
            Place(
                mesh=MESH,
                interface="x0t0",
                run_dir=tmp_path / host.name,
                listen=("tls://0.0.0.0:7331",),
                mtu=32_000,
                netns=host.netns,
            )
            for host in hosts
        ]
        yield Trio(keys, lambda n: Yggdrasil(places[n], keys[n]))


@contextlib.asynccontextmanager
async def runs(trio: Trio) -> AsyncIterator[list[asyncio.Task[None]]]:
    """All three run; at the end all is taken away."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(manager.run()) for manager in trio.managers]
            try:
                yield tasks
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        for manager in trio.managers:
            await manager.remove()


async def test_nothing_is_started_before_something_is_wanted(trio: Trio) -> None:
    async with runs(trio):
        trio.want(0)
        await trio.until(0, is_running)
        assert (trio.managers[1].state.phase, trio.managers[1].state.pid) == (Phase.WAITING, 0)


async def test_members_are_linked_and_the_state_names_them(trio: Trio) -> None:
    async with runs(trio):
        trio.want(0, 1, 2)
        for n in range(3):
            state = await trio.linked(n, *({0, 1, 2} - {n}))
            assert (state.phase, bool(state.pid), state.reason) == (Phase.RUNNING, True, "")
            assert state.address == node_address(trio.members[n].key)


async def test_an_evicted_member_loses_its_links_within_2_seconds(trio: Trio) -> None:
    async with runs(trio):
        trio.want(0, 1, 2)
        for n in range(3):
            await trio.linked(n, *({0, 1, 2} - {n}))
        trio.want(0, 1)  # and the evicted one goes on as if it had not heard
        evicted = trio.members[2].key
        for n in (0, 1):
            await trio.until(n, lambda state: is_running(state) and evicted not in links(state), EVICT_S)
        await trio.linked(2)
        await trio.linked(0, 1)


async def test_two_passwords_are_two_meshes(trio: Trio) -> None:
    async with runs(trio):
        trio.want(0, 1, 2, password="one")
        trio.managers[2].want(Wanted(members=tuple(trio.members), password="two"))
        await trio.linked(0, 1)
        await trio.until(2, is_running)
        assert links(trio.managers[2].state) == set()


async def test_a_daemon_outlives_its_manager_and_is_taken_over(trio: Trio) -> None:
    async with runs(trio) as tasks:
        trio.want(0, 1)
        before = await trio.linked(0, 1)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        manager = trio.renew(0)
        trio.want(0, 1)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.run())
            after = await trio.linked(0, 1)
            task.cancel()
        assert (after.pid, after.restarts) == (before.pid, 0)


async def test_a_manager_that_removed_everything_says_so(trio: Trio) -> None:
    async with runs(trio):
        trio.want(0, 1)
        await trio.linked(0, 1)
    assert [(manager.state.phase, manager.state.pid) for manager in trio.managers[:2]] == [(Phase.STOPPED, 0)] * 2


# ---- the real daemon


async def test_the_daemon_has_one_capability_a_user_of_its_own_and_no_secret_in_sight(
    site: Site, tmp_path: Path
) -> None:
    (one,) = await on_a_lan(site, tmp_path, "one")
    async with running(one):
        want(one)
        pid = (await one.until(is_running)).pid
        read = await asyncio.to_thread(lambda: [Path(f"/proc/{pid}/{n}").read_text() for n in ("status", "cmdline")])
        status = dict(line.split(":\t", 1) for line in read[0].splitlines() if ":\t" in line)
        limits = await asyncio.to_thread(Path(f"/proc/{pid}/limits").read_text)
        environment = await asyncio.to_thread(Path(f"/proc/{pid}/environ").read_bytes)
        files = await asyncio.to_thread(
            lambda: {
                str(path.relative_to(tmp_path / "one")): oct(path.stat().st_mode & 0o777)
                for path in (tmp_path / "one").rglob("*")
            }
        )
    user = status["Uid"].split()[0]
    assert status["Uid"] == "\t".join([user] * 4)
    assert int(user) in range(61_184, 65_520)
    net_admin = f"{1 << 12:016x}"
    assert {name: status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Groups")} == {
        **dict.fromkeys(("CapPrm", "CapEff", "CapBnd", "CapAmb"), net_admin), "NoNewPrivs": "1", "Groups": " ",
    }  # fmt: skip
    assert "Max core file size        0                    0" in limits
    assert read[1].split("\0")[:-1] == ["yggdrasil", "-useconf"]
    assert environment.split(b"=")[0] == b"PATH"
    assert environment.count(b"\0") <= 3  # PATH, and what sh adds
    assert files.pop("daemon/admin.sock") in {"0o660", "0o600"}  # the daemon's own choice; the directory is closed
    assert files == {"daemon": "0o700", "daemon.log": "0o600", "running.json": "0o600"}


async def test_peers_come_and_go_while_the_daemon_runs(site: Site, tmp_path: Path) -> None:
    """An admission restarts nobody: those that run dial the new one."""
    one, two, three = await on_a_lan(site, tmp_path, "one", "two", "three")
    async with running(one, two, three):
        want(one, two)
        before = [(await node.linked(other)).pid for node, other in ((one, two), (two, one))]
        want(one, two, three)
        await three.linked(one, two)
        assert [node.manager.state.pid for node in (one, two)] == before
        assert "cannot dial this one yet" in one.manager.state.restart_due


async def test_a_newcomer_that_cannot_be_dialled_is_let_in_by_a_restart(site: Site, tmp_path: Path) -> None:
    one, two = await on_a_lan(site, tmp_path, "one", "two")
    host = await asyncio.to_thread(site.host, "three")
    wan = await asyncio.to_thread(site.link, one.host, host, prefixes=["10.8.0.0/24"])
    three = Node(host, tmp_path)
    one.member = msgspec.structs.replace(one.member, uris=(f"tls://{wan.end(one.host).v4}:7331",))
    async with running(one, two, three):
        want(one, two)
        await one.linked(two)
        want(one, two, three)
        await three.linked(one)


async def test_newcomers_are_let_in_without_a_turn_where_there_is_no_link_yet(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not listen, so that only a restart lets them in; one is enough for all that come at once."""
    monkeypatch.setattr(turns, "SETTLE_S", 10_000.0)
    one, two, three = await on_a_lan(site, tmp_path, "one", "two", "three")
    two, three = (Node(node.host, tmp_path) for node in (two, three))
    async with running(one, two, three):
        want(one)
        await one.until(is_running)
        want(one, two)
        want(one, two, three)
        await one.linked(two, three)
        assert one.manager.state.restarts == 1


async def test_a_killed_daemon_is_started_again_and_its_links_return(site: Site, tmp_path: Path) -> None:
    one, two = await on_a_lan(site, tmp_path, "one", "two")
    async with running(one, two), flow(two, one) as traffic:
        want(one, two)
        first = (await one.linked(two)).pid
        await traffic.flows()
        os.kill(first, signal.SIGKILL)
        state = await one.until(lambda state: is_running(state) and state.pid != first)
        assert state.restarts == 1
        await one.linked(two)
        await traffic.flows()


async def test_a_program_that_does_not_work_is_tried_again_slowly_and_the_state_says_why(
    site: Site, tmp_path: Path
) -> None:
    one = Node(await asyncio.to_thread(site.host, "one"), tmp_path, program="false")
    limits = Limits(yggdrasil_restarts=1)
    one.manager = Yggdrasil(one.place, one.key, limits)
    async with running(one):
        want(one)
        blocked = await one.until(lambda state: state.phase is Phase.BLOCKED)
        assert "cannot be started" in blocked.reason
        await one.until(lambda state: state.phase is Phase.CRASHING)


async def test_a_daemon_whose_settings_changed_is_replaced(site: Site, tmp_path: Path) -> None:
    one, two = await on_a_lan(site, tmp_path, "one", "two")
    async with running(one, two):
        want(one, two)
        before = (await one.linked(two)).pid
        for node in (one, two):
            node.manager.want(wanted(one, two, password=peer_password(SECRET, MESH, 2)))
        await one.until(lambda state: state.pid not in {0, before})
        await one.linked(two)


async def test_what_somebody_else_does_to_routes_and_addresses_is_undone(site: Site, tmp_path: Path) -> None:
    one, two = await on_a_lan(site, tmp_path, "one", "two")
    async with running(one, two):
        want(one, two)
        await one.linked(two)
        for text in (
            f"route del {two.address}/128 dev x0t0",
            "route add 300::/8 dev x0t0 proto 120",
            f"addr change {one.address}/7 dev x0t0",
        ):
            await asyncio.to_thread(one.host.ip, text)
        prefixes = (Prefix(node_address(two.key.public), 128), node_subnet(two.key.public))
        async with Links(one.host.netns) as kernel, asyncio.timeout(5):
            index = await kernel.index("x0t0")
            assert index is not None
            expected = {Route(0, RANGE), *(Route(index, prefix) for prefix in prefixes)}
            while await kernel.routes(index, METRIC) != expected or "200::/7 dev x0t0" in await routes_of(one):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # the events of the kernel are the manager's to wait for


async def routes_of(node: Node) -> str:
    """All IPv6 routes of its host, by another reader than ours."""
    return (await asyncio.to_thread(node.host.run, ["ip", "-6", "route"])).stdout


async def test_two_meshes_of_one_node_do_not_see_one_another(site: Site, tmp_path: Path) -> None:
    hub, red, blue = await asyncio.to_thread(site.hosts, "hub", "red", "blue")
    lan = await asyncio.to_thread(site.bridge, "lan", [hub, red, blue], prefixes=["10.9.0.0/24"])
    other = bytes(reversed(MESH))
    reds = [Node(host, tmp_path / "red", lan.end(host).v4) for host in (hub, red)]
    blues = [
        Node(host, tmp_path / "blue", lan.end(host).v4, mesh=other, interface="x0t1", listen=("tls://0.0.0.0:7332",))
        for host in (hub, blue)
    ]
    async with running(*reds, *blues), flow(reds[0], reds[1]) as first, flow(blues[0], blues[1]) as second:
        want(*reds)
        password = peer_password(SECRET, other, 1)
        for node in blues:
            node.manager.want(wanted(*blues, password=password))
        await reds[0].linked(reds[1])
        await blues[0].linked(blues[1])
        await first.flows()
        await second.flows()
        assert {peer.key for peer in reds[0].manager.state.peers} == {reds[1].key.public}
        assert {peer.key for peer in blues[0].manager.state.peers} == {blues[1].key.public}
        assert reds[0].manager.place.run_dir != blues[0].manager.place.run_dir
        route = await asyncio.to_thread(hub.run, ["ip", "-6", "route", "get", blues[1].address])
        assert "dev x0t1" in route.stdout
        assert f"src {blues[0].address}" in route.stdout
        stranger = await asyncio.to_thread(red.run, ["ip", "-6", "route", "get", blues[1].address], check=False)
        assert stranger.returncode != 0  # no way from one mesh into the other
