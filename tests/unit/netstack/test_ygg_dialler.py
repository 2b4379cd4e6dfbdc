"""Who dials whom, and which link is given up, against a daemon that only keeps a list."""

from __future__ import annotations

import msgspec
import pytest

from appliance.netstack.yggdrasil.admin import Admin, Peer, Session
from appliance.netstack.yggdrasil.config import peer_uri
from appliance.netstack.yggdrasil.dialler import Dialler
from appliance.netstack.yggdrasil.peers import Choice
from appliance.netstack.yggdrasil.pulse import SILENT_S, Pulse
from appliance.netstack.yggdrasil.records import Candidate, Wanted


def member(number: int) -> Candidate:
    """The lower the number, the earlier in the order of all."""
    return Candidate(key=bytes([number]) * 32, uris=(f"tls://h{number}:1",), since_s=float(number))


EARLY, OWN, LATE, SILENT = member(1), member(2), member(3), Candidate(key=bytes([9]) * 32, since_s=9.0)
ALL = Wanted(members=(EARLY, OWN, LATE, SILENT), password="pw")


def link(other: Candidate, *, inbound: bool = False, up: bool = True, received: int = 0) -> Peer:
    remote = "tls://h9:40000" if inbound else other.uris[0]
    return Peer(remote=remote, up=up, inbound=inbound, key=other.key.hex() if up else "", bytes_recvd=received)


class List(Admin):
    """A daemon that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.open: tuple[Session, ...] = ()

    async def add_peer(self, uri: str) -> bool:
        self.told.append(f"add {uri}")
        return True

    async def remove_peer(self, uri: str) -> bool:
        self.told.append(f"remove {uri}")
        return True

    async def nudge(self, key: bytes) -> None:
        self.told.append(f"nudge {key[0]}")

    async def sessions(self) -> tuple[Session, ...]:
        return self.open


def chosen(dialler: Dialler, peers: list[Peer], now_s: float, barred: frozenset[bytes] = frozenset()) -> set[str]:
    return set(dialler.choose(OWN, ALL, peers, barred, now_s))


def test_the_later_of_two_dials_and_the_earlier_waits_two_seconds_for_it() -> None:
    dialler = Dialler(Choice(count=2))
    assert chosen(dialler, [], 10.0) == {"tls://h1:1"}
    assert chosen(dialler, [], 10.5) == {"tls://h1:1"}
    assert chosen(dialler, [], 12.5) == {"tls://h1:1", "tls://h3:1"}


def test_a_link_that_the_other_opened_is_enough() -> None:
    dialler = Dialler(Choice(count=2))
    for now_s in (10.0, 20.0):
        assert chosen(dialler, [link(LATE, inbound=True)], now_s) == {"tls://h1:1"}


def test_of_two_links_to_a_later_member_ours_is_given_up() -> None:
    dialler = Dialler(Choice(count=2))
    assert chosen(dialler, [link(LATE), link(LATE, inbound=True)], 10.0) == {"tls://h1:1"}


def test_a_link_of_ours_to_a_later_member_is_kept() -> None:
    dialler = Dialler(Choice(count=2))
    assert chosen(dialler, [link(LATE)], 10.0) == {"tls://h1:1", "tls://h3:1"}


def test_newcomers_that_cannot_dial_us_are_dialled_at_once() -> None:
    dialler = Dialler(Choice(count=1))
    assert chosen(dialler, [], 10.0, frozenset((LATE.key, SILENT.key))) == {"tls://h1:1", "tls://h3:1"}


def test_an_adopted_daemon_keeps_its_peers() -> None:
    dialler = Dialler(Choice(count=1))
    assert chosen(dialler, [link(LATE)], 10.0) <= {"tls://h1:1", "tls://h3:1"}
    assert len(dialler.chosen) == 1


async def test_the_daemon_is_told_what_differs_and_no_more() -> None:
    daemon, stranger = List(), Candidate(key=bytes([7]) * 32, uris=("tls://h7:1",))
    peers = [
        link(EARLY),
        link(stranger),
        link(SILENT, inbound=True),
        Peer(remote="tls://old:1"),
        Peer(remote="tls://[fe80::1%25eth1]:5", up=True, key=LATE.key.hex()),
        Peer(remote="tls://[fe80::2%25eth1]:5", up=True, key=stranger.key.hex()),
    ]
    dialled = {EARLY.uris[0]: EARLY.key, LATE.uris[0]: LATE.key}
    await Dialler(Choice()).dial(daemon, dialled, ALL, peers, 10.0)
    assert daemon.told == [
        "remove tls://h7:1",
        "remove tls://old:1",
        "remove tls://[fe80::2%25eth1]:5",
        f"add {peer_uri(LATE.uris[0], LATE.key, 'pw')}",
    ]


async def test_links_that_matter_and_sessions_that_hang_are_asked() -> None:
    daemon = List()
    daemon.open = (Session(key="05" * 32), Session(key="06" * 32, bytes_recvd=1))
    peers = [link(EARLY, inbound=True), link(LATE), link(SILENT, inbound=True), link(OWN, up=False)]
    await Pulse().beat(daemon, peers, {EARLY.key}, 10.0)
    assert sorted(daemon.told) == ["nudge 1", "nudge 3", "nudge 5"]


@pytest.mark.parametrize(
    "change, given_up_at_s",
    [
        pytest.param({}, 2.5, id="a link of ours, after two seconds"),
        pytest.param({"latency": 500_000_000}, 4.5, id="and four round trips"),
        pytest.param({"inbound": True}, None, id="never one that the other end opened"),
    ],
)
def test_a_link_that_says_nothing_is_given_up(change: dict[str, object], given_up_at_s: float | None) -> None:
    pulse, peer = Pulse(), msgspec.structs.replace(link(LATE), **change)
    silent = [n / 2 for n in range(20) if pulse.silent([peer], n / 2)]
    assert silent[:1] == ([] if given_up_at_s is None else [given_up_at_s])


def test_a_link_that_says_anything_is_kept() -> None:
    pulse = Pulse()
    assert not any(pulse.silent([link(LATE, received=n // 3)], n / 2) for n in range(40))


def test_a_stall_of_ours_is_no_silence_of_theirs() -> None:
    pulse = Pulse()
    assert not pulse.silent([link(LATE)], 0.0)
    assert not pulse.silent([link(LATE)], 10 * SILENT_S)
