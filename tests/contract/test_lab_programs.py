"""Threads, sockets and programs inside a host of the bench, on the real kernel."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from pyroute2.nftables.main import NFTables

from appliance.lab.site import LabError, Site
from tests.lab_rig import PATIENT_S, pair

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def own_namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_a_thread_is_inside_until_its_block_ends_even_by_an_error(site: Site) -> None:
    one, other = site.hosts("one", "other")
    outside = own_namespace()
    with one.enter():
        assert own_namespace() == one.netns_path.stat().st_ino
        with pytest.raises(RuntimeError, match=f"in {other.netns_path.stat().st_ino}"), other.enter():
            raise RuntimeError(f"on purpose, in {own_namespace()}")
        assert own_namespace() == one.netns_path.stat().st_ino
    assert own_namespace() == outside


def test_only_the_calling_thread_goes_inside(site: Site) -> None:
    host, outside, seen = site.host("one"), own_namespace(), list[int]()
    inside, looked = threading.Event(), threading.Event()

    def look() -> None:
        inside.wait(PATIENT_S)
        seen.append(own_namespace())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    with host.enter():
        inside.set()
        assert looked.wait(PATIENT_S)
    thread.join()
    assert seen == [outside]


async def test_the_loop_may_enter_a_host_and_open_its_sockets() -> None:
    """The rest of a site blocks, and goes to a thread."""
    with ExitStack() as stack:
        site = await asyncio.to_thread(stack.enter_context, Site())
        one, other, link = await asyncio.to_thread(pair, site)
        with other.enter():
            server = listening(link.end(other).v6)
        with server, one.socket(socket.AF_INET6, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, server.getsockname()[:2])
            accepted, _ = await loop.sock_accept(server)
            accepted.close()
        await asyncio.to_thread(stack.close)


def listening(address: str) -> socket.socket:
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    server.setblocking(False)
    server.bind((address, 0))
    server.listen()
    return server


def test_the_netlink_library_works_inside_by_path_or_from_within(site: Site) -> None:
    one, other, _ = pair(site)
    with IPRoute(netns=str(one.netns_path)) as route:
        assert {link.get("ifname") for link in route.get_links()} == {"lo", "other"}
    with other.enter():
        nft = NFTables(nfgen_family=socket.AF_INET6)
    with nft:
        nft.table("add", name="lab-table")
    assert "lab-table" in other.run(["nft", "list", "tables"]).stdout
    assert "lab-table" not in one.run(["nft", "list", "tables"]).stdout


# ---- programs


def test_a_program_runs_inside_and_gives_back_what_it_wrote(site: Site) -> None:
    host = site.host("one")
    done = host.run(["sh", "-c", "cat; echo $WORD; readlink /proc/self/ns/net"], stdin="in\n", env={"WORD": "out"})
    assert done.stdout == f"in\nout\nnet:[{host.netns_path.stat().st_ino}]\n"


def test_a_program_that_fails_is_an_error_with_its_words_unless_that_is_wanted(site: Site) -> None:
    host = site.host("one")
    with pytest.raises(LabError, match="exit 3\nalas"):
        host.run(["sh", "-c", "echo alas; exit 3"])
    assert host.run(["sh", "-c", "exit 3"], check=False).returncode == 3
    with pytest.raises(LabError, match="no program nonesuch"):
        host.start(["nonesuch"])
    with pytest.raises(LabError, match="did not end within"):
        host.run(["sleep", "60"], timeout_s=0.1)


def test_a_started_program_can_be_awaited_by_its_words_and_stopped(site: Site, tmp_path: Path) -> None:
    host = site.host("one")
    program = host.start(["sh", "-c", "echo up; exec sleep 60"], log=tmp_path / "log")
    program.wait_for("up")
    assert program.poll() is None
    assert program.stop() == -signal.SIGTERM
    assert program.tail() == "up"
    assert (tmp_path / "log").read_text() == "up\n"


def test_a_program_that_ends_before_its_word_is_an_error_with_its_log(site: Site) -> None:
    program = site.host("one").start(["sh", "-c", "echo no; exit 4"])
    with pytest.raises(LabError, match="ended with code 4 and never wrote 'up'\nno"):
        program.wait_for("up")


def test_a_stubborn_program_is_killed(site: Site) -> None:
    program = site.host("one").start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 60; done"])
    program.wait_for("up")
    assert program.stop(timeout_s=0.1) == -signal.SIGKILL
