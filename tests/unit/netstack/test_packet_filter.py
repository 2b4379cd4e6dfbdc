from __future__ import annotations

import ctypes
import socket
import struct

import pytest

from appliance.core.prefix import parse_address
from appliance.netstack.packet_filter import EVERYTHING, Only, program

ALICE, BOB, EVE = (parse_address(f"200::{number}") for number in (1, 2, 3))
ATTACH = 26  # SO_ATTACH_FILTER: also works for a pair of unix sockets, which need no root


def packet(source: bytes, target: bytes, protocol: int, ports: tuple[int, int] = (0, 0)) -> bytes:
    return struct.pack("!IHBB", 6 << 28, 4, protocol, 64) + source + target + struct.pack("!HH", *ports)


TCP = packet(ALICE, BOB, 6, (40_000, 502))
UDP = packet(BOB, ALICE, 17, (53, 40_000))
ECHO = packet(EVE, BOB, 58, (0x8000, 0))
IPV4 = b"\x45" + bytes(40)
ALL = {"tcp": TCP, "udp": UDP, "echo": ECHO, "ipv4": IPV4}


def kept(only: Only, link: bytes, frames: dict[str, bytes]) -> set[str]:
    """What the kernel lets through to a socket with the filter."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        code = program(only, len(link))
        buffer = ctypes.create_string_buffer(code)
        right.setsockopt(socket.SOL_SOCKET, ATTACH, struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
        right.setblocking(False)
        found = set()
        for name, frame in frames.items():
            left.send(link + frame)
            try:
                assert right.recv(4096) == link + frame
            except BlockingIOError:  # the filter has it
                continue
            found.add(name)
        return found


@pytest.mark.parametrize("link", [b"", bytes(12) + b"\x86\xdd"], ids=["raw", "ethernet"])
@pytest.mark.parametrize(
    "only, wanted",
    [
        (EVERYTHING, {"tcp", "udp", "echo"}),
        (Only(protocol=6), {"tcp"}),
        (Only(protocol=58), {"echo"}),
        (Only(address=ALICE), {"tcp", "udp"}),
        (Only(address=EVE), {"echo"}),
        (Only(address=parse_address("200::4")), set()),
        (Only(port=502), {"tcp"}),
        (Only(port=40_000), {"tcp", "udp"}),
        (Only(port=0x8000), set()),
        (Only(address=ALICE, protocol=17, port=53), {"udp"}),
        (Only(address=ALICE, protocol=17, port=502), set()),
    ],
    ids=repr,
)
def test_the_kernel_keeps_what_the_filter_means(only: Only, wanted: set[str], link: bytes) -> None:
    assert kept(only, link, ALL if not link else {name: frame for name, frame in ALL.items() if name != "ipv4"}) == (
        wanted
    )


def test_an_ipv4_frame_is_not_kept() -> None:
    assert kept(Only(protocol=6), bytes(12) + b"\x08\x00", {"ipv4": IPV4}) == set()
