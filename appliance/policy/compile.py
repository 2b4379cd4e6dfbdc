"""From policy and directory to what one node must enforce. Only the last step, `view`, knows the node.

Whom the same rules speak of shares a class, so tables grow with what rules tell apart and not with the number of nodes:

1. A member's groups are the lists of selectors that select it (`pieces`); one mask for every set of tags.
2. Seen from a node only the groups count that a rule joins to the node or to a host behind it. Equal masks are a class.
3. A pair of classes has the pieces that lead from the one to the other; a service that one of them allows and none
   denies makes an entry.

The law, kept by tests/properties/test_policy_compile.py: the filter permits what `evaluate` allows, nothing else. What
has become more than a node can hold is refused, never widened. Nothing here reads a clock: rules that are over are left
out, and `next_change_ms` says when to compile again; until then a stale filter is never wider than the policy.
"""

from __future__ import annotations

from typing import Final

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.policy.directory import Directory, Member
from appliance.policy.filter import Address, Filter
from appliance.policy.model import Policy, RuleId
from appliance.policy.pieces import Groups, Pieces, active
from appliance.policy.territory import Stretch, hosts, number
from appliance.policy.view import NUMBER_BITS, Slot, View


def compile_filter(policy: Policy, directory: Directory, node: bytes, now_ms: int, limits: Limits = LIMITS) -> Filter:
    """What a node must enforce at a moment. Raises `policy.not_member`, `policy.too_large`."""
    compiler = Compiler(limits)
    compiler.set_directory(directory)
    compiler.set_policy(policy, now_ms)
    return compiler.filter(node)


def next_change_ms(policy: Policy, now_ms: int) -> int | None:
    """The moment after *now* when the next rule expires; None if none does."""
    ends = (rule.until_ms for rule in policy.rules.values() if rule.until_ms is not None and rule.until_ms > now_ms)
    return min(ends, default=None)


class Compiler:
    """Keeps what filters have in common, so that a change costs what it changes. Results are those of `compile_filter`.

    It serves any node, and keeps the view of the last one. `number_bits` shortens the digests that numbers are made
    from: a test makes them collide.
    """

    def __init__(self, limits: Limits = LIMITS, *, number_bits: int = NUMBER_BITS) -> None:
        self._limits: Final = limits
        self._number_bits: Final = number_bits
        self._directory = Directory()
        self._hosts: list[Stretch[bytes]] = []
        self._active: frozenset[RuleId] = frozenset()
        self._pieces = Pieces({})
        self._host_groups: list[Stretch[tuple[bytes, Groups]]] = []
        self._view: View | None = None
        self._refused: tuple[list[Stretch[Groups]], X0tError] | None = None  # a view that was too large

    def set_policy(self, policy: Policy, now_ms: int) -> None:
        """From now on the rules count that are active at a moment."""
        rules = active(policy.rules, now_ms)
        if rules.keys() == self._active:
            return  # a rule is known by its content
        self._active = frozenset(rules)
        self._pieces = Pieces(rules)
        self._host_groups = self._pieces.host_groups(self._hosts)
        self._view = self._refused = None

    def set_directory(self, directory: Directory) -> None:
        """From now on these are the members and the subnets."""
        before, self._directory = self._directory, directory
        if before.subnets != directory.subnets or before.by_address.keys() != directory.by_address.keys():
            self._hosts = hosts(directory)
            self._host_groups = self._pieces.host_groups(self._hosts)

    def filter(self, node: bytes) -> Filter:
        """What a node must enforce. Raises `policy.not_member`, `policy.too_large`."""
        member = self._directory.members.get(node)
        if member is None:
            raise error("policy.not_member", node=node)
        near = self._near(member)
        view = self._seen_from(near)
        far = [Stretch(first, last, groups) for first, last, (gateway, groups) in self._host_groups if gateway != node]
        return view.filter(member.address, self._peers(view, member), far)

    def _seen_from(self, near: list[Stretch[Groups]]) -> View:
        """The policy as this place sees it. One that is too large is not tried twice: it may take a second to find."""
        if self._view is not None and self._view.near == near and not self._view.crowded:
            return self._view
        if self._refused is not None and self._refused[0] == near:
            raise self._refused[1].with_traceback(None)
        try:
            self._view = View(self._pieces, near, self._limits, self._number_bits)
        except X0tError as err:
            self._refused = near, err
            raise
        return self._view

    def _near(self, member: Member) -> list[Stretch[Groups]]:
        """The node and the hosts behind it."""
        near = [
            Stretch(first, last, groups)
            for first, last, (gateway, groups) in self._host_groups
            if gateway == member.node
        ]
        if self._speaks(member):
            own = number(member.address)
            near.append(Stretch(own, own, self._pieces.node_groups(member.tags, member.node)))
        return sorted(near)

    def _peers(self, view: View, own: Member) -> dict[Address, Slot]:
        """The other members by address, as the view tells them apart."""
        peers = {address: view.by_tags[member.tags] for address, member in self._directory.by_address.items()}
        for named in self._pieces.by_node.keys() & self._directory.members.keys():
            member = self._directory.members[named]
            if self._speaks(member):
                peers[member.address] = view.slot(self._pieces.node_groups(member.tags, named))
        if self._speaks(own):
            del peers[own.address]
        return peers

    def _speaks(self, member: Member) -> bool:
        """True if the member's address is its own: of two that claim one, the lower id has it."""
        return self._directory.by_address[member.address].node == member.node
