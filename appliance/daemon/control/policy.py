"""Routes of the policy: what is in force, edits that are judged first, and why a flow is allowed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiohttp import web

from appliance.core import network_records as records
from appliance.core.clock import hlc_ms
from appliance.core.ids import BatchHash, NodeId
from appliance.daemon.control.reply import read, reply
from appliance.daemon.mesh import FollowedMesh
from appliance.daemon.naming import find_flow
from appliance.daemon.node import Node, moment
from appliance.policy.compile import compile_filter
from appliance.policy.diff import diff
from appliance.policy.directory import Directory
from appliance.policy.explain import Because, explain
from appliance.policy.model import Policy, RuleId
from appliance.policy.parse import parse
from appliance.policy.preview import Comparison, State
from appliance.policy.preview_rows import rows
from appliance.policy.revisions import Blocked
from appliance.policy.service import Snapshot, Written, found_text, provenance
from appliance.policy.tailscale import Mapping, mapping_template, read_mapping, survey
from appliance.policy.trial import Failure
from appliance.policy.wording import expectation_text, node_name, rule_text
from appliance.policy.write import write

CONFIRM_S = 60  # for a change that cuts this node off, where the author names no time
NO_REVISION = "none"
HISTORY = 200  # revisions of one answer


class PolicyRoutes:
    """/v1/policy."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def _mesh(self) -> FollowedMesh:
        return self._node.mesh

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """The policy in force, as text and in numbers."""
        return reply(await self._state())

    async def tests(self, request: web.Request) -> web.StreamResponse:
        """Judge a policy by its own tests."""
        ask = await read(request, records.PolicyAsk)
        directory = await self._mesh.policy.directory()
        parsed = await asyncio.to_thread(parse, ask.text, directory)
        failures = await asyncio.to_thread(self._mesh.policy.judge, parsed.policy)
        return reply(
            records.PolicyTried(
                rules=len(parsed.policy.rules),
                tests=len(parsed.policy.tests),
                warnings=tuple(map(str, parsed.warnings)),
                failures=_failures(failures, parsed.policy, directory),
            )
        )

    async def preview(self, request: web.Request) -> web.StreamResponse:
        """What would change if a policy were applied."""
        ask = await read(request, records.PolicyAsk)
        now = await self._mesh.policy.snapshot()
        parsed = await asyncio.to_thread(parse, ask.text, now.roster.directory)
        warnings = tuple(map(str, parsed.warnings))
        return reply(await asyncio.to_thread(self._preview, now, parsed.policy, warnings))

    async def apply(self, request: web.Request) -> web.StreamResponse:
        """Put a policy in force."""
        ask = await read(request, records.PolicyAsk)
        now = await self._mesh.policy.snapshot()
        parsed = await asyncio.to_thread(parse, ask.text, now.roster.directory)
        if_head = await self._head(ask.if_revision)
        done = await self._change(now, parsed.policy, if_head, ask.confirm_s)
        return reply(self._done(*done, tuple(map(str, parsed.warnings))), 201, "/v1/policy")

    async def revision(self, request: web.Request) -> web.StreamResponse:
        """What the policy was at a revision."""
        found = await self._mesh.policy.find(request.match_info["revision"])
        content = await self._mesh.policy.content(found.change)
        text = write(content, await self._mesh.policy.directory())
        return reply(records.PolicyContent(revision=found.change.hex(), text=text))

    async def confirm(self, _request: web.Request) -> web.StreamResponse:
        """Keep a change that waits for it."""
        await self._mesh.confirmation.confirm()
        return reply(await self._state())

    async def explain(self, request: web.Request) -> web.StreamResponse:
        """Why a flow is allowed or not."""
        ask = await read(request, records.FlowAsk)
        now = await self._mesh.policy.snapshot()
        directory = now.roster.directory
        flow = find_flow(ask.source, ask.target, ask.service, directory)
        names = {member.node: member.name for member in directory.members.values()}
        signed = provenance(now, names)
        found = explain(now.course.policy, directory, flow, self._mesh.replica.now_ms(), signed)
        counts = await self._counts()
        return reply(
            records.Explanation(
                allowed=found.verdict.allowed,
                sentence=found.sentence,
                allows=tuple(_because(each, counts) for each in found.allows),
                denies=tuple(_because(each, {}) for each in found.denies),
                near=tuple(_because(each, {}) for each in found.near),
            )
        )

    async def history(self, _request: web.Request) -> web.StreamResponse:
        """The latest revisions, newest first."""
        now = await self._mesh.policy.snapshot()
        changes = {change.change: change for change in now.history}
        found = await self._mesh.policy.standings(HISTORY)
        return reply(
            [
                records.PolicyRevision(
                    revision=each.change.hex(),
                    author=str(NodeId(each.author)),
                    name=node_name(each.author, now.roster.directory),
                    time=moment(hlc_ms(each.hlc)),
                    standing=each.standing.value.replace("_", " "),
                    reason=each.reason,
                    added=sum(key.startswith("rule/") for key in changes[each.change].puts),
                    removed=sum(key.startswith("rule/") for key in changes[each.change].deletes),
                )
                for each in found
                if each.change in changes  # one that came at this moment is for the next look
            ]
        )

    async def import_tailscale(self, request: web.Request) -> web.StreamResponse:
        """Translate a Tailscale policy; nothing is applied."""
        ask = await read(request, records.ImportAsk)
        directory = await self._mesh.policy.directory()
        mapping = read_mapping(ask.mapping, directory) if ask.mapping else Mapping()
        if ask.template:
            template = mapping_template(ask.text, directory, mapping)
            return reply(records.PolicyImported(text="", rules=0, tests=0, left=(), template=template))
        found = survey(ask.text, directory, mapping)
        policy = found.policy
        return reply(
            records.PolicyImported(
                text=write(policy, directory) if policy else "",
                rules=len(policy.rules) if policy else 0,
                tests=len(policy.tests) if policy else 0,
                left=tuple(f"{each.line}:{each.column}: {each.name} {each.why} {each.advice}" for each in found.left),
                refused=tuple(map(str, found.refused)),
                template=mapping_template(ask.text, directory, mapping) if found.needs() else "",
            )
        )

    # -- parts

    async def _head(self, text: str) -> bytes | None:
        """The revision that must be the newest; None for any, empty for none yet."""
        if text in {"", NO_REVISION}:
            return b"" if text else None
        return (await self._mesh.policy.find(text)).change

    async def _change(
        self, now: Snapshot, wanted: Policy, if_head: bytes | None, confirm_s: int | None
    ) -> tuple[Written, tuple[str, ...], int]:
        """Write a change; if this node loses touch with another, it is undone (ms, 0: never) unless confirmed."""
        compared = await asyncio.to_thread(self._compare, now, wanted)
        cut = await asyncio.to_thread(self._cut_off, compared, now.roster.directory)
        within_s = confirm_s if confirm_s is not None else CONFIRM_S if cut else 0
        if not within_s:
            return await self._mesh.policy.apply(wanted, if_head), cut, 0
        before = now.course.in_force.change if now.course.in_force else b""
        by_ms = self._mesh.replica.now_ms() + within_s * 1000
        made = self._mesh.confirmation.change(before, by_ms, lambda: self._mesh.policy.apply(wanted, if_head))
        return await made, cut, by_ms

    def _compare(self, now: Snapshot, wanted: Policy) -> Comparison:
        before, after = (State(policy, now.roster.directory) for policy in (now.course.policy, wanted))
        return Comparison(before, after, self._mesh.replica.now_ms())

    def _cut_off(self, compared: Comparison, directory: Directory) -> tuple[str, ...]:
        """The nodes and hosts that this node could reach or be reached by, and then no more."""
        found = compared.cut_off(self._node.key.id.raw)
        return tuple(dict.fromkeys(node_name(span.node, directory) for span in found.peers))

    def _preview(self, now: Snapshot, wanted: Policy, warnings: tuple[str, ...]) -> records.Preview:
        directory = now.roster.directory
        compared = self._compare(now, wanted)
        found = compared.changes()
        said = diff(now.course.policy, wanted)
        own = self._node.key.id.raw
        if own in directory.members:
            compile_filter(wanted, directory, own, self._mesh.replica.now_ms())  # raises if a node cannot hold it
        added = [*said.rules_added, *(changed.after for changed in said.rules_changed)]
        removed = [*said.rules_removed, *(changed.before for changed in said.rules_changed)]
        return records.Preview(
            added=tuple(rule_text(rule, directory) for rule in added),
            removed=tuple(rule_text(rule, directory) for rule in removed),
            rows=rows(found, State(now.course.policy, directory), State(wanted, directory)),
            left_out=found.left_out,
            cuts_off=self._cut_off(compared, directory),
            failures=_failures(self._mesh.policy.judge(wanted), wanted, directory),
            warnings=warnings,
            head=now.history[-1].change.hex() if now.history else "",
        )

    @staticmethod
    def _done(written: Written, cut: tuple[str, ...], by_ms: int, warnings: tuple[str, ...]) -> records.PolicyDone:
        return records.PolicyDone(
            batches=tuple(str(BatchHash(batch)) for batch in written.batches),
            revision=written.revision.hex(),
            warnings=warnings,
            confirm_by=moment(by_ms) if by_ms else "",
            cuts_off=cut,
        )

    async def _state(self) -> records.PolicyState:
        now = await self._mesh.policy.snapshot()
        course, by_ms = now.course, self._mesh.confirmation.by_ms
        return records.PolicyState(
            revision=course.in_force.change.hex() if course.in_force else "",
            head=course.head.change.hex() if course.head else "",
            author=str(NodeId(course.in_force.author)) if course.in_force else "",
            time=moment(hlc_ms(course.in_force.hlc)) if course.in_force else "",
            rules=len(course.policy.rules),
            tests=len(course.policy.tests),
            text=write(course.policy, now.roster.directory),
            blocked=_blocked(course.blocked) if course.blocked else None,
            confirm_by=moment(by_ms) if by_ms else "",
        )

    async def _counts(self) -> dict[RuleId, tuple[int, int]]:
        """Packets and bytes on this node, by the rule that allows them; one entry may count for several rules."""
        network = self._mesh.network
        if network is None or network.enforced is None:
            return {}
        found: dict[RuleId, tuple[int, int]] = {}
        held = {"inbound": network.enforced.inbound, "outbound": network.enforced.outbound}
        for (side, key), count in (await network.kernel.firewall.counters()).items():
            grant = held[side].get(key)
            for rule in grant.rules if grant is not None else ():
                packets, size = found.get(rule, (0, 0))
                found[rule] = packets + count.packets, size + count.bytes
        return found


