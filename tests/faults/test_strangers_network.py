"""Ways into the mesh without membership, each with a real Yggdrasil that is the stranger's own. All are refused.

Refused means: it has no link to a member, no member shows it as a peer, and neither a datagram nor a connection from it
gets an answer, though it routes the whole range of Yggdrasil into its own tunnel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address
from appliance.lab.host import Host
from appliance.lab.site import Site
from appliance.netstack.yggdrasil.admin import Admin, Peer
from appliance.netstack.yggdrasil.config import Config, peer_password, to_json
from appliance.netstack.yggdrasil.key import YggdrasilKey, generate_key
from appliance.netstack.yggdrasil.records import Candidate, Wanted
from tests.yggdrasil_rig import MESH, SECRET, Flow, Node, flow, links, running, want, wanted

NOW, BEFORE = peer_password(SECRET, MESH, 1), peer_password(SECRET, MESH, 0)
EVICT_S = 2.0
SILENCE_S = 0.6  # of a flow that would answer within 10 ms
BEACONS_S = 4.0  # the first beacons of discovery come after 1, 2 and 3 s


@pytest.fixture
def site(root: None) -> Iterator[Site]:
    with Site() as made:
        yield made


class Stranger:
    """A Yggdrasil that nobody manages, on a host of its own in the members' LAN."""

    def __init__(self, host: Host, folder: Path, key: YggdrasilKey | None = None) -> None:
        self.host = host
        self.key = key or generate_key()
        self._folder = folder / host.name
        self.admin = Admin(self._folder / "admin.sock")

    @contextlib.asynccontextmanager
    async def runs(
        self,
        *peers: str,
        password: str = "",
        discovery: bool = False,
        listen: tuple[str, ...] = (),
    ) -> AsyncIterator[None]:
        """It runs with these peers, and lets in everybody who has its password."""
        config = Config(
            key=self.key.secret_text(),
            password=password,
            interface="tun0",
            mtu=32_000,
            admin_socket=str(self._folder / "admin.sock"),
            listen=listen,
            discovery=("lan",) if discovery else (),
            allowed=frozenset(),
            peers=peers,
        )
        text = to_json(config).replace(
            b'"AllowedPublicKeys":["%b"]' % self.key.public.hex().encode(), b'"AllowedPublicKeys":[]'
        )
        file = self._folder / "conf"
        await asyncio.to_thread(self._folder.mkdir, exist_ok=True)
        await asyncio.to_thread(file.write_bytes, text)
        program = await asyncio.to_thread(self.host.start, ["yggdrasil", "-useconffile", file])
        try:
            await self.until(lambda peers: True)
            yield
        finally:
            await asyncio.to_thread(program.stop)

    async def until(self, holds: Callable[[tuple[Peer, ...]], bool], timeout_s: float = 10.0) -> tuple[Peer, ...]:
        """Wait until its peers are so; its socket has no events to wait for."""
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(X0tError):
                    if holds(peers := await self.admin.peers()):
                        return peers
                await asyncio.sleep(0.05)

    async def tried_in_vain(self) -> None:
        """Wait until each of its peers was dialled, and refused."""
        await self.until(lambda peers: bool(peers) and all(peer.last_error for peer in peers))


def is_linked(peer: Peer) -> bool:
    """True if the two agreed; while they shake hands the daemon calls a link up that is nobody's yet."""
    return peer.up and peer.key != ""


async def check_refused(stranger: Stranger, *members: Node) -> None:
    """It has no link, and nothing of it gets anywhere."""
    await stranger.until(lambda peers: not any(map(is_linked, peers)))  # it may believe so until the member hangs up
    own = address_text(node_address(stranger.key.public))
    for member in members:
        assert stranger.key.public not in links(member.manager.state)
        assert stranger.key.public not in {peer.public_key for peer in await member.manager.admin.peers()}
        back = await asyncio.to_thread(member.host.run, ["ip", "-6", "route", "get", own], check=False)
        assert back.returncode != 0
    silent = [is_silent(stranger, member) for member in members]
    closed = [is_closed(stranger, member) for member in members]
    assert all(await asyncio.gather(*silent, *closed))


async def is_silent(stranger: Stranger, member: Node) -> bool:
    """True if no datagram is answered."""
    async with Flow(stranger.host, member.host, member.address) as sent:
        return await sent.is_silent(SILENCE_S)


