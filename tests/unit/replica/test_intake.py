"""Intake: which batches enter the log; all by themselves and their past, so everywhere alike."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from appliance.core.clock import hlc_pack
from appliance.core.limits import LIMITS
from appliance.replica.batch import Batch, SignedBatch, build_batch, parse_batch
from appliance.replica.entries import AnnounceEntry, GrantEntry, RevokeEntry
from appliance.trust.grants import Role
from tests.sim.world import FAR_MS, START_MS, Mesh
from tests.unit.replica.site import HELLO, Site, checkpoint


def resigned(site: Site, batch: SignedBatch, signer: str, /, **changes: object) -> SignedBatch:
    """The batch with other fields, signed by this member."""
    return build_batch(msgspec.structs.replace(batch.batch, **changes), site.mesh.member(signer).sign)


Spoil = Callable[[Site, SignedBatch], SignedBatch]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "of another mesh": (lambda s, b: resigned(s, b, "emil", mesh=bytes(32)), "batch.mesh"),
    "of another channel": (lambda s, b: resigned(s, b, "emil", channel="audit"), "batch.channel"),
    "signed by another": (lambda s, b: resigned(s, b, "bert"), "batch.signature"),
    "with a seq left out": (lambda s, b: resigned(s, b, "emil", seq=3), "batch.seq"),
    "on another's log": (lambda s, b: resigned(s, b, "emil", prev=s.last.hash, parents=()), "batch.chain"),
    "older than its past": (lambda s, b: resigned(s, b, "emil", hlc=s.last.batch.hlc), "batch.clock_behind"),
    "of a stranger": (lambda s, b: resigned(s, b, "fred", author=s.mesh.member("fred").id), "batch.author"),
    "that has not seen its grant": (lambda s, b: resigned(s, b, "emil", seq=1, prev=None, parents=()), "batch.author"),
}


@pytest.mark.parametrize("spoil, key", SPOILT.values(), ids=SPOILT)
def test_a_bad_batch_is_refused_with_its_reason_and_counted(site: Site, spoil: Spoil, key: str) -> None:
    replica = site.replica()
    first = site.write(site.emil, HELLO)
    good = site.write(site.emil, HELLO)
    replica.take(first)
    bad = spoil(site, good)
    taken = replica.take(bad, good)
    assert taken.refused == ((bad.hash, key),)
    assert [item.meta.hash for item in taken.admitted] == [good.hash] or bad.hash == good.hash
    assert replica.engine.refused == {key: 1}


def test_a_clock_too_far_ahead_is_refused_until_time_has_passed(site: Site) -> None:
    replica = site.replica()
    ahead = site.write(site.emil, HELLO, at_ms=LIMITS.clock_ahead_ms + 1)
    replica.now_ms = START_MS
    assert replica.take(ahead).refused == ((ahead.hash, "batch.clock_ahead"),)
    replica.now_ms = START_MS + 1
    assert [item.meta.hash for item in replica.take(ahead).admitted] == [ahead.hash]


def test_a_batch_whose_past_is_missing_waits_and_is_asked_for(site: Site) -> None:
    replica = site.replica()
    first = site.write(site.emil, HELLO)
    second = site.write(site.anna, HELLO, after=[first])
    taken = replica.take(second)
    assert (taken.admitted, taken.parked, taken.wanted) == ((), 1, (first.hash,))
    assert {item.meta.hash for item in replica.take(first).admitted} == {first.hash, second.hash}


def test_the_cut_of_a_revocation_counts_as_its_past(site: Site) -> None:
    replica = site.replica()
    cut = site.write(site.emil, HELLO)
    gone = site.write(site.anna, RevokeEntry(site.emil.id, (), 1, cut.hash, ""))
    assert replica.take(gone).wanted == (cut.hash,)


def test_a_batch_that_is_known_is_known(site: Site) -> None:
    replica = site.replica()
    batch = site.write(site.emil, HELLO)
    replica.take(batch)
    again = replica.take(batch, site.last)
    assert (again.admitted, again.refused, again.known) == ((), (), 2)


def test_a_batch_of_somebody_unknown_may_wait_but_is_verified_before_it_enters(site: Site) -> None:
    replica, fred = site.replica(), site.mesh.member("fred")
    grant = site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"])
    granted = site.write(site.anna, GrantEntry(grant))
    good = site.write(fred, HELLO, after=[granted])
    forged = resigned(site, site.write(fred, HELLO), "emil")
    assert replica.take(forged, good).parked == 2
    taken = replica.take(granted)
    assert [item.meta.hash for item in taken.admitted] == [granted.hash, good.hash]
    assert replica.engine.refused == {"batch.signature": 1}


def test_a_forged_copy_that_waits_does_not_speak_against_who_brings_the_true_one(site: Site) -> None:
    """Else a stranger could make honest peers give each other up."""
    replica, fred = site.replica(), site.mesh.member("fred")
    granted = site.write(
        site.anna, GrantEntry(site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"]))
    )
    true = site.write(fred, HELLO, after=[granted])
    forged = parse_batch(true.blob[:-1] + b"\1")
    assert (replica.take(forged).parked, forged.hash) == (1, true.hash)
    taken = replica.take(granted, true)
    assert (taken.refused, len(taken.admitted)) == ((), 2)


def test_a_log_may_begin_with_a_grant_of_the_authority(site: Site) -> None:
    fred, gina = site.mesh.member("fred"), site.mesh.member("gina")
    own = site.mesh.write(fred, GrantEntry(site.mesh.grant(None, fred, Role.MEMBER)))
    of_another = site.mesh.write(gina, GrantEntry(site.mesh.grant(None, fred, Role.MEMBER)))
    taken = site.replica().take(own, of_another)
    assert taken.refused == ((of_another.hash, "batch.author"),)


def test_a_revoked_member_may_still_write_what_has_no_effect(site: Site) -> None:
    site.write(site.anna, RevokeEntry(site.emil.id, (), 0, None, ""))
    batch = site.write(site.emil, HELLO)
    assert site.reason(batch) == "revoked"


def test_an_author_has_a_quota_that_each_checkpoint_in_its_past_renews() -> None:
    mesh = Mesh(limits=msgspec.structs.replace(LIMITS, author_batches=3))
    anna = mesh.member("anna")
    opening = mesh.write(anna, GrantEntry(mesh.grant(None, anna, Role.OWNER)))
    replica = mesh.replica()
    replica.take(opening, *(mesh.write(anna, HELLO) for _ in range(2)))
    third, over = anna.head, mesh.write(anna, HELLO)
    assert replica.take(over).refused == ((over.hash, "batch.quota"),)
    bert = mesh.member("bert")
    site = Site(mesh, anna, bert, bert, bert, bert, [opening], {})
    entry = checkpoint(site, third or opening)
    owner = mesh.write(bert, GrantEntry(mesh.grant(None, bert, Role.OWNER)), at_ms=1)
    closed = mesh.write(bert, entry, after=[third or opening])
    renewed = mesh.write(anna, HELLO, prev=third, after=[closed])
    assert replica.take(owner, closed, renewed).refused == ()


# -- branches of a log that forks


def branchy(limit: int) -> tuple[Mesh, list[SignedBatch]]:
    """A member's log of five batches, in a mesh that keeps so many branches."""
    mesh = Mesh(limits=msgspec.structs.replace(LIMITS, branches_per_author=limit))
    anna = mesh.member("anna")
    mesh.write(anna, GrantEntry(mesh.grant(None, anna, Role.OWNER)))
    return mesh, [*mesh.batches.values(), *(mesh.write(anna, HELLO) for _ in range(4))]


