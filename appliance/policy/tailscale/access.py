"""`acls` and `grants` as allow rules. Nothing here denies: both are lists of what is allowed, as rules of ours are.

An entry becomes one rule for each set of ports that its destinations have; one with more selectors or services than a
rule may have becomes several, which together allow the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TypeAlias, TypeVar

from appliance.core.limits import Limits
from appliance.policy.canonical_rule import canonical_services
from appliance.policy.model import Action, AnySelector, Rule, Selector, SelfSelector, Service
from appliance.policy.tailscale.file import Access, Entry, Text
from appliance.policy.tailscale.ports import granted, protocols, services
from appliance.policy.tailscale.report import Carried, Report
from appliance.policy.tailscale.sides import SELF, End, Sides

_T = TypeVar("_T")
_Ends: TypeAlias = Sequence[tuple[Entry, End]]


def access_rules(access: Access, sides: Sides, report: Report, limits: Limits) -> tuple[Rule, ...]:
    """The rules of one entry; what has no equal is refused in the report."""
    refused = report.refusals
    ends = [(entry, end) for entry in access.sources for end in _end(entry, sides, report, source=True)]
    ours = sides.selectors(ends) if any(target.host != SELF for target in access.targets) else ()
    note = f"{access.name}, line {access.line}"
    rules: list[Rule] = []
    for wanted, targets in _by_services(access, report).items():
        theirs = [(entry, end) for entry in targets for end in _end(entry, sides, report, source=False)]
        plain = [(entry, end) for entry, end in theirs if not end.own]
        rules += _allow(ours, sides.selectors(plain), wanted, note, limits)
        if len(plain) < len(theirs):
            own = sides.own(ends, grant=access.ip is not None)
            rules += _allow(own, (SelfSelector(),), wanted, note, limits)
    if report.refusals == refused:
        _tell(access, rules, sides, report)
    return tuple(rules)


def allow_all(note: str) -> Rule:
    """The rule of a file that has neither `acls` nor `grants`."""
    anybody = (AnySelector(),)
    return Rule(action=Action.ALLOW, sources=anybody, targets=anybody, services=services("", "*"), note=note)


def _end(entry: Entry, sides: Sides, report: Report, *, source: bool) -> Iterable[End]:
    with report.refusing(entry):
        yield sides.end(entry.host, source=source)


def _by_services(access: Access, report: Report) -> dict[tuple[Service, ...], list[Entry]]:
    """The destinations of an entry by what is allowed there."""
    result: dict[tuple[Service, ...], list[Entry]] = {}
    if access.ip is not None:
        wanted: list[Service] = []
        for text in access.ip:
            with report.refusing(text):
                wanted += granted(text.text)
        if wanted:
            result[canonical_services(wanted)] = list(access.targets)
        return result
    protocol = access.protocol
    if protocol is not None and not _known(protocol, report):
        return result
    for target in access.targets:
        with report.refusing(target):
            result.setdefault(services(protocol.text if protocol else "", target.ports), []).append(target)
    return result


def _known(protocol: Text, report: Report) -> bool:
    with report.refusing(protocol):
        protocols(protocol.text)
        return True
    return False


def _allow(
    sources: Sequence[Selector], targets: Sequence[Selector], wanted: Sequence[Service], note: str, limits: Limits
) -> Iterable[Rule]:
    sides = _chunks(sources, limits.policy_selectors), _chunks(targets, limits.policy_selectors)
    for ours, theirs, some in product(*sides, _chunks(wanted, limits.policy_services)):
        yield Rule(action=Action.ALLOW, sources=ours, targets=theirs, services=some, note=note)


def _chunks(items: Sequence[_T], size: int) -> list[tuple[_T, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _tell(access: Access, rules: Sequence[Rule], sides: Sides, report: Report) -> None:
    for entry in (*access.sources, *access.targets):
        told = sides.narrowed(entry.host)
        if told is not None:
            report.leave(entry, f"{access.name}: {entry.host}", *told)
    if rules:
        report.carried.append(
            Carried(line=access.line, column=access.column, name=access.name, rules=tuple(rule.id for rule in rules))
        )
    elif access.ip is None or access.ip:
        report.leave(access, access.name, "allows nothing: nobody is among its sources or destinations", "Take it out.")
