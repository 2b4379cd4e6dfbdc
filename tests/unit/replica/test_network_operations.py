"""Operations of network and policy: refused where they could have no effect, and what they achieve otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS
from appliance.replica.document_kinds import POLICY
from appliance.replica.entries import AttachEntry
from appliance.replica.operations import DocumentEdit, Operations
from appliance.replica.queries import Queries
from tests.attach_rig import attach
from tests.mesh_rig import Member
from tests.unit.replica.operations_rig import Deed, Site, do, refused


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def attached(site: Site, name: str, *uris: str) -> AttachEntry:
    """With a proof that holds for the node of that name only."""
    return attach(site.mesh.id, cast("Member", getattr(site, name)).id, name, *uris)


PART = DocumentEdit(POLICY, {"part/0123456789abcdef": True})
REFUSED: list[tuple[str, str, Deed, str]] = [
    ("nobody attaches", "dora", lambda act, site: act.attach(attached(site, "dora")), "grant.role"),
    ("a member attaches another's key", "cleo", lambda act, site: act.attach(attached(site, "bert")), "attach.proof"),
    (
        "a member attaches an address with an option",
        "cleo",
        lambda act, site: act.attach(attached(site, "cleo", "tls://h:1?password=x")),
        "entry.malformed",
    ),
    ("a member makes a secret", "cleo", lambda act, site: act.rotate_secret(), "grant.role"),
    (
        "a member sets a subnet",
        "cleo",
        lambda act, site: act.set_subnets(site.cleo.id, ["fd00::/64"], []),
        "grant.role",
    ),
    ("a subnet is the mesh", "anna", lambda act, site: act.set_subnets(site.cleo.id, ["200::/7"], []), "subnet.form"),
    ("no subnet changes", "anna", lambda act, site: act.set_subnets(site.cleo.id, [], ["x"]), "subnet.unchanged"),
    ("a member edits the policy", "cleo", lambda act, site: act.edit_document(PART), "grant.role"),
    (
        "nothing in a document changes",
        "anna",
        lambda act, site: act.edit_document(DocumentEdit(POLICY, {}, ("part/0123456789abcdef",))),
        "document.unchanged",
    ),
    (
        "a document has no place for it",
        "anna",
        lambda act, site: act.edit_document(DocumentEdit(POLICY, {"x": True})),
        "document.schema",
    ),
    (
        "a document was changed by somebody",
        "anna",
        lambda act, site: act.edit_document(msgspec.structs.replace(PART, after=bytes(32))),
        "document.changed",
    ),
    (
        "a key that an edit rests on is gone",
        "anna",
        lambda act, site: act.edit_document(msgspec.structs.replace(PART, holding="group/one")),
        "document.changed",
    ),
]


@pytest.mark.parametrize("who, deed, key", [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
async def test_what_could_have_no_effect_is_refused_and_nothing_is_written(
    site: Site, who: str, deed: Deed, key: str
) -> None:
    assert await refused(site, who, deed) == key


EFFECTIVE: list[tuple[str, str, Deed]] = [
    ("a member attaches its key", "cleo", lambda act, site: act.attach(attached(site, "cleo", "tls://h:1"))),
    ("an admin makes a secret", "bert", lambda act, site: act.rotate_secret()),
    ("an admin sets a subnet", "bert", lambda act, site: act.set_subnets(site.cleo.id, ["fd00::/64"], [])),
    ("an admin edits the policy", "bert", lambda act, site: act.edit_document(PART)),
    (
        "an owner begins the policy",
        "anna",
        lambda act, site: act.edit_document(msgspec.structs.replace(PART, after=b"")),
    ),
]


@pytest.mark.parametrize("who, deed", [pytest.param(*row[1:], id=row[0]) for row in EFFECTIVE])
async def test_what_is_written_has_effect(site: Site, who: str, deed: Deed) -> None:
    receipt = await do(site, who, deed)
    assert [effect.ok for effect in receipt.effects] == [True]


async def test_subnets_are_added_removed_and_bounded(site: Site) -> None:
    few = msgspec.structs.replace(LIMITS, subnets_per_node=2)
    async with site.live("anna", few) as replica:
        act = Operations(replica, site.anna.key.sign)
        await act.set_subnets(site.cleo.id, ["fd00:1::/64", "fd00:2::/64"], [])
        with pytest.raises(X0tError) as refused:
            await act.set_subnets(site.cleo.id, ["fd00:3::/64"], [])
        assert refused.value.key == "subnet.limit"
        await act.set_subnets(site.cleo.id, ["fd00:3::/64", "fd00:1::/64"], ["fd00:2::/64", "fd00:2::/64"])
        (view,) = [view for view in await Queries(replica).members() if view.node == site.cleo.id]
    assert view.subnets == ("fd00:1::/64", "fd00:3::/64")


async def test_an_attachment_is_written_once_and_again_when_it_changes(site: Site) -> None:
    async with site.live("cleo") as replica:
        act = Operations(replica, site.cleo.key.sign)
        await act.attach(attached(site, "cleo"))
        with pytest.raises(X0tError) as refused:
            await act.attach(attached(site, "cleo"))
        assert refused.value.key == "attach.unchanged"
        await act.attach(attached(site, "cleo", "quic://h:1"))
        network = await Queries(replica).network()
    assert [(row.node, row.uris) for row in network.attachments] == [(site.cleo.id, ("quic://h:1",))]
    assert network.secret is None
    assert [view.node for view in network.members] == sorted(node.id for node in (site.anna, site.bert, site.cleo))


async def test_the_secret_of_a_mesh_gets_a_new_epoch_each_time(site: Site) -> None:
    async with site.live("anna") as replica:
        act, ask = Operations(replica, site.anna.key.sign), Queries(replica)
        secrets = []
        for _ in range(2):
            await act.rotate_secret()
            secrets.append((await ask.network()).secret)
    first, second = secrets
    assert first is not None
    assert second is not None
    assert (first.epoch, second.epoch, len(second.secret)) == (1, 2, 32)
    assert first.secret != second.secret


async def test_an_edit_of_a_document_that_was_read_before_another_edit_is_refused(site: Site) -> None:
    async with site.live("anna") as replica:
        act, ask = Operations(replica, site.anna.key.sign), Queries(replica)
        await act.edit_document(msgspec.structs.replace(PART, after=b""))
        (seen,) = await ask.history(POLICY)
        second = DocumentEdit(POLICY, {"group/one": b"1"}, tuple(PART.puts), after=seen.change)
        await act.edit_document(second)
        with pytest.raises(X0tError) as refused:
            await act.edit_document(second)
        assert refused.value.key == "document.changed"
        _, change = await ask.history(POLICY)
    assert (change.puts, change.deletes) == ({"group/one": b"1"}, tuple(PART.puts))
