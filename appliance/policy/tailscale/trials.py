"""The file's own `tests` as tests of ours, from the same ends.

A test speaks of a device as it would be: of a user, with all of the user's tags; of a tag, with that one. For a group
that is a member of it and of no other, if a tag stands for the group alone; else each of its members. Without a
protocol a test asks for TCP or UDP: it is written for the first that the policy allows, and where both must be denied
for both. Semantics: the reference of the tailnet policy file, `tests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from appliance.core.limits import Limits
from appliance.core.prefix import ADDRESS_BYTES
from appliance.policy.bounds import excess
from appliance.policy.directory import Directory
from appliance.policy.model import (
    WITH_PORTS,
    Action,
    NodeSelector,
    Policy,
    PolicyTest,
    Protocol,
    Service,
    Subject,
    TagSelector,
    content_id,
    encode_test,
)
from appliance.policy.tailscale.extent import Extent
from appliance.policy.tailscale.file import Entry, Text, Trial
from appliance.policy.tailscale.ports import protocols, single_port
from appliance.policy.tailscale.principals import Principals
from appliance.policy.tailscale.report import Carried, NoEqualError, Report
from appliance.policy.tailscale.sides import Sides
from appliance.policy.trial import run_tests

_NOW = 0  # ms; rules of a translation do not expire, so any moment will do


class Expectation(msgspec.Struct, frozen=True):
    """What a test of the file expects of one pair of ends: that one of these holds, best the first."""

    trial: Trial
    entry: Entry
    choices: tuple[PolicyTest, ...]


class Trials:
    """Says what tests of the file expect."""

    def __init__(self, principals: Principals, sides: Sides, directory: Directory, report: Report) -> None:
        self._principals, self._sides, self._directory, self._report = principals, sides, directory, report

    def expectations(self, trial: Trial) -> Iterator[Expectation]:
        """What one entry expects; what of it cannot be a test of ours is refused."""
        refused, count = self._report.refusals, 0
        with self._report.refusing(trial.source):
            sources = self._subjects(trial.source, source=True)
            with self._report.refusing(trial.protocol or trial):
                named = protocols(trial.protocol.text if trial.protocol else "")
                for expect, entries in ((Action.ALLOW, trial.accept), (Action.DENY, trial.deny)):
                    for entry in entries:
                        with self._report.refusing(entry):
                            for choices in self._choices(sources, named, entry, expect):
                                count += 1
                                yield Expectation(trial, entry, choices)
        if not count and self._report.refusals == refused:
            self._report.leave(trial, trial.name, "tests nothing: nobody is at one of its ends", "Take it out.")

    def _choices(
        self, sources: Sequence[Subject], named: Sequence[Protocol], entry: Entry, expect: Action
    ) -> Iterable[tuple[PolicyTest, ...]]:
        port = single_port(entry.ports)
        for source in sources:
            for target in self._subjects(entry, source=False):
                tests = tuple(
                    PolicyTest(source=source, target=target, service=_service(protocol, port), expect=expect)
                    for protocol in named
                )
                yield from ((test,) for test in tests) if expect is Action.DENY else (tests,)

    def _subjects(self, entry: Entry, *, source: bool) -> tuple[Subject, ...]:
        end = self._sides.end(entry.host, source=source)
        if end.everything or end.own:
            raise NoEqualError(entry.host, "is no end of a test: it means many", "Write one test for each.")
        if end.extent is not None:
            return (self._subject(entry, end.extent),)
        tags = self._principals.examples(end.alias) if end.alias is not None else ()
        return tuple(Subject(tags=each) for each in tags)

    def _subject(self, entry: Entry, extent: Extent) -> Subject:
        if not extent.others and len(extent.spans) == 1 and extent.spans[0].first == extent.spans[0].last:
            return Subject(host=extent.spans[0].first.to_bytes(ADDRESS_BYTES, "big"))
        if not extent.spans and len(extent.others) == 1:
            (selector,) = extent.others
            if isinstance(selector, NodeSelector):
                member = self._directory.members.get(selector.node)
                return Subject(node=selector.node, tags=member.tags if member else frozenset())
            if isinstance(selector, TagSelector):
                return Subject(tags=frozenset((selector.name,)))
        raise NoEqualError(
            entry.host, "is more than one host here, and a test has one end", "Name one address, and map it to one."
        )


def tested(policy: Policy, expectations: Sequence[Expectation], report: Report, limits: Limits) -> Policy:
    """The policy with a test for each expectation. One that the policy does not meet is refused, if nothing else is.

    So is a file of which becomes more than a policy may hold; its tests are not judged then.
    """
    candidates = {_id(test): test for expectation in expectations for test in expectation.choices}
    judged = msgspec.structs.replace(policy, tests=candidates)
    if _is_refused(judged, limits, report):
        return judged
    failing = {_id(found.test) for found in run_tests(judged, _NOW)}
    complete = report.refusals == 0  # else tests fail for want of rules
    chosen: dict[bytes, PolicyTest] = {}
    entries: dict[str, tuple[Trial, dict[bytes, None]]] = {}
    for expectation in expectations:
        test = next((one for one in expectation.choices if _id(one) not in failing), expectation.choices[0])
        named = msgspec.structs.replace(test, note=f"{expectation.trial.name}, line {expectation.entry.line}")
        chosen[_id(named)] = named
        entries.setdefault(expectation.trial.name, (expectation.trial, {}))[1][_id(named)] = None
        if complete and _id(test) in failing:
            report.refuse(expectation.entry, _failure(test, expectation))
    for trial, tests in entries.values():
        report.carried.append(Carried(line=trial.line, column=trial.column, name=trial.name, tests=tuple(tests)))
    made = msgspec.structs.replace(policy, tests=chosen)
    _is_refused(made, limits, report)
    return made


def _is_refused(policy: Policy, limits: Limits, report: Report) -> bool:
    found = excess(policy, limits)
    if found is not None:
        why = f"becomes {found.total:,} {found.what}, and a policy has at most {found.limit:,}"
        report.refuse(Text("", 1, 1), NoEqualError("the file", why, f"{found.advice}."))
    return found is not None


def _failure(test: PolicyTest, expectation: Expectation) -> NoEqualError:
    wanted, found = ("allowed", "denied") if test.expect is Action.ALLOW else ("denied", "allowed")
    return NoEqualError(
        f"{expectation.trial.source.text} to {expectation.entry.text}",
        f"must be {wanted} on {test.service}, says the test, and is {found} after the translation",
        "Correct the mapping file, or the rule or the test if the file was wrong before.",
    )


def _service(protocol: Protocol, port: int) -> Service:
    return Service(protocol, port, port) if protocol in WITH_PORTS else Service(protocol)


def _id(test: PolicyTest) -> bytes:
    return content_id(encode_test(test))
