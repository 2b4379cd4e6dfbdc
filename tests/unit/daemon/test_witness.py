"""A witness answers a member about flows between the two of them, and nobody about anything else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError, error
from appliance.core.prefix import parse_address
from appliance.core.yggdrasil import node_address
from appliance.daemon.network import Network
from appliance.daemon.witness import MAX_AGE_MS, Question, Witness, ask, dropped_at, gateway_of
from appliance.netstack.finding import Receiver
from appliance.netstack.nft.verdict import Packet, Way
from appliance.policy.enforcement import Stage
from appliance.policy.evaluate import Flow
from appliance.policy.model import Protocol, Service
from appliance.transport.peers import PeerIdentity
from tests.attach_rig import attach, public
from tests.sim.policies import TO_GATE
from tests.unit.daemon.network_rig import Desk, desk, plant, policy, running
from tests.unit.replica.operations_rig import Site

GATE, ROBOT, THIRD = (node_address(public(name)) for name in ("anna", "cleo", "bert"))
BEHIND_ROBOT, BEHIND_GATE = parse_address("fd00:1::5"), parse_address("fd00:2::5")
MODBUS = 502


class Line:
    """A stream in memory: gives what it was given, keeps what is sent."""

    def __init__(self, *given: bytes, peer: bytes = b"") -> None:
        self.peer = PeerIdentity(peer, b"")
        self.sent: list[bytes] = []
        self.is_closed = False
        self._given = list(given)

    async def send(self, message: bytes) -> None:
        self.sent.append(message)

    async def receive(self) -> bytes | None:
        return self._given.pop(0) if self._given else None

    async def close(self, reason: str = "") -> None:
        self.is_closed = True

    def fail(self, failure: Exception) -> None:
        raise failure


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Three members have a place: anna the gate, cleo the robot, bert; hosts are behind the first two."""
    made = plant(tmp_path)
    made.bert.write(attach(made.mesh.id, made.bert.id, "bert"))
    made.anna.pull(made.bert)
    return made


async def ready(at: Desk, site: Site) -> None:
    """With subnets and a policy in force."""
    await at.operations.set_subnets(site.cleo.id, ["fd00:1::/64"], [])
    await at.operations.set_subnets(site.anna.id, ["fd00:2::/64"], [])
    await at.mesh.policy.apply(policy(TO_GATE))
    await at.journal.filter(lambda found: bool(found.inbound) and len(found.locals) > 1)


def question(source: bytes = ROBOT, target: bytes = GATE, protocol: int = 6, port: int = MODBUS) -> Question:
    return Question(source, target, protocol, port, 1_000)


async def answer(at: Desk, site: Site, asker: bytes, asked: Question) -> Receiver:
    line = Line(msgspec.msgpack.encode(asked))
    await Witness(at.network, lambda: site.mesh.now_ms).handle(PeerIdentity(asker, b""), line)
    (sent,) = line.sent
    return msgspec.msgpack.decode(sent, type=Receiver)


async def test_a_member_is_told_of_its_own_flow_to_this_node(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await ready(at, site)
        assert await answer(at, site, site.cleo.id, question()) == Receiver(allowed=True, listening=False)
        assert not (await answer(at, site, site.cleo.id, question(port=80))).allowed
        echo = await answer(at, site, site.cleo.id, question(protocol=58, port=0))
        assert (echo.allowed, echo.listening) == (False, None)
        assert (await answer(at, site, site.cleo.id, question(protocol=132))).listening is None


async def test_hosts_behind_the_asker_and_behind_this_node_are_theirs_to_ask_about(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await ready(at, site)
        found = await answer(at, site, site.cleo.id, question(BEHIND_ROBOT, BEHIND_GATE))
        assert found == Receiver(allowed=False, listening=None)


async def test_nobody_is_told_of_flows_of_others_or_to_others(site: Site) -> None:
    stranger = parse_address("200::bad")
    asks = [
        (site.bert.id, question()),  # of another member
        (site.cleo.id, question(source=stranger)),
        (site.cleo.id, question(source=BEHIND_GATE)),  # of a host behind somebody else
        (site.cleo.id, question(target=THIRD)),  # to another node
        (site.cleo.id, question(target=ROBOT)),
        (site.cleo.id, question(target=stranger)),
        (site.dora.id, question()),  # by who has no place at all
        (site.dora.id, question(source=stranger)),
    ]
    async with desk(site) as at, running(at.network):
        await ready(at, site)
        for asker, asked in asks:
            with pytest.raises(X0tError) as refused:
                await answer(at, site, asker, asked)
            assert refused.value.key == "witness.question"


_GOOD = {"source": ROBOT, "target": GATE, "protocol": 6, "port": MODBUS, "age_ms": 0}


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([]),
        *(
            msgspec.msgpack.encode(_GOOD | change)
            for change in (
                {"age_ms": MAX_AGE_MS + 1},
                {"age_ms": -1},
                {"source": ROBOT[:4]},
                {"target": GATE + b"\0"},
                {"protocol": 256},
                {"port": 65_536},
                {"port": "502"},
                {"more": 1},
            )
        ),
    ],
)
async def test_a_malformed_question_is_refused(site: Site, asked: bytes) -> None:
    async with desk(site) as at:
        line = Line(asked)
        with pytest.raises(X0tError) as refused:
            await Witness(at.network, lambda: 0).handle(PeerIdentity(site.cleo.id, b""), line)
        assert (refused.value.key, line.sent) == ("witness.question", [])


