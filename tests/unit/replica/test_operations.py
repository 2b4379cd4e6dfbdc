"""Operations: refused before anything is written where they could have no effect, and what they achieve otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS
from appliance.replica.entries import GrantEntry, make
from appliance.replica.fold import Effect
from appliance.replica.operations import GrantAsk, Operations
from appliance.replica.rows import CheckpointRow, DocumentRow, FrozenRow, GrantRow, NodeRow, RevocationRow
from appliance.replica.service import Replica, Writer
from appliance.trust.grants import Role
from tests.mesh_rig import START_MS, YEAR_MS, Member, Mesh
from tests.unit.replica.operations_rig import Deed, Site, do, refused, rows


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def asked(*roles: Role, delegate: int = 0, **more: object) -> Deed:
    """A grant to dora."""
    return lambda act, site: act.grant(
        msgspec.convert(
            {"subject_key": site.dora.key.public_key, "roles": roles, "delegate": delegate, **more},
            GrantAsk,
            builtin_types=(bytes,),
        )
    )


REFUSED: list[tuple[str, str, Deed, str]] = [
    ("a member grants", "cleo", asked(Role.MEMBER), "grant.widens"),
    ("nobody grants", "dora", asked(Role.MEMBER), "grant.role"),
    ("an admin makes an owner", "bert", asked(Role.OWNER), "grant.widens"),
    ("an admin passes on as many levels", "bert", asked(Role.MEMBER, delegate=2), "grant.widens"),
    ("a member revokes", "cleo", lambda act, site: act.revoke(site.bert.id, (), ""), "grant.role"),
    ("an admin revokes an owner", "bert", lambda act, site: act.revoke(site.anna.id, (), ""), "grant.role"),
    (
        "an owner revokes who has no role",
        "anna",
        lambda act, site: act.revoke(site.dora.id, (), ""),
        "replica.not_found",
    ),
    ("a member tags", "cleo", lambda act, site: act.set_tags(site.cleo.id, ["red"], []), "grant.role"),
    ("nothing changes", "anna", lambda act, site: act.set_tags(site.cleo.id, [], ["red"]), "tags.unchanged"),
    ("a tag is no tag", "anna", lambda act, site: act.set_tags(site.cleo.id, ["Line 1"], []), "tags.form"),
    ("a member names", "cleo", lambda act, site: act.set_name(site.cleo.id, "x"), "grant.role"),
    ("a name does not change", "anna", lambda act, site: act.set_name(site.cleo.id, ""), "tags.unchanged"),
    ("a name is too long", "anna", lambda act, site: act.set_name(site.cleo.id, "x" * 65), "tags.name"),
    ("a name holds a line end", "anna", lambda act, site: act.set_name(site.cleo.id, "a\nb"), "tags.name"),
    ("a scope is no tag", "anna", asked(Role.MEMBER, scope=("Line 1",)), "tags.form"),
    ("an admin thaws", "bert", lambda act, site: act.thaw(site.cleo.id, bytes(32), ""), "grant.role"),
    ("an admin closes an epoch", "bert", lambda act, site: act.checkpoint(1), "grant.role"),
    ("nothing is old enough", "anna", lambda act, site: act.checkpoint(YEAR_MS), "checkpoint.empty"),
    ("nobody announces", "dora", lambda act, site: act.announce("dora", (), ""), "grant.role"),
]


@pytest.mark.parametrize("who, deed, key", [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
async def test_what_could_have_no_effect_is_refused_and_nothing_is_written(
    site: Site, who: str, deed: Deed, key: str
) -> None:
    assert await refused(site, who, deed) == key


EFFECTIVE: list[tuple[str, str, Deed]] = [
    ("an owner makes an owner", "anna", asked(Role.OWNER, delegate=2)),
    ("an admin adds a member that may delegate", "bert", asked(Role.MEMBER, delegate=1)),
    ("an admin makes an admin", "bert", asked(Role.ADMIN)),
    ("an owner revokes an admin", "anna", lambda act, site: act.revoke(site.bert.id, (), "gone")),
    ("an owner revokes one role", "anna", lambda act, site: act.revoke(site.bert.id, (Role.ADMIN,), "")),
    ("an admin revokes a member", "bert", lambda act, site: act.revoke(site.cleo.id, (), "")),
    ("a member leaves", "cleo", lambda act, site: act.revoke(site.cleo.id, (), "bye" * 200)),
    ("an admin tags", "bert", lambda act, site: act.set_tags(site.cleo.id, ["red", "blue"], ["green"])),
    ("an admin names", "bert", lambda act, site: act.set_name(site.cleo.id, "Press 1")),
    ("an owner closes an epoch", "anna", lambda act, site: act.checkpoint(1)),
    ("a member announces", "cleo", lambda act, site: act.announce("cleo", ("10.0.0.3:7700",), "x0t 1")),
]


@pytest.mark.parametrize("who, deed", [pytest.param(*row[1:], id=row[0]) for row in EFFECTIVE])
async def test_what_is_written_has_effect(site: Site, who: str, deed: Deed) -> None:
    receipt = await do(site, who, deed)
    assert [effect.ok for effect in receipt.effects] == [True]


async def test_the_mesh_is_founded_by_publishing_the_authoritys_grant(tmp_path: Path) -> None:
    mesh = await asyncio.to_thread(Mesh, tmp_path)
    eve = await asyncio.to_thread(mesh.member, "eve")
    grant = mesh.grant(None, eve, (Role.OWNER,), 3)
    async with Replica(eve.engine, Writer(eve.id, eve.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        receipt = await Operations(replica, eve.key.sign).found(grant, "eve")
        assert receipt.effects == (Effect(0, "grant", None), Effect(1, "announce", None), Effect(2, "secret", None))
        assert replica.holds(Role.OWNER)
        assert [row.name for row in await rows(replica, NodeRow) if isinstance(row, NodeRow)] == ["eve"]


async def test_a_grant_lasts_as_long_as_asked_and_no_longer_than_its_issuers(site: Site) -> None:
    async with site.live("bert") as replica:
        act = Operations(replica, site.bert.key.sign)
        key = site.dora.key.public_key
        for lifetime_ms in (None, 60_000, 10 * YEAR_MS):
            await act.grant(GrantAsk(key, (Role.MEMBER,), ("red", "blue", "red"), lifetime_ms=lifetime_ms))
        grants = [row for row in await rows(replica, GrantRow) if isinstance(row, GrantRow)]
        given = sorted((row for row in grants if row.subject == site.dora.id), key=lambda row: row.not_after_ms)
    end = START_MS + YEAR_MS
    assert [row.not_after_ms - end for row in given[1:]] == [0, 0]
    assert given[0].not_after_ms < START_MS + 120_000
    assert {(row.issuer, row.depth, row.scope) for row in given} == {(site.bert.id, 2, ("blue", "red"))}


async def test_a_grant_rests_on_the_nearest_of_the_issuers_own(site: Site) -> None:
    second = site.mesh.grant(None, site.bert, (Role.ADMIN,), 1)
    async with site.live("anna") as replica:
        await replica.append([make(GrantEntry(second))])
    site.bert.take((await asyncio.to_thread(reopened, site.anna)).blobs())
    async with site.live("bert") as replica:
        act = Operations(replica, site.bert.key.sign)
        receipt = await act.grant(GrantAsk(site.dora.key.public_key, (Role.MEMBER,)))
        deeper = await act.grant(GrantAsk(site.dora.key.public_key, (Role.MEMBER,), delegate=1))
        depth = {row.batch: row.depth for row in await rows(replica, GrantRow) if isinstance(row, GrantRow)}
    assert [depth[receipt.hash], depth[deeper.hash]] == [1, 2]


async def test_a_chain_of_grants_has_an_end(site: Site) -> None:
    shallow = msgspec.structs.replace(LIMITS, grant_depth=2)
    with pytest.raises(X0tError) as refused:
        await do(site, "bert", asked(Role.MEMBER), shallow)
    assert refused.value.key == "grant.widens"


async def test_a_scoped_admin_gives_and_tags_within_its_scope_only(site: Site) -> None:
    eve = await asyncio.to_thread(site.mesh.member, "eve")
    async with site.live("anna") as replica:
        act = Operations(replica, site.anna.key.sign)
        await act.grant(GrantAsk(eve.key.public_key, (Role.ADMIN,), ("red",), delegate=1))
    eve.take((await asyncio.to_thread(reopened, site.anna)).blobs())
    async with Replica(eve.engine, Writer(eve.id, eve.key.sign, site.mesh.tick), site.mesh.by.mldsa_verify) as replica:
        act = Operations(replica, eve.key.sign)
        inside = GrantAsk(site.dora.key.public_key, (Role.MEMBER,), ("red",))
        assert (await act.grant(inside)).effects[0].ok
        for scope in ((), ("blue",)):
            with pytest.raises(X0tError) as refused:
                await act.grant(msgspec.structs.replace(inside, scope=scope))
            assert refused.value.key == "grant.widens"
        assert (await act.set_tags(site.cleo.id, ["red"], [])).effects[0].ok
        assert (await act.set_tags(site.cleo.id, ["blue"], [])).effects[0].reason == "role"


async def test_tags_are_added_removed_and_bounded(site: Site) -> None:
    few = msgspec.structs.replace(LIMITS, tags_per_node=3)
    async with site.live("anna", few) as replica:
        act = Operations(replica, site.anna.key.sign)
        await act.set_tags(site.cleo.id, ["red", "blue", "green"], [])
        with pytest.raises(X0tError) as refused:
            await act.set_tags(site.cleo.id, ["white"], [])
        assert refused.value.key == "tags.limit"
        await act.set_tags(site.cleo.id, ["white", "red"], ["blue", "none"])
        with pytest.raises(X0tError) as refused:
            await act.set_tags(site.cleo.id, ["white", "red"], ["blue"])
        assert refused.value.key == "tags.unchanged"
        await act.set_name(site.cleo.id, "Press 1")
        await act.set_name(site.cleo.id, "")
        keys = [row.key for row in await rows(replica, DocumentRow) if isinstance(row, DocumentRow)]
    assert keys == [f"{NodeId(site.cleo.id)}/tag/{tag}" for tag in ("green", "red", "white")]


async def test_edits_at_the_same_time_all_have_effect(site: Site) -> None:
    async with site.live("anna") as replica:
        act = Operations(replica, site.anna.key.sign)
        done = await asyncio.gather(*(act.set_tags(site.cleo.id, [f"t{number}"], []) for number in range(5)))
    assert [effect.reason for receipt in done for effect in receipt.effects] == [None] * 5


async def test_a_revocation_keeps_what_was_written_and_ends_the_rest(site: Site) -> None:
    site.cleo.say("before")
    site.anna.pull(site.cleo)
    await do(site, "anna", lambda act, site: act.revoke(site.cleo.id, (), "gone"))
    anna = await asyncio.to_thread(reopened, site.anna)
    site.cleo.say("after")
    anna.pull(site.cleo)
    names = [row.name for row in anna.view.rows(NodeRow) if isinstance(row, NodeRow)]
    assert (names, anna.engine.holds(site.cleo.id, Role.MEMBER, site.mesh.now_ms)) == (["before"], False)


async def test_a_cut_in_a_frozen_log_lies_before_its_fork(site: Site) -> None:
    await asyncio.to_thread(site.fork)
    await do(site, "anna", lambda act, site: act.revoke(site.cleo.id, (), "cloned"))
    anna = await asyncio.to_thread(reopened, site.anna)
    assert [row.cut_seq for row in anna.view.rows(RevocationRow) if isinstance(row, RevocationRow)] == [1]


async def test_an_owner_thaws_a_forked_log(site: Site) -> None:
    left, _ = await asyncio.to_thread(site.fork)
    async with site.live("anna") as replica:
        act = Operations(replica, site.anna.key.sign)
        assert (await act.thaw(site.cleo.id, left, "the other disk is gone")).effects[0].ok
        frozen = [row.decided for row in await rows(replica, FrozenRow) if isinstance(row, FrozenRow)]
    assert frozen == [1]


async def test_a_frozen_node_is_told_about_the_backup(site: Site) -> None:
    await asyncio.to_thread(site.fork)
    await asyncio.to_thread(site.cleo.pull, site.anna)
    with pytest.raises(X0tError) as refused:
        await do(site, "cleo", lambda act, site: act.announce("cleo", (), ""))
    assert refused.value.key in {"grant.role", "replica.frozen"}
    assert "backup was restored" in refused.value.hint


async def test_a_checkpoint_covers_what_is_old_enough(site: Site) -> None:
    async with site.live("anna") as replica:
        act = Operations(replica, site.anna.key.sign)
        site.mesh.tick(60_000)
        await act.announce("late", (), "")
        await act.checkpoint(30_000)
        await act.checkpoint(1)
        closed = [row for row in await rows(replica, CheckpointRow) if isinstance(row, CheckpointRow)]
    assert sorted((row.epoch, row.count, row.reason) for row in closed) == [(1, 3, ""), (2, 5, "")]


def reopened(member: Member) -> Member:
    member.start()
    return member
