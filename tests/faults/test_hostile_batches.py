"""Ten thousand hostile batches against live engines, in child processes so that their memory can be measured.

Members have turned hostile: most batches are right in hash and signature and wrong elsewhere. Each must be refused with
a key, wait, or be accepted; and what was accepted must give one state in any order, and after a restart or a rebuild.
Run as a program with a seed and a count, this file is the child.
"""

from __future__ import annotations

import hashlib
import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.core.clock import hlc_ms
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.replica.batch import Sign, SignedBatch, parse_batch
from appliance.replica.document_kinds import NODES
from appliance.replica.entries import AnnounceEntry, ChangeEntry, GrantEntry, ThawEntry
from appliance.replica.rows import ChangeRow
from appliance.trust.grants import Role
from appliance.trust.pqc import provider
from tests.batch_forge import Forge
from tests.batch_mutations import case
from tests.sim.world import FAR_MS, START_MS, FastSignatures, Mesh, Replica

BATCH = Domain.BATCH.encode()
WORKERS, CASES, FOLD, AMNESTY = 8, 1_250, 50, 250
MEMORY_KIB = 300 << 10
ADDRESS_SPACE = 3 << 30  # a bomb that goes off must not take the machine with it
HOSTILE = {
    "olga": Role.OWNER, "oleg": Role.OWNER, "adam": Role.ADMIN, "aida": Role.ADMIN,
    "mia": Role.MEMBER, "max": Role.MEMBER,
}  # fmt: skip


class Result(msgspec.Struct, frozen=True):
    """What a child reports: by kind of mutation how many were accepted, how many refused by which key."""

    accepted: dict[str, int]
    refused: dict[str, int]
    reasons: dict[str, int]  # of entries without effect
    parked: int
    known: int
    changes: int  # at most with effect at one time
    peak_kib: int


class Signatures(FastSignatures):
    """ML-DSA-65 for batches. Grants keep the stand-in: an ML-DSA signature is random, and would be part of a hash."""

    def __init__(self) -> None:
        super().__init__()
        self._by = provider("auto")
        self._real: dict[bytes, bytes] = {}

    def key(self, seed: bytes) -> tuple[bytes, Sign]:
        public, seal = super().key(seed)
        key = self._by.mldsa_keypair(hashlib.sha256(seed).digest())
        self._real[public] = key.public_key
        return public, lambda message, context: (key.sign if context == BATCH else seal)(message, context)

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes = b"") -> bool:
        if context != BATCH:
            return super().verify(public_key, message, signature, context)
        real = self._real.get(public_key, public_key)
        return self._by.mldsa_verify(real, message, signature, context)


@pytest.mark.parametrize("seed", range(WORKERS))
def test_hostile_batches_are_refused_or_fold_to_one_state_in_bounded_memory(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, __file__, str(seed), str(CASES)]
    root = Path(__file__).parents[2]
    child = subprocess.run(command, capture_output=True, cwd=root, env={"PYTHONPATH": str(root)}, check=False)
    assert child.returncode == 0, child.stderr.decode()[-3_000:]
    result = msgspec.json.decode(child.stdout, type=Result)
    accepted, refused = sum(result.accepted.values()), sum(result.refused.values())
    record_property(
        "counts",
        f"hostile batches, seed {seed}: {CASES}; {accepted} accepted, {refused} refused by {len(result.refused)} keys, "
        f"{result.parked} parked, {result.known} known; 0 crashes, 0 divergences, 0 documents lost; "
        f"{result.peak_kib >> 10} MB",
    )
    assert accepted + refused + result.parked + result.known == CASES
    assert result.accepted["honest"] > CASES // 20, "the accepting path was not tried"
    assert min(result.accepted[kind] for kind in ("fork", "wrong_body", "wrong_grant", "wrong_change")) > 20
    assert {f"batch.{name}" for name in REFUSALS} <= result.refused.keys()
    assert {"malformed", "unknown", "frozen", "role", "revoked", "grant.widens"} <= result.reasons.keys()
    assert result.changes > 5, "no change of a document had effect"
    assert result.peak_kib < MEMORY_KIB


REFUSALS = (
    "author", "chain", "channel", "clock_ahead", "clock_behind", "malformed", "mesh", "parents", "seq", "signature",
    "size",
)  # fmt: skip


# ---- the child


