from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from appliance.daemon.notify import READY, Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_reach_the_manager_in_one_datagram(tmp_path: Path, abstract: bool) -> None:
    name = f"@x0t-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        assert Notifier({"NOTIFY_SOCKET": name}).send(READY, "STATUS=here")
        assert manager.recv(100) == b"READY=1\nSTATUS=here"


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    assert not Notifier({}).send(READY)
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send(READY)


def test_a_status_is_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")}).send("STATUS=two\nlines")
        assert manager.recv(100) == b"STATUS=two\\nlines"


def test_a_name_that_somebody_chose_is_no_order_to_the_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")}).send(READY, "STATUS=mesh x\nMAINPID=1\r\n, 0 links")
        assert manager.recv(100).split(b"\n") == [b"READY=1", b"STATUS=mesh x\\nMAINPID=1\\r\\n, 0 links"]


def test_a_manager_that_reads_no_more_stops_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")})
        sent = [notifier.send("STATUS=" + "x" * 1000) for _ in range(2000)]
    assert sent[0]
    assert not sent[-1]


def test_the_watchdog_is_fed_twice_in_its_time_and_only_by_the_process_it_watches() -> None:
    env = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "10000000"}
    assert Notifier(env).watchdog_period_s == 5.0
    assert Notifier(env | {"WATCHDOG_PID": str(os.getpid())}).watchdog_period_s == 5.0
    assert Notifier(env | {"WATCHDOG_PID": "1"}).watchdog_period_s is None
    assert Notifier({"NOTIFY_SOCKET": "/run/n"}).watchdog_period_s is None
    assert Notifier({"WATCHDOG_USEC": "10000000"}).watchdog_period_s is None
