"""The law catches a compiler that is wrong: each mutant below changes a line of it, and is found out.

A mutant is the source text with one replacement, loaded in memory together with the modules that build on it. A
replacement that no longer fits the text fails, so that a changed line takes its mutant along.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, evaluate
from appliance.policy.filter import Filter
from appliance.policy.model import Policy
from tests.policy_law import broken
from tests.policy_worlds import NOW_MS, world_of

CHAIN = [f"appliance.policy.{name}" for name in ("territory", "partition", "pieces", "view", "compile")]
WORLDS = 500  # of which most mutants need a few

# what goes wrong, module, text, replacement
MUTANTS: list[tuple[str, str, str, str]] = [
    ("a deny is dropped", "view", "if not denying & serving", "if serving"),
    ("a deny counts as an allow", "pieces", "if piece.action is Action.ALLOW:", "if piece.action:"),
    ("a deny denies every service", "view", "if not denying & serving", "if not denying"),
    (
        "inbound and outbound are swapped",
        "view",
        "            inbound=self._inbound,\n            outbound=self._outbound,",
        "            inbound=self._outbound,\n            outbound=self._inbound,",
    ),
    (
        "ends are swapped",
        "view",
        "comes, goes = self._pieces.opened_by(held), self._pieces.open_to(held)",
        "goes, comes = self._pieces.opened_by(held), self._pieces.open_to(held)",
    ),
    ("a port range is one too wide above", "partition", "toggles[protocol][last + 1]", "toggles[protocol][last + 2]"),
    ("a port range is one too narrow above", "partition", "toggles[protocol][last + 1]", "toggles[protocol][last]"),
    (
        "a port range is one too wide below",
        "partition",
        "toggles[protocol][first] ^=",
        "toggles[protocol][first - 1] ^=",
    ),
    (
        "any is the named protocols only",
        "partition",
        "ServiceRange(unnamed, LAST_PROTOCOL, 0, MAX_PORT), everything",
        "ServiceRange(unnamed, LAST_PROTOCOL, 0, MAX_PORT), 0",
    ),
    ("any misses the named protocols", "partition", "mask | everything", "mask"),
    (
        "a range of protocols is one too wide",
        "partition",
        "ServiceRange(unnamed, protocol - 1",
        "ServiceRange(unnamed, protocol",
    ),
    ("expired rules count", "pieces", "if rule.active(now_ms)", "if rule"),
    ("the first expiry ends what a second rule allows", "view", "max(ends)", "min(ends)"),
    (
        "what one rule allows for ever ends with another",
        "view",
        "if len(ends) == len(held) else None",
        "if ends else None",
    ),
    ("an entry outlives its rules", "view", "max(ends)", "max(ends) + 1"),
    ("a tag counts once", "pieces", "found |= self._by_tag[tag]", "found = self._by_tag[tag]"),
    ("any does not mean nodes", "pieces", "found = self.anybody |", "found = 0 |"),
    ("any does not mean hosts", "pieces", "self.anybody if groups is None else groups", "groups or 0"),
    ("any does not mean hosts that a rule names", "pieces", "(prefix, self.anybody | group)", "(prefix, group)"),
    (
        "hosts have the rights of their gateway",
        "pieces",
        "self.anybody if groups is None else groups",
        "self.by_node.get(gateway, 0) | (self.anybody if groups is None else groups)",
    ),
    (
        "a subnet selector means only the outermost prefix",
        "pieces",
        "lambda outer, inner: outer | inner",
        "lambda outer, inner: outer",
    ),
    (
        "a subnet selector means only the innermost prefix",
        "pieces",
        "lambda outer, inner: outer | inner",
        "lambda outer, inner: inner",
    ),
    (
        "node selectors are forgotten for peers",
        "compile",
        "self._pieces.by_node.keys() & self._directory.members.keys()",
        "()",
    ),
    ("the shortest subnet has a host", "territory", "lambda _, inner: inner", "lambda outer, _: outer"),
    ("the last of equal subnets has a host", "territory", "in reversed(directory.subnets)", "in directory.subnets"),
    (
        "a subnet reaches one address too far",
        "territory",
        "(number(prefix.last), combine",
        "(number(prefix.last) + 1, combine",
    ),
    (
        "a member inside a subnet is its host",
        "territory",
        "Stretch(first, address - 1, gateway)",
        "Stretch(first, address, gateway)",
    ),
    ("classes that collide are one", "view", "while free in taken", "while free not in taken"),
    (
        "far ends that differ in one group are one class",
        "view",
        "1 << pieces.pieces[piece].source",
        "0 << pieces.pieces[piece].source",
    ),
    (
        "the higher of two ids has a contested address",
        "compile",
        "self._directory.by_address[member.address].node == member.node",
        "True",
    ),
    ("hosts behind the node are forgotten", "compile", "if gateway == member.node\n", "if gateway != gateway\n"),
    ("hosts behind others are forgotten", "compile", "if gateway != node]", "if gateway != gateway]"),
]


def modules(mutated: str = "", text: str = "", replacement: str = "") -> dict[str, ModuleType]:
    """Fresh copies of the compiler's modules, one of them changed. The program's own stay what they are."""
    kept = {name: importlib.import_module(name) for name in CHAIN}
    fresh: dict[str, ModuleType] = {}
    try:
        for name in CHAIN:
            path = Path(str(kept[name].__file__))
            source = path.read_text(encoding="utf-8")
            if name.rpartition(".")[2] == mutated:
                assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times in {path.name}"
                source = source.replace(text, replacement)
            sys.modules[name] = fresh[name] = ModuleType(name)
            exec(compile(source, str(path), "exec"), fresh[name].__dict__)  # noqa: S102 - our own source
    finally:
        sys.modules.update(kept)
    return fresh


def found_out(chain: dict[str, ModuleType]) -> int | None:
    """The number of the first world in which these modules break the law; None if they never do.

    The law is asked of the moment of the compile and a little later, with numbers of 32 bits and of 2.
    """
    for number in range(WORLDS):
        policy, directory, flows = world_of(Random(number))
        compiler = chain[CHAIN[-1]].Compiler(number_bits=(2, 32)[number % 2])
        compiler.set_directory(directory)
        compiler.set_policy(policy, NOW_MS)
        filters: Callable[[bytes], Filter] = compiler.filter
        change_ms = chain[CHAIN[-1]].next_change_ms(policy, NOW_MS) or NOW_MS + 10
        lasting = [flow for flow in flows if _same(policy, directory, flow, change_ms)]
        for asked, at_ms in ((flows, NOW_MS), (flows, change_ms - 1), (lasting, change_ms)):
            if broken(policy, directory, asked, at_ms, filters):
                return number
    return None


def _same(policy: Policy, directory: Directory, flow: Flow, later_ms: int) -> bool:
    """False where a deny ends: the filter must be made again, and is narrower until then."""
    now, later = (evaluate(policy, directory, flow, at_ms) for at_ms in (NOW_MS, later_ms))
    return now.allowed or not later.allowed


def test_the_compiler_itself_keeps_the_law() -> None:
    assert found_out(modules()) is None


@pytest.mark.parametrize("what, module, text, replacement", MUTANTS, ids=[row[0] for row in MUTANTS])
def test_a_mutant_breaks_the_law(what: str, module: str, text: str, replacement: str) -> None:
    mutant = modules(module, text, replacement)
    try:
        assert found_out(mutant) is not None
    except (LookupError, OverflowError):
        pass  # it does not even compile every world: found out, too
