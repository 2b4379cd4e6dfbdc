"""The daemon as a process: started with the least privilege that works, left alone when we die, found again.

It runs as a user of its own with CAP_NET_ADMIN as its only capability, which it needs once, to set address and MTU of
the TUN; it cannot gain others. It is nobody's child, so starting and adopting give the same thing: a process known by
id and start time, watched through a pidfd. Secrets reach it through a pipe, never through arguments, environment or a
file. Decisions (when, with what) are not made here: docs/adr/0012.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.netstack.yggdrasil.admin import Admin
from appliance.netstack.yggdrasil.records import Place

TUN_DEVICE: Final = Path("/dev/net/tun")
SOCKET_NAME: Final = "admin.sock"
OWN_SOCKET: Final = f"/proc/self/cwd/{SOCKET_NAME}"  # as the daemon names it: the way from the root is closed to it
_UNNAMED_USERS: Final = range(61_184, 65_520)  # systemd's range for users without a name (systemd.exec, DynamicUser=)
_FILES: Final = 4_096  # open files: one a link, and some
_LAUNCH_S: Final = 10.0
_TAIL_BYTES: Final = 2_048

# The daemon in the background, its id on the standard output; what else is said goes to the log. A shell gives what is
# in the background an empty standard input, so ours, with the configuration, goes by another number.
_BACKGROUND: Final = 'exec 3<&0 && { "$@" <&3 3<&- >&2 & } && echo $!'
# Where /dev/net/tun is closed to others, a mount namespace of the daemon's own gets one that only it can open.
_OWN_TUN: Final = 'mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 600 /dev/net/tun c 10 200 \
&& chown "$0" /dev/net/tun && exec "$@"'


class Running(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was started last: enough to know it again, and to know what it cannot change while it runs."""

    pid: int
    start_ticks: int  # of the process, since the system started: with the pid, unique
    boot: str
    base_digest: str  # see `Config.base_digest`
    password_digest: str
    allowed: tuple[str, ...]  # hex
    closed_for: tuple[str, ...] = ()  # hex; no members, who know this password: discovery is off because of them

    @property
    def allowed_keys(self) -> frozenset[bytes]:
        """The keys that may dial it."""
        return frozenset(bytes.fromhex(key) for key in self.allowed)


class _Process:
    """A process, through its pidfd; not a child of ours. `close` lets go of it and does not end it."""

    def __init__(self, pidfd: int) -> None:
        self.on_end: Callable[[], None] = _nothing
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._end)

    @property
    def has_ended(self) -> bool:
        """True once the process is gone."""
        return self._ended.is_set()

    async def stop(self, grace_s: float) -> None:
        """End it, by force if it does not follow in time."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._ended.wait()
                    return

    def close(self) -> None:
        """Stop watching."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _end(self) -> None:
        self._ended.set()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.on_end()


class Daemon(_Process):
    """A daemon that runs, or ran."""

    def __init__(self, place: Place, running: Running, pidfd: int, limits: Limits = LIMITS) -> None:
        super().__init__(pidfd)
        self.running: Final = running
        self.admin: Final = Admin(socket_path(place), limits)


def _nothing() -> None:
    """Nobody waits."""


def socket_path(place: Place) -> Path:
    """Where the admin socket lies: the daemon's own directory."""
    return place.run_dir / "daemon" / SOCKET_NAME


def user_id(place: Place) -> int:
    """Who the daemon runs as. Without a name, a user for each mesh, so that meshes cannot reach one another's daemon.

    Raises `yggdrasil.user`. Who is not root cannot become somebody else: the daemon then runs as we do.
    """
    if os.geteuid() != 0:
        return os.geteuid()
    if not place.user:
        return _UNNAMED_USERS[int.from_bytes(place.mesh[:8], "big") % len(_UNNAMED_USERS)]
    try:
        return pwd.getpwnam(place.user).pw_uid
    except KeyError as err:
        raise error("yggdrasil.user", user=place.user) from err


def password_digest(password: str) -> str:
    """To know a password again without keeping it."""
    return hashlib.sha256(password.encode()).hexdigest()


async def adopt(place: Place, limits: Limits = LIMITS) -> Daemon | None:
    """The daemon that an earlier life of ours left running; None if there is none."""
    running = await recorded(place)
    pidfd = None if running is None else await asyncio.to_thread(_open, running)
    return None if running is None or pidfd is None else Daemon(place, running, pidfd, limits)


async def recorded(place: Place) -> Running | None:
    """What was started last, whether it runs or not."""
    return await asyncio.to_thread(_last, place)


async def start(place: Place, config: bytes, running: Running, limits: Limits = LIMITS) -> Daemon:
    """Start a daemon with this configuration and note it. `running` says what it is; pid and times are filled in.

    Raises `yggdrasil.program` or `yggdrasil.user`. It need not be ready yet.
    """
    started = await _whole(asyncio.to_thread(_launch, place, config, running, limits))
    pidfd = await asyncio.to_thread(_open, started)
    if pidfd is None:
        raise error("yggdrasil.program", reason=await log_tail(place))
    return Daemon(place, started, pidfd, limits)


