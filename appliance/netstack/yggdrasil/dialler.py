"""Keeps the daemon's peers as they are chosen, while it runs: dials, parts, and tries again what was lost.

Whom to dial is decided by `peers`, from what `sight` remembers. Of two that choose one another the later one in the
order of members dials, and the earlier one waits for it: a second link between two is idle, so that its loss is seen
last of all, and taking it away again would move the tree. A link that the other end opened is never ended here: the
daemon cannot do that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from appliance.netstack.yggdrasil.admin import Admin, Peer
from appliance.netstack.yggdrasil.config import peer_uri
from appliance.netstack.yggdrasil.peers import Choice, Observations, choose, invited, precedence
from appliance.netstack.yggdrasil.records import Candidate, Wanted
from appliance.netstack.yggdrasil.sight import Sight

_LINK_LOCAL: Final = "[fe80:"  # peers by discovery
_CALLED: Final = 8  # newcomers that are dialled at a time
_WAIT_S: Final = 2.0  # for a later member to dial us


class Dialler:
    """The peers of one daemon, and of the next one if it is restarted."""

    def __init__(self, how: Choice) -> None:
        self.chosen: frozenset[bytes] = frozenset()
        self._sight = Sight()
        self._how = how

    def missing(self, peers: Collection[Peer]) -> bool:
        """True if a peer that is wanted is not linked."""
        return bool(self.chosen - {peer.public_key for peer in peers if peer.up})

    def uris(self, own: Candidate, wanted: Wanted) -> tuple[str, ...]:
        """What a new daemon should dial from its start."""
        members = {each.key: each for each in wanted.members if each.uris}
        early = sorted(key for key in self.chosen if key in members and precedence(members[key]) < precedence(own))
        return tuple(peer_uri(self._sight.uri(members[key]), key, wanted.password) for key in early)

    def choose(
        self, own: Candidate, wanted: Wanted, peers: Collection[Peer], barred: Collection[bytes], now_s: float
    ) -> dict[str, bytes]:
        """The addresses to dial now, with their keys. `barred` cannot dial us yet: some of us dial them."""
        members = {each.key: each for each in wanted.members}
        self._sight.keep(members)
        self._sight.look(peers, self.chosen, now_s)
        current = self.chosen or {peer.public_key for peer in peers if peer.up and not peer.inbound}  # adopted
        self.chosen = choose(Observations(own, wanted.members, self._sight.measured), current, now_s, self._how)
        called = invited(own, wanted.members, [members[key] for key in barred if key in members and members[key].uris])
        ours = {peer.public_key for peer in peers if not peer.inbound}
        theirs = {peer.public_key for peer in peers if peer.up and peer.inbound}
        dialled = set(called[:_CALLED]) - (theirs - ours)
        for key in self.chosen:
            is_ours = key not in theirs and (key in ours or self._sight.waited_s(key, now_s) >= _WAIT_S)
            if is_ours or precedence(members[key]) < precedence(own):
                dialled.add(key)
        return {self._sight.uri(members[key]): key for key in dialled}

    async def dial(
        self, admin: Admin, dialled: Mapping[str, bytes], wanted: Wanted, peers: Collection[Peer], now_s: float
    ) -> None:
        """Bring the daemon's peers to these. Raises `yggdrasil.*`."""
        members = {each.key for each in wanted.members}
        present = {peer.remote: peer for peer in peers if not peer.inbound}
        for remote, peer in present.items():
            stranger = bool(peer.key) and peer.public_key not in members
            if stranger or (remote not in dialled and _LINK_LOCAL not in remote):
                await admin.remove_peer(remote)
        for uri, key in dialled.items():
            known = present.get(uri)
            if known is None or (not known.up and self._sight.kicks(key, now_s)):
                await admin.add_peer(peer_uri(uri, key, wanted.password))
