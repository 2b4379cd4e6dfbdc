"""The daemon as a service manager meets it: sd_notify(3), the watchdog, exit codes and what is said on a bad start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from appliance.cli.client import Client
from appliance.core.records import Key, LinkAsk, Links, Mesh, MeshCreate, Status
from appliance.lab.rig import DAEMON, ready_socket, refusal

DEADLINE_S = 20


def start(tmp_path: Path, **env: str) -> subprocess.Popen[str]:
    command = [*DAEMON, "--data-dir", str(tmp_path / "data"), "--socket", str(tmp_path / "run" / "s")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | env)


def test_the_manager_is_told_of_ready_of_each_sign_of_life_and_of_the_stop(tmp_path: Path) -> None:
    with ready_socket(tmp_path / "notify") as manager:
        manager.settimeout(DEADLINE_S)
        with start(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as process:
            said: list[str] = []
            while said.count("WATCHDOG=1") < 3:
                said += manager.recv(4096).decode().splitlines()
            process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in said:
                said += manager.recv(4096).decode().splitlines()
            assert process.wait(DEADLINE_S) == 0
            assert process.stderr is not None
            log = process.stderr.read()
    assert said[0] == "READY=1" or said[2] == "READY=1"
    assert any(line.startswith("STATUS=in no mesh yet") for line in said)
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "daemon.stopped"


@pytest.mark.parametrize(
    "text,says",
    [
        ("[lisen]\nport = 1", "did you mean `listen`?"),
        ("listen.port = 'x'", "listen.port"),
        ("= 1", "Invalid statement"),
    ],
)
def test_bad_settings_end_the_start_with_2_and_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x0td.toml"
    file.write_text(text)
    done = subprocess.run(
        [*DAEMON, "--config", str(file), "--check"], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_the_daemon_with_a_sentence(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "x0td.toml").write_text(
            f'data_dir = "{tmp_path}/data"\ncontrol.socket = "{tmp_path}/run/s"\n'
            f'listen = {{ address = "127.0.0.1", port = {taken.getsockname()[1]} }}\n'
        )
        founded = [*DAEMON, "--config", str(tmp_path / "x0td.toml")]
        with (
            ready_socket(tmp_path / "notify") as manager,
            subprocess.Popen(
                founded, stderr=subprocess.PIPE, text=True, env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            ) as process,
        ):
            manager.settimeout(DEADLINE_S)
            manager.recv(4096)
            subprocess.run(
                [DAEMON[0], "-m", "appliance.cli", "--socket", str(tmp_path / "run" / "s"), "mesh", "create", "p"],
                check=True,
                capture_output=True,
                timeout=DEADLINE_S,
            )
            assert process.wait(DEADLINE_S) == 5
            assert process.stderr is not None
            log = process.stderr.read()
    assert "cannot listen on 127.0.0.1" in log


def answered(socket: Path, seconds: float = DEADLINE_S) -> bool:
    """True once the daemon answers on its control socket."""
    client, end_s = Client(str(socket)), time.monotonic() + seconds
    while time.monotonic() < end_s:
        if refusal(lambda: client.get("/key", Key)) == "":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("log", ["2>/dev/full", "2>&1 | head -c 1 >/dev/null", ">&- 2>&- <&-"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, log: str) -> None:
    sock, pid = tmp_path / "run" / "s", tmp_path / "pid"
    daemon = " ".join([*DAEMON, "--data-dir", str(tmp_path / "data"), "--socket", str(sock)])
    with subprocess.Popen(["bash", "-c", f"sh -c 'echo $$ >{pid}; exec {daemon}' {log}"]) as shell:
        try:
            assert answered(sock)
            client = Client(str(sock))
            assert client.send("POST", "/mesh", MeshCreate(name="plant"), Mesh).name == "plant"
            for _ in range(3):  # each is logged
                client.send("POST", "/links/cut", LinkAsk(), Links)
                client.send("POST", "/links/restore", LinkAsk(), Links)
            assert client.get("/replica/status", Status).healthy
        finally:
            os.kill(int(pid.read_text()), signal.SIGTERM)
            shell.wait(DEADLINE_S)
    assert not sock.exists()


def test_a_name_that_somebody_chose_gives_the_manager_no_orders(tmp_path: Path) -> None:
    with ready_socket(tmp_path / "notify") as manager:
        manager.settimeout(DEADLINE_S)
        with start(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as process:
            try:
                assert answered(tmp_path / "run" / "s")
                client = Client(str(tmp_path / "run" / "s"))
                client.send("POST", "/mesh", MeshCreate(name="x\nMAINPID=1\nSTOPPING=1"), Mesh)
                said = ""
                while "STATUS=mesh" not in said:
                    said = manager.recv(4096).decode()
            finally:
                process.send_signal(signal.SIGTERM)
    assert [line.partition("=")[0] for line in said.splitlines()] in (["WATCHDOG", "STATUS"], ["STATUS"])
