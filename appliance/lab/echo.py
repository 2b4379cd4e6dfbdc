"""One echo request and its reply: ICMP (RFC 792) and ICMPv6 (RFC 4443 section 4), by the kernel's ping sockets.

The kernel writes the identifier and the checksum, and hands over the replies to this socket alone.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address

_REQUEST_4 = 8
_REQUEST_6 = 128


def ping(open_socket: Callable[[int, int, int], socket.socket], address: str, timeout_s: float) -> float | None:
    """Round trip in ms; None if there is no reply in time, no route, or an error comes back."""
    if ip_address(address).version == 4:
        family, protocol, kind = socket.AF_INET, socket.IPPROTO_ICMP, _REQUEST_4
    else:
        family, protocol, kind = socket.AF_INET6, socket.IPPROTO_ICMPV6, _REQUEST_6
    with open_socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.settimeout(timeout_s)
        began_s = time.monotonic()
        try:
            sock.connect((address, 0))
            sock.send(struct.pack("!BBHHH", kind, 0, 0, 0, 1))
            sock.recv(64)
        except OSError:
            return None
        return (time.monotonic() - began_s) * 1000
