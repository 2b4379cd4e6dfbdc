"""Attachments and secrets in the fold: who may publish them, which one counts, and that order of arrival is nothing."""

from __future__ import annotations

from itertools import permutations

import pytest

from appliance.replica.entries import AttachEntry, SecretEntry
from appliance.replica.membership import network, secret
from appliance.replica.rows import AttachmentRow, SecretRow
from tests.attach_rig import attach, public
from tests.sim.world import START_MS, Member, Replica
from tests.unit.replica.site import Site, fork, revoke


def said(site: Site, author: Member, name: str, *uris: str, relay: bool = False) -> AttachEntry:
    return attach(site.mesh.id, author.id, name, *uris, relay=relay)


def attached(replica: Replica) -> dict[bytes, tuple[bytes, tuple[str, ...]]]:
    rows = [row for row in replica.view.rows(AttachmentRow) if isinstance(row, AttachmentRow)]
    return {row.node: (row.key, row.uris) for row in rows}


def test_a_member_attaches_its_key(site: Site) -> None:
    batch = site.write(site.emil, said(site, site.emil, "emil", "tls://10.0.0.5:7331", relay=True))
    assert site.reason(batch) is None
    assert list(site.replica().view.rows(AttachmentRow)) == [
        AttachmentRow(
            node=site.emil.id,
            key=public("emil"),
            uris=("tls://10.0.0.5:7331",),
            relay=1,
            hlc=batch.batch.hlc,
            batch=batch.hash,
        )
    ]


def test_a_key_that_did_not_sign_for_this_node_is_not_attached(site: Site) -> None:
    stolen = said(site, site.dora, "dora")
    elsewhere = attach(b"another mesh".ljust(32), site.emil.id, "emil")
    for entry in (stolen, elsewhere):
        assert site.reason(site.write(site.emil, entry)) == "attach.proof"
    assert attached(site.replica()) == {}


def test_who_is_no_member_attaches_nothing(site: Site) -> None:
    gone = site.write(site.anna, revoke(site.emil))
    late = site.write(site.emil, said(site, site.emil, "emil"), after=[gone])
    assert site.reason(late) == "revoked"
    left, right = fork(site, site.dora)
    frozen = site.write(site.dora, said(site, site.dora, "dora"), prev=right, after=[left])
    assert site.reason(frozen) == "frozen"
    assert attached(site.replica()) == {}


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_what_a_member_attached_last_stands_in_whatever_order_it_came(site: Site, order: tuple[int, ...]) -> None:
    """Each lands among the others, and what each replaced comes back when it is taken away."""
    emil, dora = site.emil, site.dora
    batches = [site.write(emil, said(site, emil, f"emil {n}"), at_ms=1000 * n) for n in range(2)]
    batches += [site.write(dora, said(site, dora, f"dora {n}"), at_ms=500 + 1000 * n) for n in range(2)]
    replica = site.mesh.replica()
    replica.take(*site.start)
    for number in order:
        replica.take(batches[number])
    assert attached(replica) == {emil.id: (public("emil 1"), ()), dora.id: (public("dora 1"), ())}
    replica.take(site.write(site.anna, revoke(emil, batches[0]), revoke(dora), after=batches))
    assert attached(replica) == {emil.id: (public("emil 0"), ())}


def test_two_nodes_may_attach_one_key_and_both_are_kept(site: Site) -> None:
    for author in (site.emil, site.dora):
        site.write(author, said(site, author, "shared"))
    assert attached(site.replica()) == {member.id: (public("shared"), ()) for member in (site.emil, site.dora)}


# -- the secret of the mesh


def test_an_admin_gives_the_mesh_a_secret_and_a_member_does_not(site: Site) -> None:
    good = site.write(site.dora, SecretEntry(1, b"a" * 32))
    bad = site.write(site.emil, SecretEntry(2, b"b" * 32))
    assert (site.reason(good), site.reason(bad)) == (None, "role")
    row = SecretRow(1, good.hash, 0, site.dora.id, b"a" * 32)
    assert list(site.replica().view.rows(SecretRow)) == [row]
    assert secret(site.replica().engine) == row


def test_a_mesh_without_a_secret_has_none(site: Site) -> None:
    assert secret(site.replica().engine) is None


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_greatest_epoch_counts_and_in_it_the_lowest_hash_in_whatever_order_they_came(
    site: Site, order: tuple[int, ...]
) -> None:
    epochs = (1, 3, 3, 2)
    authors = (site.anna, site.bert, site.cleo, site.dora)
    batches = [
        site.write(author, SecretEntry(epoch, bytes([number]) * 32), at_ms=1000 * number)
        for number, (author, epoch) in enumerate(zip(authors, epochs, strict=True))
    ]
    replica = site.mesh.replica()
    replica.take(*site.start)
    for number in order:
        replica.take(batches[number])
    winner = min(batches[1:3], key=lambda batch: batch.hash)
    current = secret(replica.engine)
    assert current is not None
    assert (current.epoch, current.batch) == (3, winner.hash)
    gone = (revoke(site.bert, site.start[3]), revoke(site.cleo, site.start[4]))
    replica.take(site.write(site.anna, *gone, after=batches))
    back = secret(replica.engine)
    assert back is not None
    assert (back.epoch, back.batch) == (2, batches[3].hash)


def test_who_was_a_member_under_the_current_secret_is_told_from_who_left_before_it(site: Site) -> None:
    """Former members may know it until the next one is made after they were revoked."""
    first = site.write(site.anna, SecretEntry(1, b"a" * 32))
    gone = site.write(site.anna, revoke(site.emil), after=[first])
    assert former(site) == {site.emil.id}
    second = site.write(site.anna, SecretEntry(2, b"b" * 32), after=[gone])
    assert former(site) == set()
    site.write(site.anna, revoke(site.dora), after=[second])
    assert former(site) == {site.dora.id}


def former(site: Site) -> frozenset[bytes]:
    replica = site.replica()
    return network(replica.engine, START_MS).former


def test_a_secret_does_not_show_when_its_row_is_printed() -> None:
    row = SecretRow(3, b"\xab" * 32, 0, bytes(32), b"hush" * 8)
    assert repr(row) == f"SecretRow(epoch=3, batch={'ab' * 32}, secret=***)"
