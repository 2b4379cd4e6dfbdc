"""Settings of x0td: one TOML file (v1.0) parsed into frozen records; every setting has a default and a description.

A key that is not known is refused with the nearest known one, because a setting that is silently ignored is found at
night. The descriptions below are the source of docs/reference/settings.md. Nothing here changes after the start.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta

from appliance.core import units
from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.daemon.target import parse_target

# A setting with a unit is written as text ("30s", "4MiB") and read as a number of the unit.
SECONDS: Mapping[str, object] = {"unit": "duration"}
BYTES: Mapping[str, object] = {"unit": "size"}

HostPort: TypeAlias = Annotated[str, Meta(max_length=256)]  # `_check_address` has the form
FilePath: TypeAlias = str  # `_check_path` has the form
Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML table."""


class ControlSettings(_Table, frozen=True):
    """The socket that `x0t` speaks to."""

    socket: Annotated[
        FilePath,
        Meta(description="Path of the control socket. Empty: /run/x0t/x0td.sock as root, else $XDG_RUNTIME_DIR/x0t/."),
    ] = ""


class ListenSettings(_Table, frozen=True):
    """The port that other nodes dial."""

    address: Annotated[str, Meta(description="Address to bind; `::` for IPv6. Empty: do not listen.")] = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port. 0 takes a free one, which status shows.")] = 7330


class NodeSettings(_Table, frozen=True):
    """What this node says of itself to the mesh."""

    name: Annotated[str, Meta(max_length=64, description="Name for people. Empty: the host name.")] = ""
    endpoints: Annotated[
        tuple[HostPort, ...],
        Meta(max_length=8, description="host:port pairs where others reach this node; announced to the mesh."),
    ] = ()


class PeerSettings(_Table, frozen=True):
    """A node to dial and to keep a link with; repeat the table for several."""

    address: Annotated[HostPort, Meta(description="host:port of the peer.")]
    node: Annotated[str, Meta(description="Node id that must answer there. Empty: any member.")] = ""


class PqSettings(_Table, frozen=True):
    """Post-quantum cryptography."""

    provider: Annotated[
        Literal["auto", "liboqs", "openssl"],
        Meta(description="Library for ML-DSA and ML-KEM. auto: liboqs where it is installed, else OpenSSL."),
    ] = "auto"


