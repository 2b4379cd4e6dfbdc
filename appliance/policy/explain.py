"""Why a flow is allowed or not: the rules that decided, through what on each side, and those that nearly matched.

The verdict is that of `evaluate`; nothing is decided here. Who wrote a rule, and when, is for the caller to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, Reason, Verdict, covers, evaluate, joins, selects, serves
from appliance.policy.model import Action, Policy, Rule, RuleId, Subject
from appliance.policy.wording import flow_service, place_text, rule_text, selector_text

NEAR_RULES = 10  # as many as a person reads


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Who signed a rule into the policy, and when."""

    author: bytes  # node id
    name: str
    since_ms: int  # ms since the Unix epoch
    batch: bytes


class Miss(StrEnum):
    """The one thing that keeps a rule from matching, in the order in which a person looks for it."""

    EXPIRED = "expired"
    SERVICE = "service"
    TARGET = "target"
    SOURCE = "source"


class Because(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that decided, or nearly did; `sources` and `targets` are its selectors that mean the ends of the flow."""

    rule: RuleId
    action: Action
    text: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    services: tuple[str, ...]  # those that hold the flow's
    until_ms: int | None = None
    misses: Miss | None = None
    provenance: Provenance | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a flow, with its reasons. `near` are allow rules, and only where no rule matches."""

    verdict: Verdict
    sentence: str
    allows: tuple[Because, ...] = ()
    denies: tuple[Because, ...] = ()
    near: tuple[Because, ...] = ()


def explain(
    policy: Policy,
    directory: Directory,
    flow: Flow,
    now_ms: int,
    provenance: Mapping[RuleId, Provenance] | None = None,
) -> Explanation:
    """All that a person can be told about the verdict on a flow."""
    verdict = evaluate(policy, directory, flow, now_ms)
    sentence = _sentence(verdict, directory, flow)
    source, target = directory.place(flow.source), directory.place(flow.target)
    if source is None or target is None:
        return Explanation(verdict=verdict, sentence=sentence)
    witness = _Witness(directory, flow, source.subject, target.subject, provenance or {})
    near = []
    if verdict.reason is Reason.NO_RULE:
        missed = [(witness.miss(rule, now_ms), name) for name, rule in policy.rules.items()]
        near = sorted((list(Miss).index(miss), name) for miss, name in missed if miss is not None)
    return Explanation(
        verdict=verdict,
        sentence=sentence,
        allows=tuple(witness.because(policy.rules[name]) for name in verdict.allows),
        denies=tuple(witness.because(policy.rules[name]) for name in verdict.denies),
        near=tuple(witness.because(policy.rules[name], list(Miss)[miss]) for miss, name in near[:NEAR_RULES]),
    )


class _Witness:
    """What rules have to do with one flow."""

    def __init__(
        self,
        directory: Directory,
        flow: Flow,
        source: Subject,
        target: Subject,
        provenance: Mapping[RuleId, Provenance],
    ) -> None:
        self._directory = directory
        self._flow = flow
        self._source = source
        self._target = target
        self._provenance = provenance

    def because(self, rule: Rule, misses: Miss | None = None) -> Because:
        """The part of a rule that has to do with the flow."""
        name, flow = rule.id, self._flow
        sources, targets = self._through(rule)
        return Because(
            rule=name,
            action=rule.action,
            text=rule_text(rule, self._directory),
            sources=sources,
            targets=targets,
            services=tuple(str(service) for service in rule.services if covers(service, flow.protocol, flow.port)),
            until_ms=rule.until_ms,
            misses=misses,
            provenance=self._provenance.get(name),
        )

    def _through(self, rule: Rule) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The selectors that mean the ends: of pieces that mean both, or else of any."""
        pieces = [
            (
                [selector for selector in sources if selects(selector, self._source)],
                [selector for selector in targets if selects(selector, self._target)],
            )
            for sources, targets in rule.pieces()
        ]
        whole = [piece for piece in pieces if all(piece)] or pieces
        source, target = (
            dict.fromkeys(selector_text(selector, self._directory) for piece in whole for selector in piece[side])
            for side in (0, 1)
        )
        return tuple(source), tuple(target)

    def miss(self, rule: Rule, now_ms: int) -> Miss | None:
        """What alone keeps an allow rule from matching; None if that is more than one thing, or nothing."""
        if rule.action is not Action.ALLOW:
            return None
        ends = joins(rule, self._source, self._target)
        served = serves(rule, self._flow.protocol, self._flow.port)
        if not rule.active(now_ms):
            return Miss.EXPIRED if ends and served else None
        if ends:
            return None if served else Miss.SERVICE
        if not served:
            return None
        sources, targets = self._through(rule)
        if sources and targets:
            return None  # pieces of `self`: each end is meant, and not the pair
        return Miss.TARGET if sources else Miss.SOURCE if targets else None


def _sentence(verdict: Verdict, directory: Directory, flow: Flow) -> str:
    source, target = directory.place(flow.source), directory.place(flow.target)
    text = _judgement(
        verdict,
        place_text(source, flow.source, directory),
        place_text(target, flow.target, directory),
        flow_service(flow.protocol, flow.port),
    )
    if source is not None and target is not None and source.node == target.node:
        text += "; both are at one node, so the flow does not cross the mesh and nothing judges it"
    return text


def _judgement(verdict: Verdict, source: str, target: str, service: str) -> str:
    allows, denies = len(verdict.allows), len(verdict.denies)
    match verdict.reason:
        case Reason.ALLOWED:
            return f"{allows} rule{'s let' if allows > 1 else ' lets'} {source} reach {target} on {service}"
        case Reason.DENIED:
            besides = f", whatever {allows} other{'s allow' if allows > 1 else ' allows'}" if allows else ""
            return f"{denies} rule{'s deny' if denies > 1 else ' denies'} {source} {target} on {service}{besides}"
        case Reason.NO_RULE:
            return f"no rule lets {source} reach {target} on {service}"
        case Reason.STRANGER_SOURCE:
            return f"nobody on the mesh speaks for {source}: it reaches nothing"
        case Reason.STRANGER_TARGET:
            return f"nobody on the mesh speaks for {target}: nothing reaches it"
