from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.core.prefix import parse_address
from appliance.lab.link import Cable
from appliance.lab.site import Host, Site
from appliance.netstack.capture import Bounds, Captured, Ended, capture
from appliance.netstack.packet_filter import EVERYTHING, Only
from appliance.netstack.pcapng import STATISTICS_BYTES

WIDE = Bounds(max_bytes=1 << 20, max_s=60)
PAYLOAD = b"0123456789abcdef"
TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001


class Wire:
    """Two hosts, and a socket of the first that talks to the second."""

    def __init__(self, site: Site) -> None:
        self.near, self.far = site.hosts("near", "far")
        self.cable: Cable = site.cable(self.near, self.far, names=("mesh0", "mesh1"), prefixes=["fd01::/64"])
        self.address = self.cable.end(self.far).v6
        self.talk = self.near.socket(socket.AF_INET6, socket.SOCK_DGRAM)

    def send(self, count: int, port: int = 4000) -> None:
        for _ in range(count):
            self.talk.sendto(PAYLOAD, (self.address, port))

    async def start(
        self, file: Path, bounds: Bounds = WIDE, only: Only = EVERYTHING, host: Host | None = None
    ) -> asyncio.Task[Captured]:
        """A capture on the sender's interface that runs: its file has its head."""
        task = asyncio.get_running_loop().create_task(
            capture("mesh0", file, bounds, only, (host or self.near).socket), name="capture"
        )
        while not task.done() and not has_head(file):
            self.send(1, port=9)
            await asyncio.sleep(0)
        return task


@pytest.fixture
def wire(root: None) -> Iterator[Wire]:
    with Site() as site:
        made = Wire(site)
        with made.talk:
            yield made


def has_head(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def has_files(folder: Path) -> bool:
    return any(folder.iterdir())


def told(file: Path, *expression: str) -> subprocess.CompletedProcess[str]:
    """What tcpdump says: a reader that knows nothing of ours."""
    words = ["tcpdump", "-nn", "-v", "-tt", "-r", str(file), *expression]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "truncated" not in done.stderr
    return done


def read(file: Path, *expression: str) -> list[str]:
    """The packets that match an expression, a line each."""
    return [line for line in told(file, *expression).stdout.splitlines() if line[0].isdigit()]


async def test_a_capture_holds_both_ways_of_what_crossed_the_interface(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    task = await wire.start(file, Bounds(max_bytes=1 << 20, max_s=0.3))
    wire.send(5)
    assert await asyncio.to_thread(wire.near.ping, wire.address) is not None
    done = await task
    assert done.ended is Ended.TIME
    assert done.dropped == 0
    assert done.size_bytes == file.stat().st_size
    assert len(read(file)) == done.packets
    assert len(read(file, "udp port 4000")) == 5
    assert len(read(file, "icmp6[icmp6type] == icmp6-echoreply and src host " + wire.address)) == 1


async def test_the_file_is_its_owners_alone(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    before = os.umask(0)
    try:
        await capture("mesh0", file, Bounds(max_bytes=1 << 20, max_s=0.01), open_socket=wire.near.socket)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_capture_ends_before_its_file_is_larger_than_allowed(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    task = await wire.start(file, Bounds(max_bytes=4_096, max_s=60))
    while not task.done():
        wire.send(10)
        await asyncio.sleep(0)
    done = await task
    assert done.ended is Ended.SIZE
    assert 3_500 < done.size_bytes <= 4_096
    assert file.stat().st_size == done.size_bytes
    assert len(read(file)) == done.packets


async def test_a_cancelled_capture_leaves_a_whole_file(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    task = await wire.start(file)
    wire.send(7)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(read(file, "udp port 4000")) == 7
    assert file.read_bytes()[-4:] == struct.pack("<I", STATISTICS_BYTES), "it ends with the statistics"


@pytest.mark.parametrize("line", ["link set mesh0 down", "link del mesh0"])
async def test_a_capture_ends_when_its_interface_goes_down_or_away(wire: Wire, tmp_path: Path, line: str) -> None:
    file = tmp_path / "mesh.pcapng"
    task = await wire.start(file)
    await asyncio.to_thread(wire.near.ip, line)
    assert (await task).ended is Ended.INTERFACE
    read(file)


async def test_only_what_is_meant_is_captured(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    only = Only(address=parse_address(wire.address), protocol=17, port=4001)
    task = await wire.start(file, Bounds(max_bytes=1 << 20, max_s=0.3), only)
    wire.send(5, port=4000)
    wire.send(3, port=4001)
    assert (await task).packets == 3
    assert len(read(file, "udp port 4001")) == 3


async def test_packets_of_a_tun_begin_with_their_ip_header(wire: Wire, tmp_path: Path) -> None:
    with wire.far.enter():
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        await asyncio.to_thread(_up, tun, wire.far)
        file = tmp_path / "tun.pcapng"
        with wire.far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as talk:
            wire.talk, wire.address = talk, "fd02::2"
            task = await wire.start(file, Bounds(max_bytes=1 << 20, max_s=0.3), host=wire.far)
            wire.send(4)
            await task
        (line, *_) = read(file, "udp port 4000")
        assert "fd02::1" in line
        assert "link-type RAW" in told(file).stderr
    finally:
        os.close(tun)


def _up(tun: int, host: Host) -> None:
    import fcntl

    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"mesh0", IFF_TUN_NO_PI))
    host.ip("address add fd02::1/64 dev mesh0 nodad", "link set mesh0 up")


async def test_a_file_that_exists_is_left_alone(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    file.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (file, tmp_path / "link"):
        with pytest.raises(X0tError, match="exists already"):
            await capture("mesh0", path, WIDE, open_socket=wire.near.socket)
    assert file.read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()


async def test_an_interface_that_does_not_exist_leaves_no_file(wire: Wire, tmp_path: Path) -> None:
    with pytest.raises(X0tError, match="mesh7"):
        await capture("mesh7", tmp_path / "mesh.pcapng", WIDE, open_socket=wire.near.socket)
    assert not has_files(tmp_path)


async def test_a_full_disk_ends_a_capture_with_a_file_of_whole_blocks(wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    task = await wire.start(file)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # SIGXFSZ is ignored by Python: EFBIG
    try:
        while not task.done():
            wire.send(20)
            await asyncio.sleep(0)
        with pytest.raises(X0tError, match="cannot be written"):
            await task
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    read(file)
