"""Simulator: many replicas in one process under one seed, with network, clocks, disks, and members that lie.

A seed makes a schedule: a list of events, each complete in itself, so that any part of it can be run as well. `run`
plays it on fresh nodes, then heals everything (all honest nodes connected, time for all clocks to pass), and returns
what broke the laws. `shortest` drops events for as long as the laws still break (delta debugging, Zeller 1999).

Honest: anna (the founder), bert (an owner), cleo (an admin). Hostile: mona, an owner, whose key runs on two machines
that know nothing of each other; nina, an admin of her making; and the strangers that they bring in. Newcomers,
quin, ruth and sven, ask to be admitted at any honest node, with tokens that two islands may redeem.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch
from appliance.replica.rows import NoEffectRow
from tests.sim.admission_laws import intruders, overdrawn, tally, unentitled
from tests.sim.admission_scribe import Drawer
from tests.sim.founding import found
from tests.sim.honest import honest_entry
from tests.sim.honest_admission import honest_admission
from tests.sim.laws import disagreements
from tests.sim.network import Link
from tests.sim.node import Node, PowerCutError
from tests.sim.oracle import Oracle
from tests.sim.scribe import Scribe
from tests.sim.tape import Tape
from tests.sim.watch import Watch
from tests.sim.world import START_MS, Member, Mesh, Replica, log_rows

HONEST = ("anna", "bert", "cleo")
HOSTILE = ("mona", "mona-clone")
PAIRS = (
    ("anna", "bert"),
    ("bert", "cleo"),
    ("anna", "cleo"),
    ("mona", "anna"),
    ("mona-clone", "cleo"),
    ("mona-clone", "bert"),
)
SKEWS_MS = {"anna": 0, "bert": -1500, "cleo": 2500, "mona": 0, "mona-clone": 900}
EVENTS = (25, 95)  # at least and at most
WEIGHTS = {
    "carry": 52,
    "pass": 6,
    "cut": 3,
    "connect": 8,
    "part": 1,
    "write": 14,
    "admit": 12,
    "forge": 14,
    "tamper": 2,
    "replay": 2,
    "power": 2,
    "die": 3,
    "restart": 1,
}
HEAL_MS = 600_000  # more than any clock is ahead
HEAL_ROUNDS = 40
ROUND_MS = 5_000
SHM = Path("/dev/shm")  # a file system in memory, where there is one


class Step(NamedTuple):
    """One event. What its numbers mean depends on the state when it comes."""

    kind: str
    a: int
    b: int
    c: int


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run."""

    broken: tuple[str, ...]
    counts: dict[str, int]


def schedule(seed: int) -> list[Step]:
    """The events of a seed."""
    rng = random.Random(seed)
    kinds = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rng.randint(*EVENTS))
    return [Step(kind, rng.getrandbits(32), rng.getrandbits(32), rng.getrandbits(32)) for kind in kinds]