async def test_who_asks_nothing_gets_no_answer(site: Site) -> None:
    async with desk(site) as at:
        line = Line()
        await Witness(at.network, lambda: 0).handle(PeerIdentity(site.cleo.id, b""), line)
        assert line.sent == []


async def test_a_drop_counts_only_from_the_moment_of_the_probe_on(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await ready(at, site)
        at.firewall.now_ms = lambda: site.mesh.now_ms - 1_000  # as long ago as the question says
        packet = Packet(way=Way.FROM_MESH, source=ROBOT, target=GATE, protocol=6, port=80)
        assert at.firewall.carry(packet) is Stage.INBOUND
        assert (await answer(at, site, site.cleo.id, question(port=80))).dropped is Stage.INBOUND
        assert (await answer(at, site, site.cleo.id, question(port=81))).dropped is None
        later = msgspec.structs.replace(question(port=80), age_ms=999)
        assert (await answer(at, site, site.cleo.id, later)).dropped is None
        assert _dropped(at.network, site.mesh.now_ms) is None


def _dropped(network: Network, since_ms: int) -> Stage | None:
    return dropped_at(network, Flow(source=ROBOT, target=GATE, protocol=6, port=80), since_ms)


@pytest.fixture
def awaited() -> Iterator[int]:
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        sock.listen()
        port: int = sock.getsockname()[1]
        yield port


async def test_a_socket_that_waits_is_seen_by_whom_the_policy_lets_reach_it_alone(site: Site, awaited: int) -> None:
    async with desk(site) as at, running(at.network):
        await ready(at, site)
        assert await answer(at, site, site.cleo.id, question(port=awaited)) == Receiver(allowed=False, listening=None)
        opened = msgspec.structs.replace(TO_GATE, services=(Service(Protocol.TCP, awaited, awaited),))
        await at.mesh.policy.apply(policy(opened))
        await at.journal.filter(lambda found: any(awaited in served for served in found.services))
        assert await answer(at, site, site.cleo.id, question(port=awaited)) == Receiver(allowed=True, listening=True)
        open_echo = msgspec.structs.replace(TO_GATE, services=(Service(Protocol.ICMPV6),))
        await at.mesh.policy.apply(policy(open_echo))
        await at.journal.filter(lambda found: any(served.protocol_first == 58 for served in found.services))
        echo = question(protocol=58, port=0)
        assert await answer(at, site, site.cleo.id, echo) == Receiver(allowed=True, listening=True)


async def test_who_is_asked_about_an_address_is_its_node_or_its_gateway(site: Site) -> None:
    async with desk(site) as at, running(at.network):
        await ready(at, site)
        directory = at.network.roster.directory
        assert [gateway_of(address, directory) for address in (ROBOT, BEHIND_ROBOT, parse_address("::1"))] == [
            site.cleo.id,
            site.cleo.id,
            None,
        ]


# -- asking


FLOW = Flow(source=ROBOT, target=GATE, protocol=6, port=MODBUS)
SAID = Receiver(allowed=True, dropped=Stage.STATE, listening=False)


@pytest.mark.parametrize("age_ms, told_ms", [(-5, 0), (0, 0), (250, 250), (MAX_AGE_MS * 2, MAX_AGE_MS)])
async def test_a_question_says_how_long_ago_the_probe_was_within_its_bounds(age_ms: int, told_ms: int) -> None:
    line = Line(msgspec.msgpack.encode(SAID))

    async def dial() -> Line:
        return line

    assert await ask(FLOW, age_ms, dial) == SAID
    assert msgspec.msgpack.decode(line.sent[0], type=Question) == Question(ROBOT, GATE, 6, MODBUS, told_ms)
    assert line.is_closed


@pytest.mark.parametrize("given", [(), (b"",), (msgspec.msgpack.encode({"allowed": 3}),)])
async def test_a_node_that_says_nothing_sensible_is_as_one_that_cannot_be_asked(given: tuple[bytes, ...]) -> None:
    line = Line(*given)

    async def dial() -> Line:
        return line

    async def refused() -> Line:
        raise error("witness.question", reason="the test says so")

    assert await ask(FLOW, 0, dial) is None
    assert await ask(FLOW, 0, refused) is None
    assert line.is_closed
