"""A site whose nodes ask for operations, each at its own replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.replica.operations import Operations
from appliance.replica.reports import Receipt
from appliance.replica.rows import Row
from appliance.replica.service import Replica, Writer
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh

Deed = Callable[[Operations, "Site"], Awaitable[Receipt]]


class Site:
    """Anna founds; bert is an admin that may delegate, cleo a member, dora nobody. Each has a replica of its own."""

    def __init__(self, directory: Path) -> None:
        self.mesh = Mesh(directory)
        self.anna = self.mesh.founder("anna")
        self.bert, self.cleo, self.dora = (self.mesh.member(name) for name in ("bert", "cleo", "dora"))
        self.anna.give(self.bert, Role.ADMIN, delegate=2)
        self.anna.give(self.cleo, Role.MEMBER)
        for node in (self.bert, self.cleo, self.dora):
            node.pull(self.anna)

    def live(self, name: str, limits: Limits = LIMITS) -> Replica:
        node = cast("Member", getattr(self, name))
        node.engine.limits = limits
        return Replica(node.engine, Writer(node.id, node.key.sign, self.mesh.tick), self.mesh.by.mldsa_verify)

    def fork(self) -> list[bytes]:
        """Cleo's disk is cloned: both copies write a second batch. All nodes learn of it."""
        clone = self.mesh.member("cleo", lambda: self.mesh.stores("clone"))
        clone.pull(self.anna)
        self.cleo.say("one")
        clone.take(self.cleo.blobs())
        for node, name in ((self.cleo, "left"), (clone, "right")):
            node.say(name)
        self.anna.pull(self.cleo, clone)
        clone.engine.close()
        return self.anna.view.at_seq(self.cleo.id, 2)


async def do(site: Site, who: str, deed: Deed, limits: Limits = LIMITS) -> Receipt:
    async with site.live(who, limits) as replica:
        return await deed(Operations(replica, getattr(site, who).key.sign), site)


async def rows(replica: Replica, table: type[Row]) -> list[Row]:
    return await replica.run(lambda engine: list(engine.view.rows(table)))


async def refused(site: Site, who: str, deed: Deed) -> str:
    """The key of the error with which a node refuses a deed. Nothing may have been written."""
    node = cast("Member", getattr(site, who))
    before = node.log.last_arrival()
    async with site.live(who) as replica:
        with pytest.raises(X0tError) as refusal:
            await deed(Operations(replica, node.key.sign), site)
        assert await replica.run(lambda engine: engine.log.last_arrival()) == before
    return refusal.value.key
