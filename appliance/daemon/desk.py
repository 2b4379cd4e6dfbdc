"""Desk: what this gateway knows of tokens and of those who asked, kept at hand and renewed after each change.

It answers at once who may come to the door, from the state of a moment ago; whether a request has effect, the replica
says when it is written. The door is open to strangers only while a token that names this node has not ended: one that
is spent or withdrawn still lets them hear so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from appliance.core.errors import error
from appliance.core.ids import NodeId, TokenId
from appliance.daemon import events
from appliance.daemon.changes import Changes
from appliance.daemon.codes import Codes
from appliance.replica import admission_queries
from appliance.replica.admission_queries import AdmissionQueries
from appliance.replica.engine import Engine
from appliance.replica.membership import admission_rows
from appliance.replica.rows import AdmissionRow, TokenRow
from appliance.replica.service import Replica
from appliance.trust.tokens import Token, check_time, peek_token

BANNED: Final = "banned"
OPEN: Final = "open"
ENDED: Final = frozenset({"retired", "revoked", "spent"})  # each is an error of the area token, too
REFRESH_S: Final = 0.1  # between two readings, however quickly things change
LOOK_S: Final = 1.0  # between two looks at the clock: a token's end is no change


class Held(msgspec.Struct, frozen=True):
    """A token that names this gateway."""

    blob: bytes
    token: Token


class Desk:
    """The gateway's view of its mesh."""

    def __init__(self, replica: Replica, codes: Codes) -> None:
        self.changes = Changes()  # after each renewal
        self.admissions: Mapping[bytes, AdmissionRow] = {}
        self.is_open = False  # strangers may come
        self._replica = replica
        self._codes = codes
        self._queries = AdmissionQueries(replica)
        self._names_us: dict[bytes, bool] = {}  # tokens that may be taken here, and others
        self._ends_ms = 0  # of the token that lasts longest, of those that may be taken here
        self._seen: tuple[int, int] | None = None
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("admission")

    def welcome(self, node: bytes) -> bool:
        """True if a node that is no member may come to the door: to ask, or to hear how it stands."""
        known = self.admissions.get(node)
        return self.is_open if known is None else known.state != BANNED

    async def find(self, identity: bytes, node: bytes) -> Held:
        """The token, if this node may redeem it here, or did before.

        Raises `admission.unknown`, `admission.gateway`, or `token.*` for one that has ended.
        """
        found = await self._queries.token(identity)
        if found is None:
            raise error("admission.unknown", token=TokenId(identity))
        view, blob = found
        token = peek_token(blob, self._replica.limits)
        if not _may_take(token, self._replica.node):
            raise error("admission.gateway", node=NodeId(self._replica.node))
        if node not in view.carried and all(left.node != node for left in view.surplus):
            now_ms = self._replica.now_ms()
            check_time(token, now_ms, self._replica.limits)
            if (state := view.state(now_ms)) in ENDED:
                raise error(f"token.{state}", token=TokenId(identity))
        return Held(blob, token)

    # -- the job

    async def run(self, changes: Changes) -> None:
        """Renew after each change of the replica; cancelled at the end."""
        while True:
            count = changes.count
            await self.refresh()
            await asyncio.sleep(REFRESH_S)
            try:
                async with asyncio.timeout(LOOK_S):
                    await changes.after(count)
            except TimeoutError:
                pass

    async def refresh(self) -> None:
        """Read what changed, and look at the clock."""
        ended = await self._replica.run(self._read)
        if ended is not None:
            await asyncio.to_thread(self._codes.forget, ended)
            self.changes.tell()
        is_open = self._replica.now_ms() <= self._ends_ms
        if is_open != self.is_open:
            self.is_open = is_open
            self._log.info(events.DOOR_MOVED, open=is_open)

    def _read(self, engine: Engine) -> frozenset[bytes] | None:
        """On the writer's thread: tokens behind our codes that admit nobody more; None if nothing was written since."""
        now, now_ms = engine.view.changes(), self._replica.now_ms()
        if now == self._seen:
            return None
        self._seen = now
        rows = [row for row in engine.view.rows(TokenRow) if isinstance(row, TokenRow)]
        self._ends_ms = max((row.not_after_ms for row in rows if self._is_ours(engine, row, now_ms)), default=0)
        self.admissions = admission_rows(engine)
        return frozenset(token for token in self._codes.tokens() if _has_ended(engine, token, now_ms))

    def _is_ours(self, engine: Engine, row: TokenRow, now_ms: int) -> bool:
        if row.not_after_ms < now_ms:
            return False
        if row.token not in self._names_us:
            found = admission_queries.token(engine, row.token)
            is_named = found is not None and _may_take(peek_token(found[1], engine.limits), self._replica.node)
            self._names_us[row.token] = is_named
        return self._names_us[row.token]


def _may_take(token: Token, gateway: bytes) -> bool:
    named = {end.node for end in token.endpoints}
    return gateway in ({token.redeemer} if token.redeemer is not None else named)


def _has_ended(engine: Engine, token: bytes, now_ms: int) -> bool:
    found = admission_queries.token(engine, token)
    return found is not None and found[0].state(now_ms) not in {OPEN, "early"}
