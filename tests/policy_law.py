"""The law between `evaluate` and `compile`, as a function of the compiler, so that mutants of it can be held to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, evaluate
from appliance.policy.filter import Filter
from appliance.policy.filter_check import Direction, permits
from appliance.policy.model import Policy

Filters = Callable[[bytes], Filter]  # the filter of a node


def crossing(directory: Directory, flows: Iterable[Flow]) -> list[tuple[Flow, bytes, bytes]]:
    """The flows that cross the mesh, with the nodes of their ends."""
    found = []
    for flow in flows:
        source, target = directory.place(flow.source), directory.place(flow.target)
        if source is not None and target is not None and source.node != target.node:
            found.append((flow, source.node, target.node))
    return found


def broken(policy: Policy, directory: Directory, flows: Iterable[Flow], now_ms: int, filters: Filters) -> list[str]:
    """Where a filter does not say what `evaluate` says; empty if the law holds.

    The sender's node permits what is allowed, and so does the receiver's; no other node permits any of it, and nobody
    what has no two nodes at its ends.
    """
    made = {node: filters(node) for node in directory.members}
    faults = []
    for flow in flows:
        ends = next(((sender, receiver) for _, sender, receiver in crossing(directory, [flow])), (None, None))
        allowed = evaluate(policy, directory, flow, now_ms).allowed
        for node, held in made.items():
            for direction, end in ((Direction.OUTBOUND, ends[0]), (Direction.INBOUND, ends[1])):
                wanted = allowed and node == end
                if permits(held, direction, flow, now_ms) != wanted:
                    faults.append(f"{direction} at {node[:1].hex()}: {flow} should be {wanted}")
    return faults