class LogSettings(_Table, frozen=True):
    """What is logged, to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level shown.")] = "info"
    format: Annotated[
        Literal["auto", "human", "json"],
        Meta(description="auto: human on a terminal, JSON under systemd or into a pipe."),
    ] = "auto"


class SyncSettings(_Table, frozen=True):
    """Links to peers and what runs on them."""

    announced_peers: Annotated[
        int, Meta(ge=0, le=64, description="How many peers to dial that are only known from what they announce.")
    ] = 4
    redial_max: Annotated[
        int, Meta(ge=1, le=86_400, extra=dict(SECONDS), description="Longest wait before a lost peer is dialled again.")
    ] = 30


Interface: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,14}$")]  # IFNAMSIZ, and no glob of the firewall
PeerUri: TypeAlias = Annotated[str, Meta(pattern=r"^(tls|quic)://[^/?#\s]+:[0-9]{1,5}$", max_length=256)]


class NetworkSettings(_Table, frozen=True):
    """The mesh network of this node: its Yggdrasil daemon and its firewall."""

    enabled: Annotated[bool, Meta(description="Run the mesh network. It needs root, or CAP_NET_ADMIN.")] = False
    interface: Annotated[Interface, Meta(description="Name of the mesh interface, which this node makes.")] = "x0t0"
    listen: Annotated[
        tuple[PeerUri, ...],
        Meta(
            max_length=8,
            description="Where Yggdrasil peers of the mesh are awaited: tls://HOST:PORT, quic://HOST:PORT.",
        ),
    ] = ("tls://[::]:7331",)
    announce: Annotated[
        tuple[PeerUri, ...],
        Meta(
            max_length=8,
            description="The same as others reach it. Empty: each host of node.endpoints, port of listen.",
        ),
    ] = ()
    relay: Annotated[bool, Meta(description="Well connected and always on: others prefer it as a peer.")] = False
    discovery: Annotated[
        tuple[Interface, ...],
        Meta(max_length=16, description="Interfaces on which members find one another by multicast."),
    ] = ()
    mtu: Annotated[int, Meta(ge=1280, le=65535, description="MTU of the mesh interface, bytes.")] = 65535
    program: Annotated[str, Meta(min_length=1, max_length=4096, description="The Yggdrasil program.")] = "yggdrasil"
    user: Annotated[
        str, Meta(max_length=32, description="The user that Yggdrasil runs as. Empty: one without a name of its own.")
    ] = ""


class AdmissionSettings(_Table, frozen=True):
    """How nodes that are no members may ask this one to be admitted."""

    enabled: Annotated[
        bool,
        Meta(
            description="Take enrolments on the listening port: from strangers too, but only while a token that names "
            "this node has not ended. Off: strangers are refused before anything of theirs is read."
        ),
    ] = True


class LimitSettings(_Table, frozen=True):
    """Bounds of this node alone. Bounds that all replicas must share cannot be set."""

    connections: Annotated[Count | None, Meta(description="Connections from peers, in all.")] = None
    connections_per_peer: Annotated[Count | None, Meta(description="Connections from one peer.")] = None
    guests: Annotated[Count | None, Meta(description="Connections of who is no member and has shown no token.")] = None
    guests_standing: Annotated[Count | None, Meta(description="Connections of those who wait for an approval.")] = None
    handshake_s: Annotated[
        Count | None, Meta(extra=dict(SECONDS), description="Time that a peer has for the TLS handshake.")
    ] = None
    parked_batches: Annotated[Count | None, Meta(description="Batches kept that wait for a predecessor.")] = None
    parked_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 20, le=1 << 34)] | None,
        Meta(extra=dict(BYTES), description="Bytes of such batches."),
    ] = None
    append_queue: Annotated[Count | None, Meta(description="Own appends that may wait for the disk.")] = None
    control_body_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 12, le=1 << 30)] | None,
        Meta(extra=dict(BYTES), description="Largest request on the control socket."),
    ] = None
    control_request_s: Annotated[
        Count | None, Meta(extra=dict(SECONDS), description="Longest time for one control request without progress.")
    ] = None


class Config(_Table, frozen=True):
    """All settings of the daemon."""

    data_dir: Annotated[
        FilePath,
        Meta(description="Directory of keys and databases. Empty: /var/lib/x0t as root, else $XDG_DATA_HOME/x0t."),
    ] = ""
    control: ControlSettings = ControlSettings()
    listen: ListenSettings = ListenSettings()
    node: NodeSettings = NodeSettings()
    peers: Annotated[tuple[PeerSettings, ...], Meta(max_length=64)] = ()
    pq: PqSettings = PqSettings()
    log: LogSettings = LogSettings()
    sync: SyncSettings = SyncSettings()
    network: NetworkSettings = NetworkSettings()
    admission: AdmissionSettings = AdmissionSettings()
    limits: LimitSettings = LimitSettings()

    def peer_uris(self) -> tuple[str, ...]:
        """Where Yggdrasil peers of the mesh reach this node: as announced, else from what is known of both."""
        if self.network.announce or not self.network.listen:
            return self.network.announce
        scheme, _, rest = self.network.listen[0].partition("://")
        port = rest.rpartition(":")[2]
        return tuple(f"{scheme}://{endpoint.rpartition(':')[0].lower()}:{port}" for endpoint in self.node.endpoints)

    def effective_limits(self) -> Limits:
        """The project's limits with this node's overrides in place."""
        chosen = {name: value for name, value in msgspec.structs.asdict(self.limits).items() if value is not None}
        return msgspec.structs.replace(Limits(), redial_max_s=self.sync.redial_max, **chosen)


def load(path: Path, *, required: bool) -> Config:
    """Read the settings file; a missing one that was not asked for by name means the defaults."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        if not required:
            return Config()
        raise error("config.file", path=str(path), reason="there is no such file") from err
    except (OSError, UnicodeDecodeError) as err:
        raise error("config.file", path=str(path), reason=str(err)) from err
    return parse(text, str(path))


