"""Writes what crosses an interface to a pcapng file, within bounds of size and time.

The file is made here, readable by its owner alone, and never overwrites one; however a capture ends, it is whole. The
packets are copies: nothing is held up, and what comes too fast is counted as dropped. A thread of its own reads and
writes, so the loop waits for nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.errors import error
from appliance.netstack import pcapng
from appliance.netstack.packet_filter import EVERYTHING, Only, program
from appliance.netstack.pcapng import LinkType, Way

OpenSocket = Callable[[int, int, int], socket.socket]  # family, type, protocol

# linux/if_packet.h, linux/if_arp.h, linux/if_ether.h, asm-generic/socket.h, linux/sockios.h
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 26, 35, 33
_ETH_P_ALL: Final = 3
_SIOCGIFHWADDR: Final = 0x8927
_LINKS: Final = {1: LinkType.ETHERNET, 772: LinkType.ETHERNET, 65_534: LinkType.RAW}  # Ethernet, loopback, TUN
_LINK_BYTES: Final = {LinkType.ETHERNET: 14, LinkType.RAW: 0}
_BUFFER_BYTES: Final = 8 << 20  # of packets that wait for the thread: 0.1 s at 600 Mb/s
_BURST: Final = 256  # packets between two looks at clock and size
_TIMESTAMP: Final = struct.Struct("=qq")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Where a capture ends: bytes of the file, seconds."""

    max_bytes: int
    max_s: float


class Ended(StrEnum):
    """Why a capture ended by itself."""

    SIZE = "size"
    TIME = "time"
    INTERFACE = "interface"  # it went down or away


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """A finished capture."""

    packets: int
    size_bytes: int  # of the file
    dropped: int  # packets for which there was no room
    ended: Ended


async def capture(
    interface: str, file: Path, bounds: Bounds, only: Only = EVERYTHING, open_socket: OpenSocket = socket.socket
) -> Captured:
    """Write the packets of an interface, both ways, to a new file. Cancel to end it early: the file is whole then, too.

    Raises `capture.interface`, `capture.exists`, `capture.write`.
    """
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    thread = ThreadPoolExecutor(1, "capture")
    source = _Source(interface, only, open_socket)
    task = asyncio.get_running_loop().run_in_executor(thread, _capture, source, file, bounds, stop)
    thread.shutdown(wait=False)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        os.eventfd_write(stop, 1)
        await asyncio.wait([task])
        raise
    finally:
        task.add_done_callback(lambda _: os.close(stop))


def _capture(source: _Source, file: Path, bounds: Bounds, stop: int) -> Captured:
    with source, _File(file, bounds.max_bytes) as written:
        written.add(pcapng.opening(source.interface, source.link))
        written.flush()
        packets, ended = _pump(source, written, time.monotonic() + bounds.max_s, stop)
        received, dropped = source.counts()
        written.add(pcapng.statistics(time.time_ns(), received, dropped), room=0)
        written.flush()
        return Captured(packets=packets, size_bytes=written.size_bytes, dropped=dropped, ended=ended)


def _pump(source: _Source, written: _File, until_s: float, stop: int) -> tuple[int, Ended]:
    """Copy packets until something ends it; a stop counts as the end of time."""
    poller = select.poll()
    poller.register(source, select.POLLIN)
    poller.register(stop, select.POLLIN)
    packets = 0
    while (left_s := until_s - time.monotonic()) > 0:
        stopped = any(fd == stop for fd, _ in poller.poll(left_s * 1000))
        for _ in range(_BURST):
            try:
                found = source.take()
            except OSError as err:
                if err.errno not in {errno.ENETDOWN, errno.ENODEV, errno.ENXIO}:
                    raise
                return packets, Ended.INTERFACE
            if found is None:
                break
            if not written.add(found):
                return packets, Ended.SIZE
            packets += 1
        written.flush()
        if stopped:
            break
    return packets, Ended.TIME


class _Source:
    """A packet socket on one interface."""

    def __init__(self, interface: str, only: Only, open_socket: OpenSocket) -> None:
        self.interface: Final = interface
        self.link = LinkType.RAW
        self._only: Final = only
        self._open: Final = open_socket
        self._buffer: Final = bytearray(pcapng.SNAP_BYTES)
        self._view: Final = memoryview(self._buffer)

    def __enter__(self) -> _Source:
        self._socket = self._open(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # 0: nothing until bound
        try:
            self._prepare()
        except OSError as err:
            self._socket.close()
            raise error("capture.interface", interface=self.interface, reason=err.strerror or err) from err
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> bytes | None:
        """The next packet as a block; None if none waits."""
        try:
            size, ancillary, _, origin = self._socket.recvmsg_into([self._buffer], 64, socket.MSG_TRUNC)
        except BlockingIOError:
            return None
        seconds, nanoseconds = _TIMESTAMP.unpack(ancillary[0][2])
        way = Way.OUTBOUND if origin[2] == socket.PACKET_OUTGOING else Way.INBOUND
        return pcapng.packet(self._view[: min(size, len(self._buffer))], size, seconds * 10**9 + nanoseconds, way)

    def counts(self) -> tuple[int, int]:
        """Packets that the socket had for us, and those of them that found no room."""
        seen, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return seen, dropped

    def _prepare(self) -> None:
        self._socket.settimeout(0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        asked = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, struct.pack("16s24x", self.interface.encode()))
        hardware = int(struct.unpack_from("=H", asked, 16)[0])
        if hardware not in _LINKS:
            raise error("capture.interface", interface=self.interface, reason=f"links of kind {hardware} are unknown")
        self.link = _LINKS[hardware]
        if self._only != EVERYTHING:
            code = program(self._only, _LINK_BYTES[self.link])
            held = ctypes.create_string_buffer(code)
            attached = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
        self._socket.bind((self.interface, _ETH_P_ALL))


class _File:
    """A new file that holds whole blocks alone, and never more bytes than it may."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path: Final = path
        self._max_bytes: Final = max_bytes
        self._waiting: list[bytes] = []
        self.size_bytes = 0  # with what waits
        self._kept_bytes = 0

    def __enter__(self) -> _File:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except FileExistsError as err:
            raise error("capture.exists", path=self._path) from err
        except OSError as err:
            raise error("capture.write", path=self._path, reason=err.strerror) from err
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def add(self, block: bytes, room: int = pcapng.STATISTICS_BYTES) -> bool:
        """Take a block if it fits and leaves room."""
        if self.size_bytes + len(block) + room > self._max_bytes:
            return False
        self._waiting.append(block)
        self.size_bytes += len(block)
        return True

    def flush(self) -> None:
        """Hand all blocks to the kernel. Raises `capture.write`; then the file ends where it did before."""
        data = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as err:
            os.ftruncate(self._fd, self._kept_bytes)
            raise error("capture.write", path=self._path, reason=err.strerror) from err
        self._kept_bytes = self.size_bytes