async def end_strays(place: Place, limits: Limits = LIMITS) -> None:
    """End every process that works in the daemon's directory: what we started and did not live to note.

    Such a one holds interface and socket, so that no other daemon could start.
    """
    for pidfd in await asyncio.to_thread(_strays, socket_path(place).parent):
        process = _Process(pidfd)
        try:
            await process.stop(limits.yggdrasil_stop_s)
        finally:
            process.close()


async def _whole(work: Coroutine[None, None, Running]) -> Running:
    """Wait for something that cannot be called back, also when we are cancelled meanwhile."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise


async def log_tail(place: Place) -> str:
    """The last thing that the daemon said, on one line."""
    return await asyncio.to_thread(_tail, place.run_dir / "daemon.log")


async def trim_log(place: Place, limits: Limits = LIMITS) -> None:
    """Begin the log anew when it has grown too long. The daemon appends, so nothing is torn."""
    await asyncio.to_thread(_trim, place.run_dir / "daemon.log", limits.yggdrasil_log_bytes)


async def forget(place: Place) -> None:
    """Take away what is on disk. The daemon has ended."""
    await asyncio.to_thread(_forget, place)


def _last(place: Place) -> Running | None:
    try:
        return msgspec.json.decode((place.run_dir / "running.json").read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _open(running: Running) -> int | None:
    """A pidfd of that very process: held first and compared then, because ids are used again."""
    try:
        pidfd = os.pidfd_open(running.pid)
    except OSError:
        return None
    if (_start_ticks(running.pid), _boot()) == (running.start_ticks, running.boot) and running.start_ticks:
        return pidfd
    os.close(pidfd)
    return None


def _strays(home: Path) -> list[int]:
    """Descriptors of the processes that work in a directory; what ends meanwhile is left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _works_in(entry, home):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(int(entry.name))
                if _works_in(entry, home):  # it still is that one
                    found.append(pidfd)
                else:
                    os.close(pidfd)
    return found


def _works_in(entry: Path, home: Path) -> bool:
    try:
        return (entry / "cwd").samefile(home)
    except OSError:
        return False


def _launch(place: Place, config: bytes, running: Running, limits: Limits) -> Running:
    """In a thread: starts a shell that leaves the daemon behind and ends."""
    user, home = user_id(place), socket_path(place).parent
    place.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(home, user, user)
    _trim(place.run_dir / "daemon.log", limits.yggdrasil_log_bytes)
    command = ["sh", "-c", _BACKGROUND, "sh", *_command(place, user)]
    with _appended(place.run_dir / "daemon.log") as log:
        try:
            done = subprocess.run(
                command,
                input=config,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=home,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
                umask=0o077,
                timeout=_LAUNCH_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as err:
            raise error("yggdrasil.program", reason=err) from err
    pid = int(done.stdout)
    started = msgspec.structs.replace(running, pid=pid, start_ticks=_start_ticks(pid), boot=_boot())
    _note(place.run_dir / "running.json", msgspec.json.encode(started))
    return started


def _command(place: Place, user: int) -> list[str]:
    """The daemon's command line behind those that enter its namespaces, bound its resources and take its rights."""
    command: list[str] = []
    if place.netns is not None:
        command += ["ip", "netns", "exec", place.netns]
    if user != os.geteuid() and not _others_may(TUN_DEVICE):
        command += ["unshare", "--mount", "--propagation", "private", "sh", "-c", _OWN_TUN, str(user)]
    command += ["prlimit", f"--nofile={_FILES}", "--core=0"]  # a core dump would hold the keys
    command += ["setpriv", "--no-new-privs", "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"]
    if user != os.geteuid():
        command += [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--bounding-set=-all,+net_admin"]
    return [*command, place.program, "-useconf"]


def _others_may(device: Path) -> bool:
    try:
        return device.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH) == stat.S_IROTH | stat.S_IWOTH
    except OSError:
        return False


def _start_ticks(pid: int) -> int:
    """When a process started, 0 if there is none: field 22 of proc(5), counted behind the name."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@contextlib.contextmanager
def _appended(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _note(path: Path, data: bytes) -> None:
    """Whole or not at all. It holds digests and public keys, no secret."""
    draft = path.with_suffix(".new")
    draft.write_bytes(data)
    draft.chmod(0o600)
    draft.replace(path)


def _tail(path: Path) -> str:
    try:
        lines = path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "it left no log"
    panics = [line for line in lines if line.startswith("panic: ")]  # what follows is a trace
    return (panics or [line.strip() for line in lines if line.strip()] or ["it said nothing"])[-1]


def _trim(path: Path, limit: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit:
            os.truncate(path, 0)


def _forget(place: Place) -> None:
    for path in (socket_path(place), place.run_dir / "running.json", place.run_dir / "daemon.log"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        socket_path(place).parent.rmdir()
