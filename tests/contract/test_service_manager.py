"""The daemon as a service manager meets it: sd_notify(3), the watchdog, exit codes and what is said on a bad start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from appliance.lab.rig import DAEMON, ready_socket

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