def _failures(failures: Iterable[Failure], policy: Policy, directory: Directory) -> tuple[records.PolicyFailure, ...]:
    return tuple(
        records.PolicyFailure(
            test=expectation_text(each.test, directory),
            expected=each.expected.value,
            found=found_text(each),
            rules=tuple(rule_text(policy.rules[rule], directory) for rule in each.rules),
        )
        for each in failures
    )


def _blocked(found: Blocked) -> records.PolicyBlocked:
    return records.PolicyBlocked(
        revision=found.revision.change.hex(),
        edits=tuple(str(BatchHash(edit.batch)) for edit in found.edits),
        authors=tuple(str(NodeId(edit.author)) for edit in found.edits),
        reason=found.reason,
    )


def _because(each: Because, counts: dict[RuleId, tuple[int, int]]) -> records.RuleView:
    signed, counted = each.provenance, counts.get(each.rule)
    missed = f"; misses by {each.misses.value}" if each.misses else ""
    return records.RuleView(
        rule=each.rule.hex(),
        text=each.text + missed,
        through=tuple(", ".join(side) for side in (each.sources, each.targets) if side),
        author=(signed.name or str(NodeId(signed.author))) if signed else "",
        since=moment(signed.since_ms) if signed else "",
        packets=counted[0] if counted else None,
        bytes=counted[1] if counted else None,
    )
