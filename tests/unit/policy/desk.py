"""A desk: one node's way to the policy of a real mesh, and somebody who writes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from appliance.policy.model import (
    Action,
    Policy,
    PolicyTest,
    Protocol,
    Rule,
    Service,
    TagSelector,
    content_id,
    encode_test,
)
from appliance.policy.service import Editor, PolicyService
from appliance.replica.operations import DocumentEdit, Operations
from appliance.replica.queries import Queries
from appliance.replica.reports import Receipt
from appliance.replica.service import Replica
from tests.unit.replica.operations_rig import Site


class Desk(NamedTuple):
    """One node's way to the policy."""

    replica: Replica
    queries: Queries
    operations: Operations
    policy: PolicyService


class Meddler:
    """Writes for the service; just before the edit with this number something else happens."""

    def __init__(self, operations: Operations, number: int, deed: Callable[[], Awaitable[object]]) -> None:
        self._operations = operations
        self._deed = deed
        self._left = number

    async def edit_document(self, edit: DocumentEdit) -> Receipt:
        if self._left == 0:
            await self._deed()
        self._left -= 1
        return await self._operations.edit_document(edit)


@asynccontextmanager
async def desk(site: Site, who: str = "anna") -> AsyncIterator[Desk]:
    async with site.live(who) as replica:
        queries, operations = Queries(replica), Operations(replica, getattr(site, who).key.sign)
        yield Desk(replica, queries, operations, service(replica, operations))


def service(replica: Replica, editor: Editor) -> PolicyService:
    return PolicyService(Queries(replica), editor, replica.now_ms, asyncio.to_thread)


def policy(*rules: Rule, tests: tuple[PolicyTest, ...] = ()) -> Policy:
    return Policy(
        rules={rule.id: rule for rule in rules}, tests={content_id(encode_test(test)): test for test in tests}
    )


def large(count: int) -> Policy:
    """More than fits one change."""
    services = (Service(Protocol.TCP, 502, 502),)
    return policy(
        *(
            Rule(
                action=Action.ALLOW,
                sources=(TagSelector(f"robot-{number}"),),
                targets=(TagSelector("gate"),),
                services=services,
                note="x" * 60,
            )
            for number in range(count)
        )
    )