async def is_closed(stranger: Stranger, member: Node) -> bool:
    """True if no connection comes about."""
    with (
        contextlib.closing(member.host.socket(socket.AF_INET6, socket.SOCK_STREAM)) as listener,
        contextlib.closing(stranger.host.socket(socket.AF_INET6, socket.SOCK_STREAM)) as connection,
    ):
        listener.bind(("::", 0))
        listener.listen()
        connection.setblocking(False)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await asyncio.get_running_loop().sock_connect(connection, (member.address, listener.getsockname()[1]))
                return False
    return True


async def scene(site: Site, folder: Path, **place: tuple[str, ...]) -> tuple[Node, Node, Stranger]:
    """Two members that talk, and a stranger in their LAN."""
    hosts = await asyncio.to_thread(site.hosts, "one", "two", "stranger")
    lan = await asyncio.to_thread(site.bridge, "lan", hosts, prefixes=["10.9.0.0/24"])
    one, two = (Node(host, folder, lan.end(host).v4, relay=False, **place) for host in hosts[:2])
    return one, two, Stranger(hosts[2], folder)


def at(member: Node, password: str = "", scheme: str = "tls", port: int = 7331) -> str:
    """A member's address, with the password that somebody chooses."""
    host = member.member.uris[0].partition("://")[2].rpartition(":")[0]
    return f"{scheme}://{host}:{port}" + (f"?password={password}" if password else "")


@contextlib.asynccontextmanager
async def talking(one: Node, two: Node) -> AsyncIterator[None]:
    """The two are linked and a flow between them arrives, before and after."""
    async with running(one, two), flow(one, two) as traffic:
        want(one, two)
        await one.linked(two)
        await traffic.flows()
        yield
        await traffic.flows()


def also(members: Wanted, guest: Candidate) -> Wanted:
    """One member more."""
    return msgspec.structs.replace(members, members=(*members.members, guest))


# ---- dialling a member


@pytest.mark.parametrize(
    "password",
    [
        pytest.param("", id="1 no password"),
        pytest.param("guess", id="2 a wrong password"),
        pytest.param(BEFORE, id="3 the password of an earlier epoch"),
        pytest.param(NOW, id="4 the right password and a key that nobody admitted"),
    ],
)
async def test_a_stranger_dials_a_member_with(site: Site, tmp_path: Path, password: str) -> None:
    one, two, stranger = await scene(site, tmp_path)
    async with talking(one, two), stranger.runs(at(one, password), at(two, password)):
        await stranger.tried_in_vain()
        await check_refused(stranger, one, two)


@pytest.mark.parametrize("scheme", ["tcp", "quic", "ws"])
async def test_5_a_stranger_dials_a_member_over_another_carrier(site: Site, tmp_path: Path, scheme: str) -> None:
    listen = ("tls://0.0.0.0:7331", "quic://0.0.0.0:7332")
    one, two, stranger = await scene(site, tmp_path, listen=listen)
    port = 7332 if scheme == "quic" else 7331
    async with talking(one, two), stranger.runs(at(one, NOW, scheme, port)):
        await stranger.until(lambda peers: bool(peers) and all(peer.last_error for peer in peers), 20)
        await check_refused(stranger, one, two)


async def test_6_a_member_of_another_mesh_on_the_same_node_dials_with_the_password_of_either(
    site: Site, tmp_path: Path
) -> None:
    one, two, stranger = await scene(site, tmp_path / "red")
    other = bytes(reversed(MESH))
    blue = Node(one.host, tmp_path / "blue", "10.9.0.1", mesh=other, interface="x0t1", listen=("tls://0.0.0.0:7332",))
    members = wanted(blue, password=peer_password(SECRET, other, 1))
    guest = Candidate(key=stranger.key.public, uris=("tls://10.9.0.3:7331",))
    async with talking(one, two), running(blue):
        blue.manager.want(also(members, guest))
        await blue.until(lambda state: state.pid != 0)
        async with stranger.runs(at(blue, members.password, port=7332), at(one, members.password)):
            await stranger.until(
                lambda peers: {is_linked(peer) for peer in peers} == {True, False} and any(p.last_error for p in peers)
            )
            assert stranger.key.public not in links(one.manager.state)
            async with Flow(stranger.host, two.host, two.address) as sent:
                assert await sent.is_silent(SILENCE_S)
        async with stranger.runs(at(one, NOW), at(two, NOW)):
            await stranger.tried_in_vain()
            assert stranger.key.public not in links(one.manager.state)
            await check_refused(stranger, two)


# ---- being dialled