def run(seed: int, steps: list[Step] | None = None, limits: Limits = LIMITS) -> Outcome:
    """Play a schedule, heal, and look."""
    folder = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))
    try:
        world = _World(seed, folder, limits)
        for step in schedule(seed) if steps is None else steps:
            world.play(step)
        world.heal()
        return Outcome(tuple(world.look()), dict(world.counts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shortest(seed: int, steps: list[Step] | None = None) -> list[Step]:
    """A schedule that still breaks a law, from which no event can be left out."""
    left = schedule(seed) if steps is None else steps
    size = max(1, len(left) // 2)
    while size:
        at = 0
        while at < len(left):
            fewer = left[:at] + left[at + size :]
            if run(seed, fewer).broken:
                left = fewer
            else:
                at += size
        size //= 2
    return left


class _World:
    """Everything that there is in one run."""

    def __init__(self, seed: int, folder: Path, limits: Limits) -> None:
        self.mesh = Mesh(limits=limits)
        self.now_ms = START_MS
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._disk_rng = random.Random(seed ^ 0xD15C)
        people = ("anna", "bert", "cleo", "mona", "nina", "otto", "paul", "quin", "ruth", "sven")
        self.members: list[Member] = [self.mesh.member(name) for name in people]
        self.grants: dict[bytes, list[bytes]] = {}
        self.drawer = Drawer()
        self.nodes = {name: Node(self.mesh, self._owner(name), name, folder / name) for name in HONEST}
        self.nodes |= {name: Node(self.mesh, self._owner(name), name, None) for name in HOSTILE}
        self.links = [Link(left, right) for left, right in PAIRS]
        self.watches = {name: Watch() for name in HONEST}
        start = [batch.blob for batch in found(self.mesh, self.members, self.grants, self.drawer)]
        for node in self.nodes.values():
            node.receive(start, self.now_ms)

    def _owner(self, name: str) -> Member:
        return self.mesh.member(name.removesuffix("-clone"))

    # -- events

    def play(self, step: Step) -> None:
        """One event; a node whose power goes in the middle of it comes back."""
        self.counts[step.kind] += 1
        try:
            getattr(self, f"_{step.kind}")(step)
        except PowerCutError as cut:
            self._come_back(str(cut))

    def _carry(self, step: Step) -> None:
        link = self.links[step.a % len(self.links)]
        link.carry(step.b % 2, (step.c % 8 + 1) / 4, self.now_ms)

    def _pass(self, step: Step) -> None:
        self.now_ms += step.a % 4000
        for link in self.links:
            link.tick(self.now_ms)

    def _cut(self, step: Step) -> None:
        self.links[step.a % len(self.links)].cut()

    def _connect(self, step: Step) -> None:
        self._join(self.links[step.a % len(self.links)])

    def _join(self, link: Link) -> None:
        if link.ends is None:
            left, right = (self.nodes[name] for name in link.names)
            link.connect(left, right, self.now_ms, SKEWS_MS)

    def _part(self, step: Step) -> None:
        """The mesh falls into two islands."""
        island = {name for number, name in enumerate(self.nodes) if step.a >> number & 1}
        for link in self.links:
            if len(island.intersection(link.names)) == 1:
                link.cut()

    def _write(self, step: Step) -> None:
        node = self.nodes[HONEST[step.a % len(HONEST)]]
        self.watches[node.name].course(node.engine)
        try:
            rng, now_ms = random.Random(step.b), self.now_ms + SKEWS_MS[node.name]
            body = honest_entry(node, self.members, self.grants, rng, now_ms)
            if body is not None:
                node.write(now_ms, body)
        except X0tError as err:
            self.counts[err.key] += 1

    def _admit(self, step: Step) -> None:
        """Somebody asks to be admitted, or an approver does something about it."""
        node = self.nodes[HONEST[step.a % len(HONEST)]]
        own, rng = self.grants[node.member.id], random.Random(step.b)
        try:
            bodies = honest_admission(node, self.members[-3:], own, self.drawer, rng)
            if bodies:
                node.write(self.now_ms + SKEWS_MS[node.name], *bodies)
        except X0tError as err:
            self.counts[err.key] += 1

    def _forge(self, step: Step) -> None:
        """A hostile member writes what it likes into its own machine's log, which passes it on."""
        node = self.nodes[HOSTILE[step.a % len(HOSTILE)]]
        tape = Tape(step.b.to_bytes(4) + step.c.to_bytes(4) + random.Random(step.b).randbytes(24))
        scribe = Scribe(self.mesh, self.members, self.grants, node.logs, node.engine, tape, step.c % 200, self.drawer)
        cloned = self._seed % 2 and node.name != "mona"
        usual = self.mesh.member("mona" if node.name == "mona" or cloned else "nina")
        author = usual if step.b % 4 else tape.one_of(self.members[4:])
        batch = scribe.batch(author, at_ms=self.now_ms - START_MS)
        if batch is not None:
            node.receive([batch.blob], self.now_ms)

    def _tamper(self, step: Step) -> None:
        """Somebody sends an honest node a batch with flipped bits."""
        blob = self._some_blob(step)
        if blob is not None:
            at = step.c % (8 * len(blob))
            spoilt = bytearray(blob)
            spoilt[at // 8] ^= 1 << at % 8
            outcome = self.nodes[HONEST[step.a % len(HONEST)]].receive([bytes(spoilt)], self.now_ms)
            self.counts["tampered and taken"] += len(outcome.new)

    def _replay(self, step: Step) -> None:
        blob = self._some_blob(step)
        if blob is not None:
            self.nodes[HONEST[step.a % len(HONEST)]].receive([blob], self.now_ms)

    def _some_blob(self, step: Step) -> bytes | None:
        known = [batch for log in self.nodes[HOSTILE[step.b % len(HOSTILE)]].logs.values() for batch in log]
        return known[step.c % len(known)].blob if known else None

    def _power(self, step: Step) -> None:
        node = self.nodes[HONEST[step.a % len(HONEST)]]
        node.cut_power()
        self._come_back(node.name)

    def _die(self, step: Step) -> None:
        self.nodes[HONEST[step.a % len(HONEST)]].die_at(step.b)

    def _restart(self, step: Step) -> None:
        node = self.nodes[HONEST[step.a % len(HONEST)]]
        node.stop()
        self._part_from(node.name)
        node.start()

    def _come_back(self, name: str) -> None:
        self.counts["power cuts"] += 1
        self._part_from(name)
        self.nodes[name].come_back(self._disk_rng)

    def _part_from(self, name: str) -> None:
        for link in self.links:
            if name in link.names:
                link.cut()

    # -- the end

    def heal(self) -> None:
        """Everybody meets once clocks have passed what was dated ahead, and all that waits is carried."""
        for node in self.nodes.values():
            node.die_at(None)
        for link in self.links:
            link.cut()
        self.now_ms += HEAL_MS
        for _ in range(HEAL_ROUNDS):
            for link in self.links:
                self._join(link)
                link.tick(self.now_ms)
            while sum(link.carry(way, 1, self.now_ms) for link in self.links for way in (0, 1)):
                pass
            if len({node.vector.digest() for node in self.nodes.values()}) == 1:
                break
            self.now_ms += ROUND_MS

    def look(self) -> list[str]:
        """What broke a law."""
        honest = [self.nodes[name] for name in HONEST]
        everything = set().union(*(node.hashes() for node in honest))
        broken = [
            f"{node.name} has {len(everything - node.hashes())} batches too few"
            for node in honest
            if node.hashes() != everything
        ]
        broken += [
            f"{node.name} lost what it acknowledged" for node in honest if not node.acknowledged <= node.hashes()
        ]
        broken += [f"{node.name} contradicted itself" for node in honest if self._is_forked(node)]
        broken += self._quarrels()
        if broken:
            return broken
        dumps = [node.dump() for node in honest]
        broken += [
            f"{node.name} shows other rows" for node, dump in zip(honest, dumps, strict=True) if dump != dumps[0]
        ]
        broken += self._policies(honest) + overdrawn(honest[0].engine)
        broken += [f"{node.name}: {fault}" for node in honest for fault in intruders(node.engine, self.now_ms)]
        if self.counts["tampered and taken"]:
            broken.append("a tampered batch was taken")
        return broken + self._afresh(honest[0])

    def _policies(self, honest: list[Node]) -> list[str]:
        """The same revision is in force everywhere, whatever each node saw on the way."""
        wanted = Watch().course(honest[0].engine)
        self.counts["policies in force"] += wanted.in_force is not None
        self.counts["policies blocked"] += wanted.blocked is not None
        courses = [(node.name, self.watches[node.name].course(node.engine)) for node in honest]
        return [f"{name} has another policy in force" for name, course in courses if course != wanted]

    def _is_forked(self, node: Node) -> bool:
        return any(node.member.id in other.engine.authority.forked_authors() for other in self.nodes.values())

    def _quarrels(self) -> list[str]:
        """An honest node never gives another up, but for time that passed without a word."""
        return [
            f"{link.names[0]} and {link.names[1]}: {fault}"
            for link in self.links
            if set(link.names) <= set(HONEST)
            for fault in link.faults
            if fault != "sync.stall"
        ]

    def _afresh(self, node: Node) -> list[str]:
        """The log tells the same to a new view, in any order, and to the oracle."""
        batches = [self._batch(digest) for digest in node.hashes()]
        for *_, reason in node.view.dump(NoEffectRow):
            self.counts[f"without effect: {reason!s}"] += 1
        self.counts["batches"] += len(batches)
        replica: Replica = self.mesh.replica()
        if self._seed % 2:
            replica.take(*sorted(batches, key=lambda batch: batch.hash))
            broken = [] if replica.dump() == node.dump() else ["another order of arrival gives other rows"]
        else:
            replica.log.append([(digest, blob) for _, digest, blob in log_rows(node.log) if blob is not None])
            replica.restart()
            broken = [] if replica.dump() == node.dump() else ["a view that is made from the log has other rows"]
        self.counts.update(tally(node.engine))
        oracle = Oracle(self.mesh.id, self.mesh.authority_key, self.mesh.verify, batches, self.mesh.limits)
        return broken + disagreements(replica, oracle) + unentitled(node.engine, oracle)

    def _batch(self, digest: bytes) -> SignedBatch:
        return self.mesh.batches[digest]
