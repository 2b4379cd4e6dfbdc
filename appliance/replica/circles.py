"""Circles: strongly connected components of what waits for what, in linear time (Tarjan, 1972), without recursion."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TypeVar

N = TypeVar("N", bound=Hashable)


def source_circles(waits: Mapping[N, Collection[N]]) -> list[list[N]]:
    """Components that wait for nothing outside themselves. Every key waits for at least one other key or itself."""
    components = list(_components(waits))
    home = {node: number for number, component in enumerate(components) for node in component}
    return [
        component
        for number, component in enumerate(components)
        if all(home.get(other, number) == number for node in component for other in waits[node])
    ]


def _components(waits: Mapping[N, Collection[N]]) -> Iterator[list[N]]:
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    on_stack: set[N] = set()
    stack: list[N] = []
    for root in waits:
        if root in index:
            continue
        work: list[tuple[N, Iterator[N]]] = [(root, iter(waits[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, others = work[-1]
            for other in others:
                if other not in waits:
                    continue
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(waits[other])))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    yield _unwind(stack, on_stack, node)


def _unwind(stack: list[N], on_stack: set[N], node: N) -> list[N]:
    component: list[N] = []
    while True:
        member = stack.pop()
        on_stack.discard(member)
        component.append(member)
        if member == node:
            return component
