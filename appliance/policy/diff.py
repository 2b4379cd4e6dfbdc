"""What is written otherwise in two policies: rules, tests, groups and services that came, went or changed.

It compares texts of one meaning, not meanings: which flows a change lets through is what `preview` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from appliance.policy.directory import Directory
from appliance.policy.model import Action, Policy, PolicyTest, Rule, Selector
from appliance.policy.wording import expectation_text, rule_text, terms_text

Content = TypeVar("Content")
Ends: TypeAlias = tuple[Action, tuple[Selector, ...], tuple[Selector, ...]]


class Changed(NamedTuple):
    """A rule between the same ends whose services, note or expiry are others now."""

    before: Rule
    after: Rule


class Words(NamedTuple):
    """A group or a service; None where there was or is none of the name."""

    name: str
    before: tuple[str, ...] | None
    after: tuple[str, ...] | None


class PolicyDiff(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; every tuple is in the order of the rules' ids, or of names."""

    rules_added: tuple[Rule, ...] = ()
    rules_removed: tuple[Rule, ...] = ()
    rules_changed: tuple[Changed, ...] = ()
    tests_added: tuple[PolicyTest, ...] = ()
    tests_removed: tuple[PolicyTest, ...] = ()
    groups: tuple[Words, ...] = ()
    services: tuple[Words, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


def diff(before: Policy, after: Policy) -> PolicyDiff:
    """From one policy to another. A rule that went and one that came have changed if no others have the same ends."""
    added, removed = _only(after.rules, before.rules), _only(before.rules, after.rules)
    came, went = _by_ends(added), _by_ends(removed)
    pairs = [
        Changed(went[ends][0], came[ends][0])
        for ends in went.keys() & came.keys()
        if len(went[ends]) == len(came[ends]) == 1
    ]
    changed = {rule.id for pair in pairs for rule in pair}
    return PolicyDiff(
        rules_added=tuple(rule for rule in added if rule.id not in changed),
        rules_removed=tuple(rule for rule in removed if rule.id not in changed),
        rules_changed=tuple(sorted(pairs, key=lambda pair: pair.before.id)),
        tests_added=_only(after.tests, before.tests),
        tests_removed=_only(before.tests, after.tests),
        groups=_words(before.groups, after.groups),
        services=_words(
            {name: tuple(map(str, listed)) for name, listed in before.services.items()},
            {name: tuple(map(str, listed)) for name, listed in after.services.items()},
        ),
    )


def lines(found: PolicyDiff, directory: Directory) -> list[str]:
    """For a person: `+` came, `-` went, `~` changed with what it was before."""
    return [
        *(f"- {rule_text(rule, directory)}" for rule in found.rules_removed),
        *(f"+ {rule_text(rule, directory)}" for rule in found.rules_added),
        *(f"~ {rule_text(after, directory)}, before: {terms_text(before)}" for before, after in found.rules_changed),
        *(f"- test {expectation_text(test, directory)}" for test in found.tests_removed),
        *(f"+ test {expectation_text(test, directory)}" for test in found.tests_added),
        *_named("group", found.groups),
        *_named("service", found.services),
    ]


def _only(these: Mapping[bytes, Content], others: Mapping[bytes, object]) -> tuple[Content, ...]:
    return tuple(these[name] for name in sorted(these.keys() - others.keys()))


def _by_ends(rules: Iterable[Rule]) -> dict[Ends, list[Rule]]:
    found: dict[Ends, list[Rule]] = defaultdict(list)
    for rule in rules:
        found[rule.action, rule.sources, rule.targets].append(rule)
    return found


def _words(before: Mapping[str, tuple[str, ...]], after: Mapping[str, tuple[str, ...]]) -> tuple[Words, ...]:
    names = sorted(before.keys() | after.keys())
    return tuple(
        Words(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def _named(kind: str, changes: Iterable[Words]) -> Iterable[str]:
    for name, before, after in changes:
        if before is not None:
            yield f"- {kind} {name}: {', '.join(before)}"
        if after is not None:
            yield f"+ {kind} {name}: {', '.join(after)}"
