"""Tape: choices from bytes, so that a run is its tape and a smaller byte is a plainer choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Tape:
    """Choices, one byte each; past its end always the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._data)

    def number(self, below: int) -> int:
        if self.is_over:
            return 0
        self._at += 1
        return self._data[self._at - 1] % below

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]
