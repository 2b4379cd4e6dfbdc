"""Stops of every kind while clients write: what was acknowledged is there afterwards, and nothing is half there."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from appliance.core.records import Batch
from appliance.lab.rig import DAEMON, Machine, RigError, refusal
from tests.faults.load import Load

ACKNOWLEDGED_BEFORE_STOP = 40


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("one", tmp_path / "one")


def log_of(machine: Machine) -> list[Batch]:
    return list(machine.client.get("/replica/batches", tuple[Batch, ...], limit=10_000))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_every_acknowledged_append_is_there_after_a_stop_under_load(machine: Machine, stop: signal.Signals) -> None:
    with machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        with Load(machine) as load:
            load.wait_for(ACKNOWLEDGED_BEFORE_STOP)
            took_s = machine.stop(stop)
        assert load.unforeseen == []
        assert took_s < 2
        machine.start()
        log = log_of(machine)
        assert {receipt.batch for receipt in load.acknowledged} <= {line.batch for line in log}
        own = sorted(line.seq for line in log)
        assert own == list(range(1, len(own) + 1)), "the author's numbers have no gap and no double"
        assert machine.status().frozen == ()
        before = machine.status().digest
        machine.x0t("replica", "rebuild", "--yes")
        assert machine.status().digest == before


def test_a_stop_does_not_wait_for_those_who_only_watch(machine: Machine) -> None:
    with machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        watchers = [machine.watch() for _ in range(3)]
        for watcher in watchers:
            next(watcher)
        assert machine.stop() < 2


def test_a_second_signal_is_harmless(machine: Machine) -> None:
    with machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        process = machine.process
        assert process is not None
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        machine.start()
        assert machine.status().batches > 0


def test_a_clean_stop_leaves_no_socket_and_exits_with_0(machine: Machine) -> None:
    with machine:
        machine.start()
        process = machine.process
        assert process is not None
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert time.monotonic() - began_s < 2
        assert not machine.socket.exists()


def test_a_second_daemon_on_the_same_directory_is_refused_by_the_process_id_of_the_first(
    machine: Machine, tmp_path: Path
) -> None:
    import subprocess

    with machine:
        machine.start()
        assert machine.process is not None
        second = subprocess.run(
            [*DAEMON, "--data-dir", str(machine.data_dir), "--socket", str(tmp_path / "run" / "s")],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert second.returncode == 4
        assert "replica.locked" in second.stderr
        assert str(machine.process.pid) in second.stderr
        assert refusal(machine.key) == ""


def test_a_second_daemon_on_the_same_socket_is_refused(machine: Machine, tmp_path: Path) -> None:
    with machine, Machine("two", tmp_path / "two") as two:
        machine.start()
        two.socket = machine.socket
        with pytest.raises(RigError, match=r"control\.socket"):
            two.start()
        assert refusal(machine.key) == ""


def test_a_daemon_that_was_killed_while_founding_finishes_when_asked_again(machine: Machine) -> None:
    with machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        mesh = machine.x0t("mesh", "show", "--json")
        machine.kill()
        (machine.data_dir / "mesh.x0t").unlink()  # as if the power had gone before the last step
        machine.start()
        assert refusal(machine.status) == "replica.no_mesh"
        machine.x0t("mesh", "create", "plant")
        assert machine.status().frozen == ()
        assert f'"{machine.status().mesh}"' in mesh