def parse(text: str, file: str = "<text>") -> Config:
    """Settings from TOML text. Raises `config.file`, `config.unknown_key` or `config.value`, each naming the file."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise error("config.file", path=file, reason=str(err)) from err
    except RecursionError as err:
        raise error("config.file", path=file, reason="it is nested too deeply") from err
    read = _read_table(table, Config, "", file)
    try:
        config = msgspec.convert(read, Config)
    except msgspec.ValidationError as err:
        expected, _, where = str(err).partition(" - at `$")
        setting = where.strip("`").lstrip(".") or "the file"
        raise error("config.value", path=file, name=setting, reason=_sentence(expected)) from err
    _check_path(config.data_dir, "data_dir", file)
    _check_path(config.control.socket, "control.socket", file)
    for number, peer in enumerate(config.peers):
        _check_peer(peer, number, file)
    for number, endpoint in enumerate(config.node.endpoints):
        _check_address(endpoint, f"node.endpoints[{number}]", file)
    return config


def _read_table(table: Mapping[str, object], schema: type[msgspec.Struct], at: str, file: str) -> dict[str, object]:
    """Refuse unknown keys and turn text with a unit into a number; all else is left to msgspec."""
    known = {name: annotation for name, annotation, _ in _fields(schema)}
    read: dict[str, object] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            wanted = f"did you mean `{at}{near[0]}`?" if near else "known here: " + ", ".join(sorted(known))
            raise error("config.unknown_key", path=file, name=f"{at}{key}", nearest=wanted)
        read[key] = _read_value(value, known[key], f"{at}{key}", file)
    return read


def _read_value(value: object, annotation: object, at: str, file: str) -> object:
    inner = _struct_in(annotation)
    if inner is not None and isinstance(value, dict):
        return _read_table(value, inner, at + ".", file)
    if inner is not None and isinstance(value, list):
        return [
            _read_table(item, inner, f"{at}[{i}].", file) if isinstance(item, dict) else item
            for i, item in enumerate(value)
        ]
    choices = _choices(annotation)
    if choices and isinstance(value, str) and value not in choices:
        raise error("config.value", path=file, name=at, reason=f"choose one of {', '.join(choices)}")
    unit = _meta(annotation).get("unit")
    if unit is None:
        return value
    if not isinstance(value, str):
        example = '"30s"' if unit == "duration" else '"4MiB"'
        raise error("config.value", path=file, name=at, reason=f"expected text with a unit, such as {example}")
    read_unit: Callable[[str], int] = _seconds if unit == "duration" else units.parse_bytes
    try:
        return read_unit(value)
    except X0tError as err:
        raise error("config.value", path=file, name=at, reason=err.message) from err


def _seconds(text: str) -> int:
    whole_s, rest_ms = divmod(units.parse_duration_ms(text), 1000)
    if rest_ms:
        raise error("units.text", text=text, what="duration in whole seconds", example="30s")
    return whole_s


def _check_path(path: str, name: str, file: str) -> None:
    if "\0" in path:
        raise error("config.value", path=file, name=name, reason="no path holds the character NUL")


def _check_address(address: str, name: str, file: str) -> None:
    """By the parser that reads it when the node runs."""
    try:
        target = parse_target(address)
    except X0tError as err:
        raise error("config.value", path=file, name=name, reason="write host:port, the port from 1 to 65535") from err
    if target.node is not None:
        raise error("config.value", path=file, name=name, reason="write host:port, without a node id")


def _check_peer(peer: PeerSettings, number: int, file: str) -> None:
    _check_address(peer.address, f"peers[{number}].address", file)
    if not peer.node:
        return
    try:
        NodeId.parse(peer.node)
    except X0tError as err:
        raise error("config.value", path=file, name=f"peers[{number}].node", reason=err.message) from err


def _fields(schema: type[msgspec.Struct]) -> Iterator[tuple[str, object, object]]:
    """Name, annotation and default of each setting of a table."""
    from typing import get_type_hints

    hints = get_type_hints(schema, include_extras=True)
    for field in msgspec.structs.fields(schema):
        yield field.name, hints[field.name], field.default


def _struct_in(annotation: object) -> type[msgspec.Struct] | None:
    """The table's schema where the annotation is a table or an array of tables."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
        for deep in get_args(part):
            if isinstance(deep, type) and issubclass(deep, msgspec.Struct):
                return deep
    return None


def _choices(annotation: object) -> tuple[str, ...]:
    """The values of a setting that has a few only; else none."""
    kind = next(iter(get_args(annotation)), None)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _meta(annotation: object) -> dict[str, object]:
    """Description and unit of a setting."""
    found: dict[str, object] = {}
    for part in get_args(annotation):
        if isinstance(part, Meta):
            found |= part.extra or {}
            if part.description:
                found["description"] = part.description
    return found


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:]