def run(seed: int, count: int) -> Result:
    """Judge `count` hostile batches; raises at the first that does harm."""
    target, forge = attacked(seed)
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    parked = known = changes = 0
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        if number % FOLD == 0:
            settle(target)
            changes = max(changes, target.view.count(ChangeRow))
        if number % AMNESTY == 0:
            amnesty(target, forge)
        target.now_ms += 1_000
        kind, blob = case(forge, rng)
        try:
            signed = parse_batch(blob)
            taken = target.engine.take([(signed, False)], target.now_ms)
        except X0tError as err:
            refused[err.key] += 1
            continue
        except BaseException:
            sys.stderr.write(f"case {seed}/{number}, {kind}: {blob.hex()}\n")
            raise
        refused.update(key for digest, key in taken.refused if digest == signed.hash)
        parked, known = parked + taken.parked, known + taken.known
        for item in taken.admitted:
            accepted[kind] += item.signed is signed  # and not one that had waited for it
            forge.took(item.signed)
    settle(target)
    agree(random.Random(seed), target, forge.accepted)
    reasons = Counter(target.reasons().values())
    return Result(dict(accepted), dict(refused), dict(reasons), parked, known, changes, peak_kib())


def attacked(seed: int) -> tuple[Replica, Forge]:
    """A mesh with a founder and members of each kind who were honest until now."""
    mesh = Mesh(b"hostile %d" % seed, seals=Signatures())
    anna = mesh.member("anna")
    root = mesh.grant(None, anna, Role.OWNER, delegate=3)
    grants = {anna.id: root}
    mesh.write(anna, GrantEntry(root))
    hostile = [mesh.member(name) for name in HOSTILE]
    for member in hostile:
        delegate = 0 if HOSTILE[member.name] is Role.MEMBER else 1
        grants[member.id] = mesh.grant(anna, member, HOSTILE[member.name], delegate=delegate, parent=root)
        mesh.write(anna, GrantEntry(grants[member.id]))
    last = anna.head
    assert last is not None
    for member in hostile:
        mesh.write(member, AnnounceEntry(member.name, (), ""), after=[last])
    target = mesh.replica()
    target.now_ms = START_MS + 1_000_000
    target.take(*mesh.batches.values())
    return target, Forge(mesh, hostile, grants, target)


def amnesty(target: Replica, forge: Forge) -> None:
    """So that there is something to attack: the authority grants all roles anew, the founder thaws and tags."""
    anna, mesh, engine = forge.mesh.member("anna"), forge.mesh, target.engine
    now_ms = max(target.now_ms, hlc_ms(engine.max_hlc) + 1)
    for member in [anna, *forge.hostile]:
        role = HOSTILE.get(member.name, Role.OWNER)
        forge.grants[member.id] = mesh.grant(None, member, role, delegate=1, times=(now_ms, FAR_MS))
    thaws = [
        ThawEntry(member.id, head.hash, "")
        for member in forge.hostile
        if engine.authority.is_frozen(member.id) and (head := forge.heads[member.id]) is not None
    ]
    key = f"{NodeId(forge.hostile[0].id)}/tag/seen-{engine.view.size()}"
    change = ChangeEntry(*NODES, engine.documents.edit(NODES, {key: True}, [], anna.id, 0))
    for entries in ([GrantEntry(grant) for grant in forge.grants.values()], [*thaws, change]):
        forge.took(target.write(anna, *entries, at_ms=now_ms - START_MS))


def settle(replica: Replica) -> None:
    """Make durable and fold; then every document can be loaded from the log, and says what the rows say."""
    replica.engine.commit()
    replica.engine.fold()
    before = replica.engine.documents.values(NODES, "")
    replica.engine.documents.close()
    assert replica.engine.documents.values(NODES, "") == before


def agree(rng: random.Random, target: Replica, accepted: list[SignedBatch]) -> None:
    """Another replica gets the same in another order; both start again, and one folds everything anew."""
    other = target.mesh.replica()
    shuffled = rng.sample(accepted, len(accepted))
    for start in range(0, len(shuffled), 200):
        taken = other.take(*shuffled[start : start + 200])
        assert not taken.refused
    assert len(other.engine.parking) == 0
    state = target.dump()
    assert other.dump() == state
    target.restart()
    assert target.dump() == state
    target.rebuild()
    assert target.dump() == state


def peak_kib() -> int:
    """The highest resident memory of this program; getrusage would count the parent before exec too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    sys.stdout.buffer.write(msgspec.json.encode(run(int(sys.argv[1]), int(sys.argv[2]))))
