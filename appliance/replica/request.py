"""Request: one piece of work for the writer's thread, and the caller on the event loop who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from appliance.core.errors import X0tError
from appliance.replica.fold import Effects

T = TypeVar("T")


class Request(Generic[T]):
    """Work for the writer and the future, on the event loop, that waits for it."""

    __slots__ = ("alone", "durable_only", "finish", "future", "outcome", "work")

    def __init__(self, future: asyncio.Future[T], work: Callable[[], T]) -> None:
        self.future = future
        self.work = work
        self.finish: Callable[[T, Effects], T] | None = None  # completes the result once the fold is known
        self.durable_only = False  # answered once durable, before the fold
        self.alone = False  # runs between two groups, with everything folded
        self.outcome: T | Exception | None = None

    def run(self) -> None:
        """On the writer's thread. A fault of ours is the writer's; in a query, which runs alone, its caller's."""
        try:
            self.outcome = self.work()
        except X0tError as err:
            self.outcome = err
        except Exception as err:
            if not self.alone or self.finish is not None:
                raise
            self.outcome = err

    def resolve(self) -> None:
        """On the event loop."""
        if self.future.done():
            return  # the caller was cancelled; what it asked for is durable all the same
        if isinstance(self.outcome, Exception):
            self.future.set_exception(self.outcome)
        else:
            self.future.set_result(self.outcome)  # type: ignore[arg-type]  # work ran, so the outcome is its result
