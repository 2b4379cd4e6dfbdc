"""Rig: real daemons on this machine, each with its own directory, port and settings, for the demonstration and tests.

It waits for events and never for time: a start ends with the daemon's READY=1 on a notify socket of its own, an equal
state with lines of the watch stream. It ends only processes that it started, and ends all of them on the way out.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from appliance.cli.client import Client
from appliance.core.errors import X0tError
from appliance.core.records import Key, Links, Status, Watch
from appliance.lab.program import inside_argv

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
PORT = 7330
START_S = 20.0
STOP_S = 5.0
EQUAL_S = 60.0
COMMAND_S = 60.0
DAEMON = (sys.executable, "-m", "appliance.daemon")
COMMAND = (sys.executable, "-m", "appliance.cli")


class RigError(RuntimeError):
    """A daemon did not do what was expected; the message ends with the tail of its log."""


class Machine:
    """One daemon, as if it had a machine of its own: on loopback, or in the network namespace of a host of a site."""

    def __init__(
        self, name: str, directory: Path, settings: str = "", *, host: str = "", within: Path | None = None
    ) -> None:
        """`host` is the address where the daemon listens in the namespace `within`."""
        self.name = name
        self.directory = directory
        self.host = host or LOOPBACK
        self.port = PORT if within else free_port()
        self.within = within
        self.data_dir = directory / "data"
        self.socket = directory / "run" / "x0td.sock"
        self.log_file = directory / "log"
        self.client = Client(str(self.socket))
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = settings
        self._peers: list[str] = []
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where its peers dial it."""
        return f"{self.host}:{self.port}"

    def peer_with(self, *others: Machine) -> None:
        """Dial these from the next start on."""
        self._peers += [other.address for other in others]

    def start(self) -> float:
        """Start the daemon; returns the seconds until it was ready."""
        began_s = time.monotonic()
        self._write_settings()
        with ready_socket(self.directory / "notify") as ready, self.log_file.open("ab") as log:
            command = [*DAEMON, "--config", str(self.directory / "x0td.toml")]
            self.process = subprocess.Popen(
                inside_argv(self.within, command) if self.within else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify"), "PYTHONUNBUFFERED": "1"},
            )
            self._wait_ready(ready, began_s + START_S)
        return time.monotonic() - began_s

    def stop(self, sig: int = signal.SIGTERM) -> float:
        """End the daemon and wait for it; returns the seconds that it took. Harmless when it does not run."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return 0.0
        began_s = time.monotonic()
        process.send_signal(sig)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RigError(f"{self.name} did not stop within {STOP_S:.0f} s\n{self.tail()}") from None
        return time.monotonic() - began_s

    def kill(self) -> None:
        """SIGKILL: as a power cut, but for the page cache."""
        self.stop(signal.SIGKILL)

    def release(self) -> None:
        """Leave the daemon running when the rig ends; its lock file has its process id."""
        self.process = None

    def rss_bytes(self) -> int:
        """Resident memory of the daemon."""
        assert self.process is not None
        statm = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def x0t(self, *arguments: str, expect: int = 0) -> str:
        """Run the command line against this daemon; returns its standard output."""
        command = [*COMMAND, "--socket", str(self.socket), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
        if done.returncode != expect:
            said = f"{done.stdout}{done.stderr}{self.tail()}"
            raise RigError(f"x0t {' '.join(arguments)}: exit {done.returncode}\n{said}")
        return done.stdout

    def status(self) -> Status:
        """`x0t replica status`."""
        return self.client.get("/replica/status", Status)

    def key(self) -> Key:
        """`x0t key show`."""
        return self.client.get("/key", Key)

    def links(self) -> Links:
        """`x0t link list`."""
        return self.client.get("/links", Links)

    def watch(self) -> Iterator[Watch]:
        """The state now, after each change, and at least ten times a second."""
        for line in self.client.lines("GET", "/replica/watch?pulse_ms=100"):
            yield msgspec.json.decode(line, type=Watch)

    def wait(self, holds: Callable[[Watch], bool], timeout_s: float = EQUAL_S) -> Watch:
        """Wait for a state; each line of the watch stream is looked at."""
        end_s = time.monotonic() + timeout_s
        for seen in self.watch():
            if holds(seen):
                return seen
            if time.monotonic() > end_s:
                break
        raise RigError(f"{self.name} did not reach the state in {timeout_s:.0f} s\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The end of the daemon's log."""
        try:
            return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _write_settings(self) -> None:
        peers = "\n".join(f'[[peers]]\naddress = "{address}"' for address in self._peers)
        text = f"""
data_dir = "{self.data_dir}"
control.socket = "{self.socket}"
listen = {{ address = "{self.host}", port = {self.port} }}
node = {{ name = "{self.name}", endpoints = ["{self.address}"] }}
log = {{ format = "json", level = "info" }}
sync = {{ redial_max = "1s" }}
{self._settings}
{peers}
"""
        (self.directory / "x0td.toml").write_text(text, encoding="utf-8")

    def _wait_ready(self, ready: socket.socket, end_s: float) -> None:
        assert self.process is not None
        while time.monotonic() < end_s:
            if select.select([ready], [], [], 0.1)[0]:
                if b"READY=1" in ready.recv(4096):
                    return
            elif self.process.poll() is not None:
                raise RigError(f"{self.name} ended with code {self.process.returncode}\n{self.tail()}")
        raise RigError(f"{self.name} was not ready within {START_S:.0f} s\n{self.tail()}")


@contextmanager
def ready_socket(path: Path) -> Iterator[socket.socket]:
    """A service manager's end of sd_notify(3)."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def machines(directory: Path, names: Sequence[str]) -> Iterator[list[Machine]]:
    """Machines that are all stopped at the end, whatever happens."""
    with ExitStack() as stack:
        yield [stack.enter_context(Machine(name, directory / name)) for name in names]


def wait_equal(group: Iterable[Machine], timeout_s: float = EQUAL_S, batches: int = 0) -> str:
    """Wait until all hold the same batches (and at least so many); returns the one digest that they then show."""
    members = list(group)
    end_s = time.monotonic() + timeout_s
    for lines in zip(*(machine.watch() for machine in members), strict=False):
        if lines[0].batches >= batches and len({line.vector for line in lines}) == 1:
            digests = {machine.status().digest for machine in members}
            if len(digests) == 1:
                return digests.pop()
        if time.monotonic() > end_s:
            break
    shown = "\n".join(f"{m.name}: {m.status().batches} batches, {m.status().digest}\n{m.tail(5)}" for m in members)
    raise RigError(f"the replicas did not become equal in {timeout_s:.0f} s\n{shown}")


def mesh_of(founder: Machine, *others: Machine, roles: Sequence[str] = ("member",)) -> None:
    """Found a mesh on the first machine and let the others join it with these roles. All must run."""
    founder.x0t("mesh", "create", "lab")
    descriptor = founder.directory / "mesh.x0t"
    founder.x0t("mesh", "show", "--export", str(descriptor))
    for other in others:
        key = other.directory / "node.key"
        other.x0t("key", "show", "--export", str(key))
        founder.x0t("role", "grant", "--key", str(key), *roles)
        other.x0t("mesh", "join", str(descriptor), "--peer", founder.address)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def refusal(work: Callable[[], object]) -> str:
    """The error key with which the daemon refuses; empty if it does not."""
    try:
        work()
    except X0tError as err:
        return err.key
    return ""
