"""Checks of the mesh network: from what is known to findings, each with the issue behind it and the command that helps.

A table: a check is a row, and reads one snapshot. Pure; nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from appliance.core.network_records import Check
from appliance.daemon.network import State
from appliance.netstack.yggdrasil import records as yggdrasil
from appliance.policy.enforcement import Difference
from appliance.policy.revisions import Course


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that the checks look at, as of one moment."""

    state: State
    yggdrasil: yggdrasil.State
    course: Course
    differences: Sequence[Difference]
    is_member: bool
    has_secret: bool
    others: int  # members besides this node


class _Row(NamedTuple):
    check: str
    code: str
    holds: Callable[[Snapshot], bool]
    good: str
    bad: str
    evidence: Callable[[Snapshot], str]
    fix: str


def _links(seen: Snapshot) -> int:
    return sum(peer.up and bool(peer.key) for peer in seen.yggdrasil.peers)


_ROWS = (
    _Row(
        "membership",
        "network.not_member",
        lambda seen: seen.is_member,
        "this node is a member with a place in the network",
        "this node has no place in the network, so nothing may pass",
        lambda seen: "; ".join(issue.sentence for issue in seen.state.issues),
        "x0t role grant --key FILE member, on a node that may",
    ),
    _Row(
        "secret",
        "network.no_secret",
        lambda seen: seen.has_secret,
        "the mesh has a secret for its peers",
        "the mesh has no secret yet, so Yggdrasil is not started",
        lambda _seen: "",
        "x0t mesh rotate-secret, on a node of an admin",
    ),
    _Row(
        "table",
        "firewall.unprepared",
        lambda seen: seen.state.is_prepared,
        "the table that denies is in the kernel",
        "the kernel has no table of ours",
        lambda seen: seen.state.blocked,
        "start x0td as root or with CAP_NET_ADMIN",
    ),
    _Row(
        "enforcement",
        "firewall.stale",
        lambda seen: not seen.state.blocked,
        "the kernel enforces the policy in force",
        "the kernel enforces an older state than the mesh has",
        lambda seen: seen.state.blocked,
        "x0t policy show; it is tried again by itself",
    ),
    _Row(
        "readback",
        "firewall.differs",
        lambda seen: not seen.differences,
        "what the kernel holds is what was applied",
        "the kernel holds something else than was applied",
        lambda seen: "; ".join(
            f"{each.what}: wanted {each.wanted}, found {each.found}" for each in seen.differences[:3]
        ),
        "nothing: it is repaired within a second; find out who changes the table x0t-*",
    ),
    _Row(
        "conversations",
        "firewall.lingering",
        lambda seen: not seen.state.owed,
        "conversations that nothing allows any more are ended",
        "conversations that nothing allows any more could not be ended, and are listed still",
        lambda seen: seen.state.owed,
        "nothing: none of their packets passes, and it is tried again by itself",
    ),
    _Row(
        "tampering",
        "firewall.disturbed",
        lambda seen: not seen.state.repairs,
        "nobody else changed our table",
        "somebody else changed our table, and it was repaired",
        lambda seen: f"{seen.state.repairs} times, last by {seen.state.disturbed_by or 'an unknown program'}",
        "keep other software from flushing all tables (`nft flush ruleset`); a restart of x0td clears this",
    ),
    _Row(
        "policy",
        "policy.blocked",
        lambda seen: seen.course.blocked is None,
        "the newest revision of the policy is in force",
        "a newer revision of the policy is not in force",
        lambda seen: seen.course.blocked.reason if seen.course.blocked else "",
        "x0t policy history; x0t policy edit",
    ),
    _Row(
        "yggdrasil",
        "yggdrasil.down",
        lambda seen: seen.yggdrasil.phase is yggdrasil.Phase.RUNNING,
        "Yggdrasil runs",
        "Yggdrasil does not run",
        lambda seen: f"{seen.yggdrasil.phase}: {seen.yggdrasil.reason}",
        "x0t net show; install yggdrasil 0.5.12 or newer",
    ),
    _Row(
        "peers",
        "yggdrasil.alone",
        lambda seen: not seen.others or _links(seen) > 0,
        "this node has links to others",
        "this node has no link to any other member",
        lambda seen: "; ".join(f"{peer.uri}: {peer.note}" for peer in seen.yggdrasil.peers if peer.note)[:256],
        "x0t net peers; set network.announce on a node that others can reach",
    ),
    _Row(
        "redundancy",
        "yggdrasil.single",
        lambda seen: seen.others < 2 or _links(seen) > 1,  # with one other there can be no second
        "no single peer's loss cuts this node off from a third",
        "one lost peer cuts this node off",
        lambda seen: f"{_links(seen)} link, {seen.others} other members",
        "set network.announce, or network.relay on a second gateway",
    ),
    _Row(
        "roster",
        "roster.issues",
        lambda seen: not seen.state.issues,
        "addresses and subnets of the mesh are plain",
        "addresses or subnets of the mesh are not plain",
        lambda seen: "; ".join(issue.sentence for issue in seen.state.issues[:3]),
        "x0t node list; x0t node subnet",
    ),
)


def checks(seen: Snapshot) -> tuple[Check, ...]:
    """Every check, in the order in which one depends on another."""
    return tuple(_checked(row, row.holds(seen), seen) for row in _ROWS)


def _checked(row: _Row, ok: bool, seen: Snapshot) -> Check:  # noqa: FBT001 - the outcome
    return Check(
        check=row.check,
        ok=ok,
        code="" if ok else row.code,
        sentence=row.good if ok else row.bad,
        evidence="" if ok else row.evidence(seen),
        fix="" if ok else row.fix,
    )
