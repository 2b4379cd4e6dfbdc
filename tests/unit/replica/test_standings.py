"""What settling costs: a crowd of owners who all revoke each other must not hold a replica up."""

from __future__ import annotations

import hashlib

import pytest

from appliance.replica.ancestry import Ancestry, Meta
from appliance.replica.authority import Authority
from appliance.replica.entries import GrantEntry, RevokeEntry
from appliance.replica.marks import Mark, Standing
from appliance.trust.grants import Grant, Role

OWNER = frozenset({Role.OWNER})


class Counting(Authority):
    """An authority that counts its judgements."""

    judged = 0

    def _judge(self, mark: Mark, waits_for: list[Mark]) -> tuple[Standing, str]:
        self.judged += 1
        return super()._judge(mark, waits_for)


class Crowd:
    """Owners granted by the first of them, each of whom then revokes all the others without having seen the like."""

    def __init__(self, owners: int) -> None:
        self.ancestry = Ancestry()
        self.authority = Counting(self.ancestry, lambda _branch, _seq: None)
        self.authority.hold()
        self.keys = [bytes([number]) * 32 for number in range(owners)]
        self.branches = [self.ancestry.open_branch(key, None, 1) for key in self.keys]
        self.seqs = [0] * owners
        self.clock = 0
        self.grants: list[Mark] = []
        for number in range(owners):
            self.grant(number)
        self.revocations = {
            (revoker, target): self.revoke(revoker, target)
            for target in range(owners)
            for revoker in range(owners)
            if revoker != target
        }

    def batch(self, author: int, seen: int) -> Meta:
        self.clock += 1
        self.seqs[author] += 1
        digest = hashlib.sha256(b"%d" % self.clock).digest()
        reach = ((self.branches[0], seen),) if seen else ()
        meta = Meta(digest, self.keys[author], self.seqs[author], self.clock, self.branches[author], reach, True)
        self.ancestry.extend(meta)
        return meta

    def grant(self, subject: int) -> None:
        mark = Mark(self.batch(0, len(self.grants)), 0, GrantEntry(b""))
        mark.grant = Grant(
            version=1, mesh=bytes(32), issuer=bytes(32), subject=self.keys[subject], subject_key=b"",
            roles=(Role.OWNER,), scope=(), delegate=2, not_before_ms=0, not_after_ms=1 << 50, parent=None, nonce=b"",
        )  # fmt: skip
        mark.grant_id, mark.root, mark.needs = mark.meta.hash, not self.grants, OWNER
        mark.supports, mark.depth = tuple(self.grants[:1]), min(subject, 1)
        self.grants.append(mark)
        self.authority.add(mark)

    def revoke(self, revoker: int, target: int) -> Mark:
        mark = Mark(self.batch(revoker, len(self.keys)), 0, RevokeEntry(self.keys[target], (), 0, None, ""))
        mark.needs, mark.supports = OWNER, (self.grants[revoker],)
        if target == 0:
            mark.cut = self.grants[-1].meta
        self.authority.add(mark)
        return mark


@pytest.mark.parametrize("owners", [2, 3, 8, 24])
def test_of_owners_who_all_revoke_each_other_the_first_stays_and_the_cost_is_bounded(owners: int) -> None:
    crowd = Crowd(owners)
    crowd.authority.settle()
    in_force = {place for place, mark in crowd.revocations.items() if mark.standing is Standing.IN}
    assert in_force == {(0, target) for target in range(1, owners)}
    assert crowd.authority.judged <= 4 * len(crowd.authority.marks)
