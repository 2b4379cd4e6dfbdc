"""A replica with its asyncio face over real stores, and the ways in which tests hold its writer up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import Entry
from appliance.replica.engine import Engine
from appliance.replica.entries import AnnounceEntry, make
from appliance.replica.service import Replica, Writer
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.trust.grants import Role
from tests.mesh_rig import Mesh


class CountedLog(LogStore):
    """Remembers how many batches each durable transaction held."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.groups: list[int] = []

    def append(self, batches: Sequence[tuple[bytes, bytes]]) -> int:
        last = super().append(batches)
        self.groups.append(len(batches))
        return last


class GatedView(ViewStore):
    """Folds only while its gate is open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Event()
        self.gate.set()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        assert self.gate.wait(20)
        with super().transaction():
            yield


class Node:
    """A founder's replica, and bert: a member with an engine of its own that has all that the founder has.

    `log` and `view` are under the replica, to be looked at while nobody writes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mesh = Mesh(directory)
        self.member = self.mesh.founder("anna", self._stores)
        self.bert = self.mesh.member("bert")
        self.member.give(self.bert, Role.MEMBER)
        self.bert.pull(self.member)

    def _stores(self) -> tuple[LogStore, ViewStore]:
        self.log = CountedLog(self.directory / "anna.log")
        self.view = GatedView(self.directory / "anna.view")
        return self.log, self.view

    def live(self, limits: Limits = LIMITS) -> Replica:
        """To be entered once."""
        member = self.member
        engine = Engine(self.mesh.identity, member.log, member.view, self.mesh.by.mldsa_verify, limits)
        return Replica(engine, Writer(member.id, member.key.sign, self.mesh.tick), self.mesh.by.mldsa_verify, limits)


def hello(name: str, size: int = 0) -> list[Entry]:
    """The entries of a batch that announces; `size` bytes of ballast make it large."""
    entries = [make(AnnounceEntry(name, (), ""))]
    return [*entries, ("ballast", bytes(size))] if size else entries


@asynccontextmanager
async def held(replica: Replica) -> AsyncIterator[asyncio.TaskGroup]:
    """The writer is busy until the block ends; what the group was given then goes on, and is awaited."""
    gate, begun, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()

    def busy(_: Engine) -> bool:
        loop.call_soon_threadsafe(begun.set)
        return gate.wait(20)

    async with asyncio.TaskGroup() as group:
        group.create_task(replica.run(busy))
        await begun.wait()
        try:
            yield group
            for _ in range(3):
                await asyncio.sleep(0)  # so that all tasks have asked
        finally:
            gate.set()
