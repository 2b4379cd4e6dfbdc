"""Each check of the network fails for its own reason, and alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.daemon.checks import Snapshot, checks
from appliance.daemon.network import State
from appliance.netstack.yggdrasil import records as yggdrasil
from appliance.policy.enforcement import Difference
from appliance.policy.revisions import Blocked, Course, Revision, Standing
from appliance.policy.roster import Code, RosterIssue


def peer(number: int, *, up: bool = True, note: str = "") -> yggdrasil.PeerState:
    return yggdrasil.PeerState(key=bytes([number]) * 32, uri=f"tls://h{number}:1", inbound=False, up=up, note=note)


REVISION = Revision(change=bytes(32), author=bytes(32), hlc=0, batch=bytes(32), standing=Standing.FAILED)
BLOCKED = Blocked(revision=REVISION, reason="2 tests fail", edits=())
ISSUE = RosterIssue(Code.SHARED, (bytes(32),), "fd00::/64 is behind 2 gateways")
RUNNING = yggdrasil.State(phase=yggdrasil.Phase.RUNNING, peers=(peer(1), peer(2)))
SOUND = Snapshot(
    state=State(is_prepared=True),
    yggdrasil=RUNNING,
    course=Course(),
    differences=(),
    is_member=True,
    has_secret=True,
    others=2,
)
ROWS: list[tuple[str, str, dict[str, Any], str]] = [
    ("membership", "network.not_member", {"is_member": False}, ""),
    ("secret", "network.no_secret", {"has_secret": False}, ""),
    ("table", "firewall.unprepared", {"state": State()}, ""),
    ("enforcement", "firewall.stale", {"state": State(is_prepared=True, blocked="no memory")}, "no memory"),
    (
        "readback",
        "firewall.differs",
        {"differences": [Difference("set peers", "3", "2")]},
        "set peers: wanted 3, found 2",
    ),
    ("conversations", "firewall.lingering", {"state": State(is_prepared=True, owed="no memory")}, "no memory"),
    ("policy", "policy.blocked", {"course": Course(blocked=BLOCKED)}, "2 tests fail"),
    (
        "yggdrasil",
        "yggdrasil.down",
        {"yggdrasil": msgspec.structs.replace(RUNNING, phase=yggdrasil.Phase.BLOCKED, reason="no program")},
        "blocked: no program",
    ),
    (
        "tampering",
        "firewall.disturbed",
        {"state": State(is_prepared=True, repairs=2, disturbed_by="nft (4711)")},
        "2 times, last by nft (4711)",
    ),
    ("roster", "roster.issues", {"state": State(is_prepared=True, issues=(ISSUE,))}, ISSUE.sentence),
    (
        "redundancy",
        "yggdrasil.single",
        {"yggdrasil": msgspec.structs.replace(RUNNING, peers=(peer(1), peer(2, up=False)))},
        "1 link, 2 other members",
    ),
]


def failed(seen: Snapshot) -> list[tuple[str, str, str]]:
    return [(found.check, found.code, found.evidence) for found in checks(seen) if not found.ok]


def test_a_sound_node_passes_every_check_and_is_told_no_fix() -> None:
    found = checks(SOUND)
    assert len({each.check for each in found}) == len(found)
    assert all(each.ok and not each.code and not each.fix and each.sentence for each in found)


@pytest.mark.parametrize("check, code, changes, evidence", [pytest.param(*row, id=row[0]) for row in ROWS])
def test_a_fault_fails_its_own_check_with_evidence_and_a_fix(
    check: str, code: str, changes: dict[str, Any], evidence: str
) -> None:
    seen = msgspec.structs.replace(SOUND, **changes)
    assert failed(seen) == [(check, code, evidence)]
    assert all(each.fix for each in checks(seen) if not each.ok)


def test_every_check_but_that_of_any_link_can_fail_alone() -> None:
    assert {row[0] for row in ROWS} | {"peers"} == {each.check for each in checks(SOUND)}


@pytest.mark.parametrize(
    "others, links, expected",
    [(0, 0, []), (1, 1, []), (2, 2, []), (1, 0, ["peers"]), (2, 1, ["redundancy"]), (3, 0, ["peers", "redundancy"])],
)
def test_links_are_missed_only_where_there_is_somebody_to_have_them_with(
    others: int, links: int, expected: list[str]
) -> None:
    state = msgspec.structs.replace(RUNNING, peers=tuple(peer(number) for number in range(links)))
    seen = msgspec.structs.replace(SOUND, others=others, yggdrasil=state)
    assert [check for check, _, _ in failed(seen)] == expected


def test_what_a_peer_says_of_a_link_is_shown_and_bounded() -> None:
    peers = tuple(peer(number, up=False, note="x" * 100) for number in range(5))
    seen = msgspec.structs.replace(SOUND, others=1, yggdrasil=msgspec.structs.replace(RUNNING, peers=peers))
    ((_, _, evidence),) = failed(seen)
    assert evidence.startswith("tls://h0:1: xxx")
    assert len(evidence) <= 256
