"""`./test bench policy`: from 5,000 nodes and 1,000 rules to the filter of one node, at once and by increment.

Peers, measured in the same run: a straightforward compile that asks every rule about every pair and unites tuples of
(far address, service), whole; and the semantics themselves, `judge` on a sample of pairs, extrapolated. Times are
processor times of this thread, which other work on the machine does not lengthen. `--nodes N --rules N --dense` change
what is compiled; dense rules name large groups and wide services.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import thread_time

from msgspec.structs import replace

from appliance.policy.compile import Compiler
from appliance.policy.directory import Directory
from appliance.policy.evaluate import joins, judge
from appliance.policy.filter import Filter
from appliance.policy.model import Policy, Subject
from appliance.policy.preview import State, preview
from appliance.policy.view import entries
from tests.bench.policy_corpus import NOW_MS, ROLES, book, factory, node
from tests.bench.rows import Row

ROUNDS = 7
WHOLE_MS, STEP_MS = 100, 10  # issue: own filter from a warm directory; one node's tag change by increment
SAMPLE = 400  # pairs of the extrapolated peer


def run(arguments: Sequence[str]) -> list[Row]:
    """All rows."""
    options = argparse.ArgumentParser(prog="./test bench policy")
    options.add_argument("--nodes", type=int, default=5_000)
    options.add_argument("--rules", type=int, default=1_000)
    options.add_argument("--dense", action="store_true")
    chosen = options.parse_args(arguments)
    directory, policy = factory(chosen.nodes), book(chosen.rules, chosen.nodes, dense=chosen.dense)
    what = f"{chosen.nodes:,} nodes x {chosen.rules:,} rules{', dense' if chosen.dense else ''}"
    return [
        *_whole(what, directory, policy),
        *_steps(what, directory, policy),
        *_previews(what, directory, policy),
    ]


def _whole(what: str, directory: Directory, policy: Policy) -> list[Row]:
    """The policy is new and the directory warm; of several nodes, a plain one and a gateway among them, the slowest."""
    compiler = Compiler()
    cold_ms = _milliseconds(lambda: compiler.set_directory(directory))
    times: list[float] = []
    sizes: list[int] = []
    for own in (7, 50, 100, 1_234):
        mine = node(own % len(directory.members))
        anew = partial(_fresh, compiler, policy, mine)
        times.append(median(_milliseconds(anew) for _ in range(ROUNDS)))
        sizes.append(entries(anew()))
    slowest = max(range(len(times)), key=times.__getitem__)
    name = f"own filter, {what}: policy indexed and compiled, {sizes[slowest]:,} entries"
    united = _united(directory, policy, node(7 % len(directory.members)))
    asked = _asked(directory, policy)
    return [
        _bounded(f"{name} (peer: uniting tuples of every rule and pair)", max(times), united, WHOLE_MS),
        Row(
            name="the same (peer: judge, on a sample of pairs, extrapolated)",
            unit="ms",
            value=max(times),
            peer=asked,
            ratio=max(times) / asked,
        ),
        Row(name="directory indexed, cold", unit="ms", value=cold_ms),
    ]


def _fresh(compiler: Compiler, policy: Policy, own: bytes) -> Filter:
    compiler.set_policy(Policy(), NOW_MS)  # forget
    compiler.set_policy(policy, NOW_MS)
    return compiler.filter(own)


def _steps(what: str, directory: Directory, policy: Policy) -> list[Row]:
    """Another node's tags change, and the node's own: a new directory is given, and the filter asked for."""
    own, other = (node(number % len(directory.members)) for number in (7, 99))
    compiler = Compiler()
    compiler.set_directory(directory)
    compiler.set_policy(policy, NOW_MS)
    compiler.filter(own)
    found = {}
    for changed in (other, own):
        times = []
        for number in range(ROUNDS * 3):
            tags = frozenset({f"site-{number % 5}", f"cell-{number}", ROLES[number % len(ROLES)]})
            members = {**directory.members, changed: replace(directory.members[changed], tags=tags)}
            moved = Directory(members.values(), directory.subnets)
            times.append(_milliseconds(partial(_step, compiler, moved, own)))
        compiler.set_directory(directory)
        compiler.filter(own)
        found[changed] = median(times)
    whole = _milliseconds(lambda: _fresh(compiler, policy, own))
    return [
        _bounded(f"another node's tags change, {what} (peer: compiled anew)", found[other], whole, STEP_MS),
        Row(
            name="the node's own tags change: its view is made anew (peer: policy indexed and compiled)",
            unit="ms",
            value=found[own],
            peer=whole,
            ratio=found[own] / whole,
        ),
    ]


def _step(compiler: Compiler, directory: Directory, own: bytes) -> Filter:
    compiler.set_directory(directory)
    return compiler.filter(own)


def _previews(what: str, directory: Directory, policy: Policy) -> list[Row]:
    """Ten rules of the policy go; and the whole policy comes."""
    fewer = Policy(rules=dict(list(policy.rules.items())[10:]))
    found = []
    for change, before in (("ten rules come", fewer), ("the whole policy comes", Policy())):
        states = State(before, directory), State(policy, directory)
        made = preview(*states, NOW_MS)
        count = len(made.gained) + len(made.lost) + made.left_out
        took = median(_milliseconds(partial(preview, *states, NOW_MS)) for _ in range(3))
        found.append(Row(name=f"preview, {what}: {change}, {count:,} rows", unit="ms", value=took))
    return found


def _united(directory: Directory, policy: Policy, own: bytes) -> float:
    """Milliseconds of the obvious compile: every rule is asked about every pair, and what it names put into a set."""
    mine = directory.members[own]
    near = Subject(node=own, tags=mine.tags)
    begun = thread_time()
    allowed: set[tuple[object, ...]] = set()
    denied: set[tuple[object, ...]] = set()
    for member in directory.members.values():
        far = Subject(node=member.node, tags=member.tags)
        for rule in policy.rules.values():
            into = allowed if rule.action == "allow" else denied
            for inbound, ends in ((True, (far, near)), (False, (near, far))):
                if joins(rule, *ends):
                    into.update((inbound, member.address, service) for service in rule.services)
    allowed.difference_update(denied)  # right only where no range overlaps another: a real one must cut them
    return (thread_time() - begun) * 1000


def _asked(directory: Directory, policy: Policy) -> float:
    """Milliseconds for one port of one protocol of every pair and both directions, by asking `judge`."""
    members = list(directory.members.values())
    near, *others = (Subject(node=member.node, tags=member.tags) for member in members[:: len(members) // SAMPLE])
    begun = thread_time()
    for far in others:
        judge(policy, far, near, 6, 502, NOW_MS)
        judge(policy, near, far, 6, 502, NOW_MS)
    return (thread_time() - begun) * 1000 * len(members) / len(others)


def _milliseconds(work: Callable[[], object]) -> float:
    gc.collect()
    begun = thread_time()
    work()
    return (thread_time() - begun) * 1000


def _bounded(name: str, value: float, peer: float, most: float) -> Row:
    return Row(
        name=name, unit="ms", value=value, peer=peer, ratio=value / peer, reach=f"<= {most} ms", holds=value <= most
    )
