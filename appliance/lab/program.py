"""A program that was started inside a host, with the end of its log at hand.

It dies with the process that started it (PR_SET_PDEATHSIG, set by setpriv(1)) and leads a process group of its own, so
that what it started ends with it. Its log is a file without a name unless one is given: nothing is left to collect.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from appliance.lab.namespaces import MORTAL, LabError

STOP_S: Final = 3.0  # between a friendly request and the other one
READY_S: Final = 10.0
_LOOK_MS: Final = 10  # between two looks at a log: a file gives no event
_TAIL_BYTES: Final = 65_536


def inside_argv(netns_path: Path, argv: Sequence[str | Path]) -> list[str]:
    """The command line that runs a program inside a namespace, killed when the thread that started it ends."""
    words = [str(word) for word in argv]
    found = shutil.which(words[0])
    if found is None:
        raise LabError(f"there is no program {words[0]}")
    return ["nsenter", f"--net={netns_path}", *MORTAL, found, *words[1:]]


class Program:
    """A running program. Its methods block; all of them are harmless once it has ended."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: BinaryIO, begun_at: int) -> None:
        """`begun_at` is the length of the log before the program wrote to it."""
        self.name: Final = name
        self._popen: Final = popen
        self._log: Final = log
        self._begun_at: Final = begun_at

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """As of the last poll or wait; negative for a signal."""
        return self._popen.returncode

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._popen.poll()

    def wait(self, timeout_s: float = READY_S) -> int:
        """Wait for its end; returns its exit code."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end within {timeout_s:g} s\n{self.tail()}") from None

    def send_signal(self, sig: int) -> None:
        """Send a signal to the program alone."""
        self._popen.send_signal(sig)

    def ask(self) -> None:
        """Ask its whole group to end, without waiting."""
        self._signal_group(signal.SIGTERM)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Ask it to end, kill it if it does not; returns its exit code."""
        self.ask()
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL to its whole group; returns its exit code."""
        self._signal_group(signal.SIGKILL)
        return self._popen.wait()

    def tail(self, lines: int = 20) -> str:
        """The end of what it wrote, standard error included; readable after its end too."""
        size = os.fstat(self._log.fileno()).st_size
        data = os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(data.decode("utf-8", "replace").splitlines()[-lines:])

    def wait_for(self, text: str, timeout_s: float = READY_S) -> None:
        """Wait until its log has this text; raises LabError when the program ends before, or the time does."""
        wanted, end_s = text.encode(), time.monotonic() + timeout_s
        seen, offset = b"", self._begun_at
        while True:
            ended = self.poll() is not None
            while piece := os.pread(self._log.fileno(), _TAIL_BYTES, offset):
                offset += len(piece)
                seen = seen[-len(wanted) :] + piece
                if wanted in seen:
                    return
            if ended or time.monotonic() > end_s:
                why = f"ended with code {self.returncode}" if ended else f"ran {timeout_s:g} s"
                raise LabError(f"{self.name} {why} and never wrote {text!r}\n{self.tail()}")
            select.select([], [], [], _LOOK_MS / 1000)

    def close(self) -> None:
        """End it and let go of its log."""
        self.stop()
        self._log.close()

    def _signal_group(self, sig: int) -> None:
        if self._popen.poll() is None:
            try:
                os.killpg(self._popen.pid, sig)
            except ProcessLookupError:
                pass


def start(
    argv: Sequence[str],
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: socket.socket | None = None,
) -> Program:
    """Start a command line of `inside_argv`; it is killed when the calling thread ends."""
    stream: BinaryIO = log.open("ab+") if log else tempfile.TemporaryFile("ab+")  # noqa: SIM115 -- the program keeps it
    begun_at = os.fstat(stream.fileno()).st_size
    try:
        popen = subprocess.Popen(
            argv,
            stdin=stdin.fileno() if stdin else subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            start_new_session=True,
        )
    except BaseException:
        stream.close()
        raise
    return Program(Path(argv[len(MORTAL) + 2]).name, popen, stream, begun_at)
