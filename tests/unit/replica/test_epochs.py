"""Checkpoints: what they cover is final, what they left out has no effect (ADR 0010)."""

from __future__ import annotations

import hashlib

import pytest

from appliance.core.clock import hlc_pack
from appliance.replica.entries import AnnounceEntry, CheckpointEntry
from tests.sim.world import START_MS
from tests.unit.replica.site import HELLO, Site, checkpoint, fork, revoke


def test_what_a_checkpoint_left_out_has_no_effect(site: Site) -> None:
    left_out = site.write(site.emil, HELLO)
    own = site.write(site.anna, HELLO, at_ms=5000)
    closed = site.write(site.anna, checkpoint(site, own))
    assert (site.reason(closed), site.reason(left_out)) == (None, "late")


def test_a_checkpoint_whose_count_is_wrong_is_void_and_stays_so_after_a_restart(site: Site) -> None:
    left_out = site.write(site.emil, HELLO)
    own = site.write(site.anna, HELLO, at_ms=5000)
    right = checkpoint(site, own)
    wrong = site.write(site.anna, CheckpointEntry(1, right.horizon, right.count + 1, right.digest))
    replica = site.replica()
    replica.restart()
    site.write(site.emil, HELLO, prev=left_out)
    replica.take(*site.mesh.batches.values())
    assert replica.reasons() == {(wrong.hash, 0): "checkpoint.digest"}


def test_a_checkpoint_covers_only_its_past_even_if_it_names_more(site: Site) -> None:
    """The digest is over what a replica holds, but the author had not seen all of it."""
    unseen = site.write(site.emil, HELLO)
    own = site.write(site.anna, HELLO, at_ms=5000)
    honest = checkpoint(site, own)
    everything = sorted((b.batch.hlc, b.hash) for b in site.mesh.batches.values() if b.batch.hlc <= honest.horizon)
    digest = hashlib.sha256(b"".join(name for _, name in everything)).digest()
    lying = site.write(site.anna, CheckpointEntry(1, honest.horizon, len(everything), digest))
    assert (site.reason(lying), site.reason(unseen)) == ("checkpoint.digest", None)


def test_what_is_covered_is_final_against_a_revocation_that_the_checkpoint_did_not_know(site: Site) -> None:
    spoken = site.write(site.emil, HELLO)
    own = site.write(site.anna, HELLO, after=[spoken])
    closed = site.write(site.anna, checkpoint(site, own))
    site.write(site.bert, revoke(site.emil), after=[closed])
    after = site.write(site.emil, HELLO, at_ms=9000)
    assert (site.reason(spoken), site.reason(after)) == (None, "revoked")


def test_a_revocation_that_the_checkpoint_knew_goes_through(site: Site) -> None:
    spoken = site.write(site.emil, HELLO)
    gone = site.write(site.bert, revoke(site.emil), after=[spoken], at_ms=8000)
    own = site.write(site.anna, HELLO, after=[gone], at_ms=9000)
    site.write(site.anna, checkpoint(site, own, horizon=spoken.batch.hlc))
    assert site.reason(spoken) == "revoked"


def test_what_is_covered_is_final_against_a_fork_that_the_checkpoint_did_not_know(site: Site) -> None:
    before = site.emil.head
    spoken = site.write(site.emil, HELLO)
    own = site.write(site.anna, HELLO, after=[spoken])
    closed = site.write(site.anna, checkpoint(site, own))
    rival = site.write(site.emil, AnnounceEntry("clone", (), ""), prev=before, after=[closed], at_ms=20_000)
    after = site.write(site.emil, HELLO, prev=spoken, at_ms=30_000)
    assert [site.reason(batch) for batch in (spoken, rival, after)] == [None, "frozen", "frozen"]


def test_a_checkpoint_does_not_thaw_a_fork_that_it_knew(site: Site) -> None:
    left, right = fork(site, site.emil)
    own = site.write(site.anna, HELLO, after=[left, right])
    site.write(site.anna, checkpoint(site, own))
    assert [site.reason(batch) for batch in (left, right)] == ["frozen", "frozen"]


def test_of_two_checkpoints_of_one_epoch_the_more_senior_owners_stands(site: Site) -> None:
    by_bert = site.write(site.bert, HELLO, at_ms=5000)
    by_cleo = site.write(site.cleo, HELLO, at_ms=6000)
    senior = site.write(site.bert, checkpoint(site, by_bert))
    junior = site.write(site.cleo, checkpoint(site, by_cleo))
    assert (site.reason(senior), site.reason(junior)) == (None, "conflict")


def test_a_batch_that_two_checkpoints_left_out_stays_out_when_one_of_them_falls(site: Site) -> None:
    left_out = site.write(site.emil, HELLO)
    by_cleo = site.write(site.cleo, HELLO, at_ms=5000)
    falls = site.write(site.cleo, checkpoint(site, by_cleo))
    gone = site.write(site.anna, revoke(site.cleo, site.start[4]), after=[falls], at_ms=6000)
    by_bert = site.write(site.bert, HELLO, after=[gone], at_ms=7000)
    stands = site.write(site.bert, checkpoint(site, by_bert, epoch=2))
    assert [site.reason(batch) for batch in (falls, stands, left_out)] == ["revoked", None, "late"]


def test_a_junior_owners_checkpoint_cannot_leave_out_the_revocation_of_its_author(site: Site) -> None:
    gone = site.write(site.anna, revoke(site.cleo, site.start[4]), at_ms=1000)
    own = site.write(site.cleo, HELLO, at_ms=2000)
    grab = site.write(site.cleo, checkpoint(site, own))
    assert (site.reason(gone), site.reason(grab)) == (None, "conflict")


@pytest.mark.parametrize("ahead, reason", [(0, "checkpoint.horizon"), (-1, None)])
def test_a_horizon_lies_before_its_checkpoint(site: Site, ahead: int, reason: str | None) -> None:
    own = site.write(site.anna, HELLO, at_ms=1000)
    clock = hlc_pack(START_MS + 2000, 0)
    entry = checkpoint(site, own, horizon=clock + ahead)
    assert site.reason(site.write(site.anna, entry, hlc=clock)) == reason


def test_only_an_owner_closes_an_epoch(site: Site) -> None:
    own = site.write(site.dora, HELLO)
    assert site.reason(site.write(site.dora, checkpoint(site, own))) == "grant.role"


def test_a_checkpoint_does_not_fall_with_a_revocation_that_it_shields_against_and_that_falls_itself(site: Site) -> None:
    """Cleo's only grant lies on a side of anna's fork; until that is known, bert's checkpoint and it wait together."""
    site.write(site.anna, HELLO, prev=site.start[1], at_ms=5000)
    attack = site.mesh.write(site.cleo, revoke(site.anna, site.start[0]), at_ms=9000)
    own = site.mesh.write(site.bert, HELLO, prev=site.start[3], at_ms=1000)
    closed = site.write(site.bert, checkpoint(site, own, horizon=site.start[1].batch.hlc))
    assert (site.reason(attack), site.reason(closed)) == ("revoked", None)
