"""IPv6 addresses and prefixes as plain values: an address is 16 bytes, most significant first (RFC 4291).

`ipaddress` reads and writes the text forms; what is kept and compared is bytes, which sort as addresses do. IPv4 is
refused: the mesh carries none.
"""

from __future__ import annotations

import ipaddress

import msgspec

from appliance.core.errors import error

ADDRESS_BYTES = 16
ADDRESS_BITS = 128


class Prefix(msgspec.Struct, frozen=True, order=True):
    """A block of addresses; bits behind the first `length` are zero."""

    address: bytes
    length: int

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """From `fd00:1::/64`, or one address. Raises `address.text`."""
        try:
            network = ipaddress.IPv6Network(text)
        except ValueError as err:
            raise error("address.text", text=text, reason=str(err)) from err
        return cls(network.network_address.packed, network.prefixlen)

    @property
    def first(self) -> bytes:
        """The lowest address."""
        return self.address

    @property
    def last(self) -> bytes:
        """The highest address."""
        low = int.from_bytes(self.address, "big")
        return (low | (1 << ADDRESS_BITS - self.length) - 1).to_bytes(ADDRESS_BYTES, "big")

    def __contains__(self, address: bytes) -> bool:
        return self.first <= address <= self.last

    def covers(self, other: Prefix) -> bool:
        """True if every address of the other is in this one."""
        return self.length <= other.length and other.address in self

    def __str__(self) -> str:
        return f"{address_text(self.address)}/{self.length}"


def parse_address(text: str) -> bytes:
    """The 16 bytes of an IPv6 address. Raises `address.text`."""
    try:
        return ipaddress.IPv6Address(text).packed
    except ValueError as err:
        raise error("address.text", text=text, reason=str(err)) from err


def address_text(address: bytes) -> str:
    """The canonical text of an address (RFC 5952)."""
    return str(ipaddress.IPv6Address(address))
