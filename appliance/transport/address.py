"""Address: where a node listens. It has a module of its own so that reading settings loads no driver."""

from __future__ import annotations

import msgspec


class Address(msgspec.Struct, frozen=True):
    """Where a node listens; an IPv6 address stands without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
