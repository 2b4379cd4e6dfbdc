"""Founding and joining, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from appliance.core.errors import InputError, X0tError, error
from appliance.core.ids import MeshId
from appliance.core.limits import LIMITS
from appliance.daemon.config import Config, ListenSettings
from appliance.daemon.membership import Membership, found
from appliance.daemon.mesh import FollowedMesh
from appliance.daemon.node import Node
from appliance.daemon.target import Target, parse_target
from appliance.daemon.wiring import build_mesh
from appliance.trust.descriptor import Descriptor
from appliance.trust.pqc import provider

pytestmark = pytest.mark.blocking  # the fixtures make keys

BY = provider("openssl")
NOW_MS = 1_700_000_000_000
GATEWAY = parse_target("gw:1")


class FullDisk(Membership):
    """Cannot take a descriptor in while `full`."""

    full = True

    def follow(self, blob: bytes, peers: Iterable[Target] = ()) -> None:
        if self.full:
            raise error("config.data_dir", path="mesh.x0t", reason="no space left on device")
        super().follow(blob, peers)


class Bench:
    """A node in a directory, and the meshes that it opened."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.opened: list[FollowedMesh] = []
        self.membership = FullDisk(directory, BY)
        self.config = Config(data_dir=str(directory), listen=ListenSettings(address=""))
        self.key = self.membership.node_key()
        self.node = Node(self.config, self.key, self.membership, self._open)

    async def _open(self, descriptor: Descriptor) -> FollowedMesh:
        mesh = await build_mesh(self.config, descriptor, self.key, BY)
        self.opened.append(mesh)
        return mesh

    async def assert_in_no_mesh(self) -> None:
        """Nothing says that a mesh is followed, and nothing that was opened is open."""
        assert not {"mesh.x0t", "peers.json"} & {path.name for path in self.directory.iterdir()}
        with pytest.raises(X0tError, match=r"replica\.no_mesh"):
            _ = self.node.mesh
        for mesh in self.opened:
            with pytest.raises(X0tError, match=r"replica\.closing"):
                await mesh.replica.run(lambda _engine: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def descriptor_of_another(directory: Path) -> bytes:
    directory.mkdir()
    membership = Membership(directory, BY)
    return found(membership.authority(), membership.node_key(), "plant", NOW_MS, LIMITS.grant_depth)[0]


async def test_a_founding_that_fails_leaves_only_the_authority_key_which_the_next_one_uses(bench: Bench) -> None:
    with pytest.raises(InputError, match="no space left"):
        await bench.node.create("plant")
    await bench.assert_in_no_mesh()
    authority = (bench.directory / "authority.pem").read_bytes()
    bench.membership.full = False
    await bench.node.create("plant")
    assert (bench.directory / "authority.pem").read_bytes() == authority
    assert await bench.node.mesh.replica.run(lambda engine: engine.log.last_arrival()) == 1  # founded once
    await bench.node.close()


async def test_a_joining_that_fails_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    blob = await asyncio.to_thread(descriptor_of_another, tmp_path / "other")
    with pytest.raises(InputError, match="no space left"):
        await bench.node.join(blob, [GATEWAY])
    await bench.assert_in_no_mesh()
    bench.membership.full = False
    await bench.node.join(blob, [GATEWAY, GATEWAY])
    assert bench.node.mesh.known_peers == bench.membership.peers() == [GATEWAY]
    await bench.node.close()


async def test_a_mesh_whose_replica_does_not_open_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    bench.membership.full = False
    blob = await asyncio.to_thread(descriptor_of_another, tmp_path / "other")
    place = bench.directory / str(MeshId(bench.membership.open(blob).mesh))
    (place / "view.db").mkdir(parents=True)  # a database cannot be there
    with pytest.raises(X0tError):
        await bench.node.join(blob, [GATEWAY])
    await bench.assert_in_no_mesh()
    (place / "view.db").rmdir()
    await bench.node.join(blob, [])
    await bench.node.close()
