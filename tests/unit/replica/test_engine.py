"""Engine: the one writer. Durable before folded, folded again when the past changes, the same after a restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.replica.authoring import Identity
from appliance.replica.engine import Engine
from appliance.replica.entries import AnnounceEntry, GrantEntry, ThawEntry, make
from appliance.replica.rows import TABLES, FrozenRow
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.trust.grants import Role
from tests.sim.world import FAR_MS, START_MS, Mesh
from tests.unit.replica.site import HELLO, Site, fork, revoke


def test_a_batch_of_our_own_follows_everything_that_we_know(site: Site) -> None:
    replica = site.replica()
    seen = site.write(site.emil, HELLO, at_ms=90_000)
    replica.take(seen)
    own = replica.write(site.anna, HELLO, at_ms=10)
    assert (own.batch.prev, own.batch.parents) == (site.start[2].hash, (seen.hash,))
    assert own.batch.hlc == seen.batch.hlc + 1
    assert replica.write(site.anna, HELLO, at_ms=100_000).batch.parents == ()


def test_more_ends_than_a_batch_may_name_are_joined_over_several_authority_first() -> None:
    mesh = Mesh(limits=msgspec.structs.replace(LIMITS, batch_parents=2))
    anna = mesh.member("anna")
    root = mesh.grant(None, anna, Role.OWNER, delegate=2)
    opening = mesh.write(anna, GrantEntry(root))
    others = [mesh.member(str(number)) for number in range(5)]
    grants = mesh.write(anna, *[GrantEntry(mesh.grant(anna, who, Role.MEMBER, parent=root)) for who in others])
    farewell = mesh.write(others[0], revoke(others[0]), after=[grants])
    replica = mesh.replica()
    replica.take(opening, grants, farewell, *(mesh.write(who, HELLO, after=[grants]) for who in others[1:]))
    first, second, third = (replica.write(anna, HELLO) for _ in range(3))
    assert farewell.hash in first.batch.parents
    assert [len(batch.batch.parents) for batch in (first, second, third)] == [2, 2, 1]


def test_a_frozen_node_writes_nothing_more(site: Site) -> None:
    fork(site, site.emil)
    with pytest.raises(X0tError) as caught:
        site.replica().write(site.emil, HELLO)
    assert caught.value.key == "replica.frozen"


def test_ends_of_frozen_logs_are_not_followed(site: Site) -> None:
    left, right = fork(site, site.emil)
    parents = site.replica().write(site.anna, HELLO).batch.parents
    assert not {left.hash, right.hash} & set(parents)


def test_nothing_is_folded_before_it_is_durable(site: Site) -> None:
    replica = site.replica()
    batch = site.write(site.emil, HELLO)
    replica.engine.take([(batch, False)], replica.now_ms)
    assert replica.engine.fold().batches == ()
    assert replica.engine.unfolded == 0
    assert [item.meta.hash for item in replica.engine.commit()] == [batch.hash]
    assert replica.engine.unfolded == 1
    assert [item.meta.hash for item in replica.engine.fold().batches] == [batch.hash]
    assert replica.engine.commit() == ()


def test_what_was_durable_and_not_folded_is_folded_at_the_next_start(site: Site) -> None:
    replica = site.replica()
    batches = [site.write(site.emil, HELLO), site.write(site.anna, revoke(site.emil))]
    replica.engine.take([(batch, False) for batch in batches], replica.now_ms)
    replica.engine.commit()
    again = Engine(replica.engine.identity, replica.log, replica.view, site.mesh.verify)
    assert again.load() == 2
    assert replica.reason(batches[0]) == "revoked"
    assert replica.dump() == site.replica().dump()


def test_what_waits_is_forgotten_at_a_restart_and_comes_again(site: Site) -> None:
    replica = site.replica()
    first, second = site.write(site.emil, HELLO), site.write(site.emil, HELLO)
    replica.take(second)
    replica.restart()
    replica.take(first)
    assert replica.view.lookup(second.hash) is None
    replica.take(second)
    assert replica.view.lookup(second.hash) is not None


def test_a_view_of_other_branches_than_its_log_is_corrupt(site: Site) -> None:
    replica = site.replica()
    replica.view._db.execute("DELETE FROM branches WHERE number = 0")
    with pytest.raises(X0tError) as caught:
        replica.restart()
    assert caught.value.key == "replica.corrupt"


def test_a_log_whose_batches_do_not_follow_is_corrupt(tmp_path: Path) -> None:
    mesh = Mesh()
    anna = mesh.member("anna")
    mesh.write(anna, GrantEntry(mesh.grant(None, anna, Role.OWNER)))
    later = mesh.write(anna, HELLO)
    log, view = LogStore(tmp_path / "log.db"), ViewStore(tmp_path / "view.db")
    log.append([(later.hash, later.blob)])
    engine = Engine(Identity(mesh.id, mesh.authority_key), log, view, mesh.verify)
    with pytest.raises(X0tError) as caught:
        engine.load()
    assert caught.value.key == "replica.corrupt"
    engine.close()


def test_the_restart_knows_forks_decisions_and_what_was_late(site: Site) -> None:
    left, right = fork(site, site.emil)
    site.write(site.anna, ThawEntry(site.emil.id, left.hash, ""), after=[left, right])
    replica = site.replica()
    before = replica.dump()
    replica.restart()
    assert replica.dump() == before
    assert not replica.engine.authority.is_frozen(site.emil.id)
    after = replica.write(site.emil, HELLO, at_ms=20_000)
    assert (after.batch.prev, replica.reason(after)) == (left.hash, None)


def test_a_decision_that_falls_is_shown_again_as_open(site: Site) -> None:
    left, _ = fork(site, site.emil)
    thaw = site.write(site.cleo, ThawEntry(site.emil.id, left.hash, ""))
    replica = site.replica()
    site.write(site.anna, revoke(site.cleo, site.start[4]))
    assert [getattr(row, "decided", None) for row in replica.view.rows(FrozenRow)] == [1]
    replica.take(*site.mesh.batches.values())
    assert [getattr(row, "decided", None) for row in replica.view.rows(FrozenRow)] == [0]
    assert replica.reason(thaw) == "revoked"


@pytest.mark.parametrize(
    "who, role, holds",
    [
        ("anna", Role.OWNER, True),
        ("dora", Role.ADMIN, True),
        ("dora", Role.MEMBER, True),
        ("dora", Role.OWNER, False),
        ("emil", Role.MEMBER, True),
        ("fred", Role.MEMBER, False),
    ],
)
def test_a_key_holds_what_its_grants_give_now(site: Site, who: str, role: Role, holds: bool) -> None:
    assert site.replica().engine.holds(site.mesh.member(who).id, role, START_MS) == holds
    assert not site.replica().engine.holds(site.mesh.member(who).id, role, FAR_MS + 1)


def test_a_revoked_key_holds_nothing_whatever_its_cut(site: Site) -> None:
    last = site.write(site.dora, HELLO)
    site.write(site.anna, revoke(site.dora, last), after=[last])
    assert not site.replica().engine.holds(site.dora.id, Role.MEMBER, START_MS)


def test_the_epoch_is_that_of_the_last_checkpoint_in_force(site: Site) -> None:
    replica = site.replica()
    assert replica.engine.authority.epoch() == 0
    assert len(replica.engine.epochs().up_to(site.last.batch.hlc)) == len(site.start)


def test_two_replicas_that_write_apart_agree_when_they_meet(site: Site) -> None:
    left, right = site.replica(), site.replica()
    mine = [left.write(site.bert, revoke(site.cleo, site.start[4])), left.write(site.bert, HELLO)]
    theirs = [right.write(site.cleo, revoke(site.bert, site.start[3])), right.write(site.emil, HELLO)]
    left.take(*theirs)
    right.take(*mine)
    assert left.dump() == right.dump()
    assert left.reasons() == {(theirs[0].hash, 0): "conflict"}


def test_a_batch_too_large_is_refused_before_it_is_signed(site: Site) -> None:
    big = AnnounceEntry("x", ("h" * 256,) * 8, "")
    entries = [make(big)] * 40
    with pytest.raises(X0tError) as caught:
        site.replica().engine.author(site.anna.id, entries, site.anna.sign, START_MS)
    assert caught.value.key == "batch.size"


def test_the_rows_of_a_table_are_all_that_a_dump_shows(site: Site) -> None:
    assert {name for name, _ in site.replica().dump()} == {table.TABLE for table in TABLES}
