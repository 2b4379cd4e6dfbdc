"""What the Yggdrasil manager is given and what it shows: plain records, without a decision in them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one mesh lives on this node. Meshes of one node differ in mesh, interface, run_dir and ports."""

    mesh: bytes  # its id, 32 bytes
    interface: str  # of the TUN, at most 15 characters
    run_dir: Path  # ours alone: what runs now, the admin socket, the log
    listen: tuple[str, ...] = ()  # tls://HOST:PORT or quic://HOST:PORT
    discovery: tuple[str, ...] = ()  # interfaces on which members find one another by multicast
    mtu: int = 65_535  # bytes
    program: str = "yggdrasil"
    user: str = ""  # that the daemon runs as; empty: a user without a name, one for each mesh
    netns: str | None = None  # the network namespace, by name; None: this process's own


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the mesh that may be trusted now, as its attachment and certificate say."""

    key: bytes  # Ed25519, 32 bytes
    uris: tuple[str, ...] = ()  # where it can be dialled, best first; without options
    relay: bool = False  # it is well connected and always on
    since_s: float = 0.0  # of its certificate, Unix time


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The folded state, as far as Yggdrasil is concerned. Who is not among the members is a stranger."""

    members: tuple[Candidate, ...]
    password: str  # see `config.peer_password`
    former: frozenset[bytes] = frozenset()  # keys of who knows this password and is no member any more

    def __repr__(self) -> str:
        return f"Wanted({len(self.members)} members, password=***)"


class Phase(StrEnum):
    """Where the daemon stands."""

    WAITING = "waiting"  # nothing is wanted yet
    STARTING = "starting"
    RUNNING = "running"
    CRASHING = "crashing"  # it ended too often; it is tried again, slowly
    BLOCKED = "blocked"  # it cannot be started as it is; tried again, slowly
    STOPPED = "stopped"


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """A link of the daemon, or one that is wanted."""

    key: bytes  # empty while it is not known
    uri: str  # without options
    inbound: bool
    up: bool
    latency_ms: float = 0.0
    cost: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    uptime_s: float = 0.0
    note: str = ""  # the last error


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is, what is wanted, and what stands between the two."""

    phase: Phase = Phase.WAITING
    since_s: float = 0.0  # of the phase, Unix time
    reason: str = ""  # why the phase is not running
    address: bytes = b""  # of this node on the mesh
    pid: int = 0
    version: str = ""
    wanted: tuple[bytes, ...] = ()  # keys of the peers that are dialled
    peers: tuple[PeerState, ...] = ()
    restarts: int = 0  # since this process began
    restart_due: str = ""  # why the daemon will be restarted, and when
    discovery: bool = False  # local discovery is on
    note: str = ""  # what else a person should know
