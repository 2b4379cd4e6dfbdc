"""The files of a data directory that say who this node is and which mesh it follows.

    node.pem        the node's private key, made at the first start
    authority.pem   the mesh authority's private key, on the founding node alone
    mesh.x0t        the mesh descriptor; its appearance is what makes a node a follower of the mesh
    peers.json      where `x0t mesh join --peer` said that the mesh is met

Each file is written whole or not at all. The authority key in a file is the fallback of architecture section 3 for
sites without a Vault, and whoever makes one is warned.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import structlog

from appliance.core.errors import error
from appliance.core.ids import mesh_id
from appliance.daemon import events
from appliance.daemon.target import Target, parse_target
from appliance.trust.descriptor import Descriptor, open_descriptor, seal_descriptor
from appliance.trust.grants import Grant, Role, sign_grant
from appliance.trust.keys import NodeKey, create_key, load_key
from appliance.trust.pqc import Provider

TEN_YEARS_MS = 3_652 * 86_400_000  # life of the root grant: an industrial site outlives its first staff
AUTHORITY_WARNING = (
    "The mesh authority's private key is in {path} on this machine. Whoever copies it owns the mesh. "
    "Move it to offline storage: it is needed again only to replace the first owner."
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("membership")


class Membership:
    """Reads and writes those files. Blocking: call it in a thread where the loop runs."""

    def __init__(self, data_dir: Path, by: Provider) -> None:
        self._dir = data_dir
        self._by = by

    def node_key(self) -> NodeKey:
        """The node's key; made at the first start."""
        path = self._dir / "node.pem"
        if path.exists():
            return load_key(path, self._by)
        key = create_key(path, self._by)
        _log.info(events.NODE_KEY_CREATED, node=key.id, path=path)
        return key

    def descriptor(self) -> Descriptor | None:
        """The mesh that this node follows, or None."""
        blob = self.descriptor_blob()
        return None if blob is None else self.open(blob)

    def descriptor_blob(self) -> bytes | None:
        """The descriptor as it is carried to other nodes."""
        path = self._dir / "mesh.x0t"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise error("config.data_dir", path=str(path), reason=err.strerror or str(err)) from err

    def open(self, blob: bytes) -> Descriptor:
        """Check a descriptor that came from elsewhere."""
        return open_descriptor(blob, self._by.mldsa_verify)

    def follow(self, blob: bytes, peers: Iterable[Target] = ()) -> None:
        """Take the descriptor in, with peers to meet the mesh at; if that fails, nothing has changed.

        Raises `replica.mesh_exists` if the node follows another mesh. Peers of one that it does not follow are dropped.
        """
        followed = self.descriptor()
        wanted = self.open(blob)
        if followed is not None and followed.mesh != wanted.mesh:
            raise error("replica.mesh_exists", mesh=followed.name)
        known = self.peers() if followed is not None else []
        texts = [str(target) for target in dict.fromkeys([*known, *peers])]
        with ExitStack() as on_failure:
            self._replace("peers.json", msgspec.json.encode(texts), on_failure)
            self._replace("mesh.x0t", blob, on_failure)
            on_failure.pop_all()

    def authority(self) -> NodeKey:
        """The authority key of a new mesh: made now, or left by a founding that was interrupted."""
        path = self._dir / "authority.pem"
        key = load_key(path, self._by) if path.exists() else create_key(path, self._by)
        _log.warning(events.AUTHORITY_KEY_IN_FILE, path=path)
        return key

    def warning(self) -> str:
        """What to tell the owner about the authority key; empty where it is not here."""
        path = self._dir / "authority.pem"
        return AUTHORITY_WARNING.format(path=path) if path.exists() else ""

    def peers(self) -> list[Target]:
        """Peers that were named when the node joined."""
        try:
            texts = msgspec.json.decode((self._dir / "peers.json").read_bytes(), type=list[str])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as err:
            raise error("config.file", path=str(self._dir / "peers.json"), reason=str(err)) from err
        return [parse_target(text) for text in texts]

    def _replace(self, name: str, data: bytes, on_failure: ExitStack) -> None:
        """Write a file, and have it put back as it was if what follows fails."""
        path = self._dir / name
        before = _content(path)
        on_failure.callback(_put_back, path, before)
        if data != before:
            write_whole(path, data)


def found(authority: NodeKey, owner: NodeKey, name: str, now_ms: int, depth: int) -> tuple[bytes, bytes]:
    """The descriptor of a new mesh and the grant that makes `owner` its first owner."""
    descriptor = seal_descriptor(authority.public_key, name, now_ms, authority.sign)
    mesh = mesh_id(authority.public_key).raw
    grant = Grant(
        version=1,
        mesh=mesh,
        issuer=mesh,
        subject=owner.id.raw,
        subject_key=owner.public_key,
        roles=(Role.OWNER,),
        scope=(),
        delegate=depth - 1,
        not_before_ms=now_ms,
        not_after_ms=now_ms + TEN_YEARS_MS,
        parent=None,
        nonce=secrets.token_bytes(16),
    )
    return descriptor, sign_grant(grant, authority.sign)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise error("config.data_dir", path=str(path), reason=err.strerror or str(err)) from err


def _put_back(path: Path, before: bytes | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    elif _content(path) != before:
        write_whole(path, before)


def write_whole(path: Path, data: bytes) -> None:
    """Write, sync and rename, then sync the directory: after a power cut the file is the old or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as err:
        draft.unlink(missing_ok=True)
        raise error("config.data_dir", path=str(path), reason=err.strerror or str(err)) from err
