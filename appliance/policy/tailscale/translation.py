"""Translates a policy file of Tailscale or headscale: what it allows, and nothing more or less.

Both sides allow by a union of rules and deny all else, so the translation goes entry by entry. What the file's own
tests expect must hold after it. Nothing is read but the arguments.
"""

from __future__ import annotations

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.policy.directory import Directory
from appliance.policy.model import Policy, Rule, SubnetSelector
from appliance.policy.tailscale.access import access_rules, allow_all
from appliance.policy.tailscale.addresses import Addresses
from appliance.policy.tailscale.file import PolicyFile, Text
from appliance.policy.tailscale.mapping import EMPTY, Mapping
from appliance.policy.tailscale.names import as_tag
from appliance.policy.tailscale.principals import Principals
from appliance.policy.tailscale.reading import records
from appliance.policy.tailscale.report import Report, Survey, Translation
from appliance.policy.tailscale.sides import Sides
from appliance.policy.tailscale.trials import Trials, tested
from appliance.policy.text import read

_TOLD = 5  # other places in a message


def translate(text: str, directory: Directory, mapping: Mapping = EMPTY, limits: Limits = LIMITS) -> Translation:
    """The file as a policy whose tests pass.

    Raises `tailscale.refused` for the first thing without an equal, which tells where the others are (`survey` has them
    all), and the reader's errors for what is no HuJSON.
    """
    found = survey(text, directory, mapping, limits)
    if found.policy is None:
        first, *others = found.refused
        places = ", ".join(f"{other.line}:{other.column}" for other in others[:_TOLD])
        dots = " ..." if len(others) > _TOLD else ""
        more = f" There are {len(others)} more, at {places}{dots}." if others else ""
        raise error(
            "tailscale.refused",
            line=first.line,
            column=first.column,
            name=first.name,
            why=first.why,
            more=more,
            advice=first.advice,
        )
    return Translation(policy=found.policy, carried=found.carried, left=found.left)


def survey(text: str, directory: Directory, mapping: Mapping = EMPTY, limits: Limits = LIMITS) -> Survey:
    """All that there is to say about the file; raises the reader's errors for what is no HuJSON."""
    report = Report()
    file = records(read(text, limits), report)
    principals, addresses = Principals(file, mapping), Addresses(file, mapping, directory)
    sides = Sides(principals, addresses, report)
    rules = {rule.id: rule for access in file.accesses for rule in access_rules(access, sides, report, limits)}
    if file.silent:
        rule = _silent(report)
        rules[rule.id] = rule
    policy = Policy(rules=rules, groups=_vocabulary(file, principals))
    trials = Trials(principals, sides, directory, report)
    expectations = [expectation for trial in file.trials for expectation in trials.expectations(trial)]
    policy = tested(policy, expectations, report, limits)
    _unused(file, addresses, report)
    _undeclared(policy, directory, report)
    return report.survey(policy)


def _silent(report: Report) -> Rule:
    whole = Text("", 1, 1)
    report.leave(
        whole,
        "the file",
        "has neither acls nor grants, and so allows everything; a rule that says this was written",
        "Write `acls: []` if nothing is to be allowed.",
    )
    return allow_all("neither acls nor grants")


def _vocabulary(file: PolicyFile, principals: Principals) -> dict[str, tuple[str, ...]]:
    """The groups that are more than one tag here, by a name that can be kept."""
    result: dict[str, tuple[str, ...]] = {}
    for text in file.groups:
        name, tags = as_tag(text), principals.known(text)
        if len(tags) > 1 and name not in result:
            result[name] = tags
    return result


def _unused(file: PolicyFile, addresses: Addresses, report: Report) -> None:
    used = file.named() | addresses.used
    for definition in (*file.groups.values(), *file.hosts.values(), *file.ipsets.values()):
        if definition.name.text not in used:
            report.leave(
                definition.name,
                definition.name.text,
                "is used by no rule and no test",
                "Nothing has to be done: rules here name tags and prefixes.",
            )


def _undeclared(policy: Policy, directory: Directory, report: Report) -> None:
    for entry in tuple(report.carried):
        selectors = {one for name in entry.rules for one in (*policy.rules[name].sources, *policy.rules[name].targets)}
        for selector in sorted((one for one in selectors if isinstance(one, SubnetSelector)), key=str):
            prefix = selector.prefix
            if not any(prefix.covers(known.prefix) or known.prefix.covers(prefix) for known in directory.subnets):
                report.leave(
                    entry,
                    f"{entry.name}: {selector}",
                    "lies behind no gateway of the mesh yet, so the rule means no host there",
                    "An admin declares the prefix with the gateway that speaks for it.",
                )