async def test_7_an_impostor_answers_at_a_members_address(site: Site, tmp_path: Path) -> None:
    """It has the password; the member that dials expects another key."""
    one, two, stranger = await scene(site, tmp_path)
    victim = Candidate(key=generate_key().public, uris=("tls://10.9.0.3:7331",), relay=True)
    async with talking(one, two), stranger.runs(password=NOW, listen=("tls://0.0.0.0:7331",)):
        for node in (one, two):
            members = wanted(one, two)
            node.manager.want(also(members, victim))
        await one.until(lambda state: any(peer.uri == victim.uris[0] and peer.note for peer in state.peers))
        await check_refused(stranger, one, two)


# ---- discovery in the LAN


@pytest.mark.parametrize(
    "password",
    [
        pytest.param("", id="8 no password"),
        pytest.param("guess", id="9 a wrong password"),
        pytest.param(BEFORE, id="10 the password of an earlier epoch"),
    ],
)
async def test_a_stranger_is_found_by_discovery_with(site: Site, tmp_path: Path, password: str) -> None:
    one, two, stranger = await scene(site, tmp_path, discovery=("lan",))
    async with talking(one, two), stranger.runs(password=password, discovery=True):
        with contextlib.suppress(TimeoutError):
            await stranger.until(lambda peers: any(map(is_linked, peers)), BEACONS_S)
        await check_refused(stranger, one, two)


# ---- who was a member


async def test_11_an_evicted_member_loses_its_links_within_2_seconds_and_dials_again(
    site: Site, tmp_path: Path
) -> None:
    one, two, stranger = await scene(site, tmp_path)
    guest = Candidate(key=stranger.key.public, uris=())
    async with talking(one, two):
        members = wanted(one, two)
        for node in (one, two):
            node.manager.want(also(members, guest))
        async with stranger.runs(at(one, NOW), at(two, NOW)):
            await stranger.until(lambda peers: all(map(is_linked, peers)), 30)
            begun_s = asyncio.get_running_loop().time()
            want(one, two)
            await stranger.until(lambda peers: not any(map(is_linked, peers)), EVICT_S)
            assert asyncio.get_running_loop().time() - begun_s < EVICT_S
            await stranger.tried_in_vain()
            for node, other in ((one, two), (two, one)):
                await node.linked(other)
            await check_refused(stranger, one, two)


async def test_12_an_evicted_member_that_knows_the_password_is_found_by_discovery(site: Site, tmp_path: Path) -> None:
    """The daemon asks those that it finds by discovery for the password only: discovery is closed until it changes."""
    one, two, stranger = await scene(site, tmp_path, discovery=("lan",))
    guest = Candidate(key=stranger.key.public, uris=())
    async with talking(one, two):
        members = wanted(one, two)
        for node in (one, two):
            node.manager.want(also(members, guest))
        async with stranger.runs(password=NOW, discovery=True):
            await stranger.until(lambda peers: sum(map(is_linked, peers)) >= 2, 30)
            want(one, two)
            await stranger.until(lambda peers: not any(map(is_linked, peers)), EVICT_S)
            for node in (one, two):
                await node.until(lambda state: not state.discovery)
            with pytest.raises(TimeoutError):
                await stranger.until(lambda peers: any(map(is_linked, peers)), BEACONS_S)
            await one.linked(two)
            await check_refused(stranger, one, two)


async def test_13_a_thief_of_the_password_is_found_by_discovery(site: Site, tmp_path: Path) -> None:
    """Nobody ever admitted its key. Its link is seen and cut, and discovery closed: the one way not shut before."""
    one, two, stranger = await scene(site, tmp_path, discovery=("lan",))
    async with talking(one, two), stranger.runs(password=NOW, discovery=True):
        await one.until(lambda state: not state.discovery and state.pid != 0)
        await two.until(lambda state: not state.discovery and state.pid != 0)
        await stranger.until(lambda peers: not any(map(is_linked, peers)))
        await one.linked(two)
        await check_refused(stranger, one, two)


async def test_the_same_daemon_is_let_in_once_it_is_a_member(site: Site, tmp_path: Path) -> None:
    """What makes the refusals above mean something."""
    one, two, stranger = await scene(site, tmp_path)
    guest = Candidate(key=stranger.key.public, uris=())
    async with talking(one, two):
        members = wanted(one, two)
        for node in (one, two):
            node.manager.want(also(members, guest))
        async with stranger.runs(at(one, NOW)), Flow(stranger.host, two.host, two.address) as sent:
            await stranger.until(lambda peers: any(map(is_linked, peers)), 30)
            await sent.flows()