def clone(mesh: Mesh, prev: SignedBatch | None, number: int = 0) -> SignedBatch:
    return mesh.write(mesh.member("anna"), AnnounceEntry(f"clone {number}", (), ""), prev=prev)


def test_beyond_the_bound_a_frozen_log_adds_no_branches() -> None:
    mesh, log = branchy(2)
    replica = mesh.replica()
    first, second, deeper = clone(mesh, log[2], 1), clone(mesh, log[2], 2), clone(mesh, log[3], 3)
    taken = replica.take(*log, first, second, deeper)
    assert taken.refused == ((second.hash, "replica.frozen"), (deeper.hash, "replica.frozen"))


def test_the_proof_of_an_earlier_fork_is_kept_beyond_the_bound() -> None:
    """Else replicas that met the branches in another order would freeze the log at another place."""
    mesh, log = branchy(2)
    later, earlier = clone(mesh, log[3], 1), clone(mesh, log[0], 2)
    orders = [(later, earlier), (earlier, later)]
    dumps = []
    for order in orders:
        replica = mesh.replica()
        replica.take(*log, *order)
        dumps.append(dict(replica.dump())["nodes"])
    assert dumps == [[], []]


def test_a_branch_goes_on_and_one_that_an_honest_batch_follows_is_taken() -> None:
    mesh, log = branchy(2)
    bert = mesh.member("bert")
    replica = mesh.replica()
    first, second = clone(mesh, log[2], 1), clone(mesh, log[2], 2)
    after_first = mesh.write(mesh.member("anna"), HELLO, prev=first)
    witness = mesh.write(bert, GrantEntry(mesh.grant(None, bert, Role.MEMBER)), after=[second])
    taken = replica.take(*log, first, after_first, witness, second)
    assert taken.refused == ()
    assert replica.engine.ancestry.branches_of(mesh.member("anna").id) == (0, 1, 2)


def test_a_batch_signed_under_another_key_of_the_same_author_cannot_be() -> None:
    """An author's id is the hash of its key, so whichever grant names the author names this key."""
    mesh = Mesh()
    anna = mesh.member("anna")
    mesh.write(anna, GrantEntry(mesh.grant(None, anna, Role.OWNER)))
    wrong = Batch(
        version=1, mesh=mesh.id, channel="control", author=anna.id, seq=1, prev=None, parents=(),
        hlc=hlc_pack(START_MS, 0), entries=(("grant", b"\x80"),),
    )  # fmt: skip
    batch = build_batch(wrong, mesh.member("eve").sign)
    replica = mesh.replica()
    replica.now_ms = FAR_MS
    assert replica.take(*mesh.batches.values(), batch).refused == ((batch.hash, "batch.signature"),)
