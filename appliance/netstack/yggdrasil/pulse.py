"""Finds links that swallow everything: makes each one that matters say something, and gives up one that stays silent.

The daemon notices the loss of a link only when it has sent something and nothing came back for 3 s; it sends nothing on
an idle link, so that may be minutes. Here every link to a relay, and every one that we opened, has something to answer
twice a second. Of those that we opened, a silent one is given up sooner than by the daemon.

It also frees sessions that hang: if the answer to the first message of a session is lost, for want of a path, the one
who should answer ignores the same message from then on, and both wait for a minute. A word from its side brings the
path, and the session with it. docs/adr/0013 has the figures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from appliance.netstack.yggdrasil.admin import Admin, Peer

SILENT_S: Final = 2.0  # and four round trips: what a link may take to say anything at all
_ASKED: Final = 3  # times at least: a stall of ours is no silence of theirs
_MOST: Final = 32  # links that are asked in a round
_LOOK_S: Final = 1.0  # between looks at the sessions, which may be thousands
_NS_PER_S: Final = 1e9


class _Link(msgspec.Struct):
    received: int
    asked: int = 0  # times since then
    asked_at_s: float = 0.0  # first of these


class Pulse:
    """What the links said last. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._looked_at_s = 0.0

    async def beat(self, admin: Admin, peers: Iterable[Peer], relays: Collection[bytes], now_s: float) -> None:
        """Ask all links that matter, and part from those that did not answer. Raises `yggdrasil.*`."""
        mattering = [peer for peer in peers if peer.up and (not peer.inbound or peer.public_key in relays)]
        for peer in self.silent(mattering, now_s):
            await admin.remove_peer(peer.remote)
        asked = sorted({peer.public_key for peer in mattering})[:_MOST]
        for key in {*asked, *await self._begun(admin, now_s)}:
            await admin.nudge(key)

    async def _begun(self, admin: Admin, now_s: float) -> list[bytes]:
        """Who began a session with us that did not come about yet."""
        if now_s - self._looked_at_s < _LOOK_S:
            return []
        self._looked_at_s = now_s
        return [session.public_key for session in await admin.sessions() if not session.bytes_recvd][:_MOST]

    def silent(self, peers: Collection[Peer], now_s: float) -> list[Peer]:
        """The links that we opened and that said nothing although asked; all of these are asked now."""
        known, self._links = self._links, {}
        found = []
        for peer in peers:
            link = known.get(peer.remote)
            if link is None or link.received != peer.bytes_recvd:
                link = _Link(received=peer.bytes_recvd, asked_at_s=now_s)
            elif (
                not peer.inbound
                and link.asked >= _ASKED
                and now_s - link.asked_at_s > SILENT_S + 4 * peer.latency / _NS_PER_S
            ):
                found.append(peer)
                continue
            link.asked += 1
            self._links[peer.remote] = link
        return found
