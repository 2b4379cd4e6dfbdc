"""Yggdrasil addresses: what the routing layer makes of a node's Ed25519 public key (0.5, `src/address`).

An address holds as much of the key as fits, so who owns the key owns the address: a source address on the mesh is
bound to a key. A node also has a /64, whose hosts it speaks for.
"""

from __future__ import annotations

from appliance.core.prefix import ADDRESS_BYTES, Prefix

KEY_BYTES = 32
NODES = Prefix(b"\x02" + bytes(15), 8)  # addresses of nodes
SUBNETS = Prefix(b"\x03" + bytes(15), 8)  # the /64 blocks behind them
RANGE = Prefix(b"\x02" + bytes(15), 7)  # both

_KEY_BITS = 8 * KEY_BYTES


def node_address(key: bytes) -> bytes:
    """The address of a node: 0x02, the count of leading ones of the inverted key, and the bits after the first zero."""
    return _derive(key, NODES.address[0])


def node_subnet(key: bytes) -> Prefix:
    """The /64 of a node."""
    return Prefix(_derive(key, SUBNETS.address[0])[:8] + bytes(8), 64)


def _derive(key: bytes, head: int) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError("a Yggdrasil key has 32 bytes")
    number = int.from_bytes(key, "big")
    zeros = min(_KEY_BITS - number.bit_length(), 255)
    inverted = number ^ (1 << _KEY_BITS) - 1
    rest = (inverted << zeros + 1) & (1 << _KEY_BITS) - 1  # the ones and the zero that ends them fall off
    return bytes((head, zeros)) + rest.to_bytes(KEY_BYTES, "big")[: ADDRESS_BYTES - 2]
