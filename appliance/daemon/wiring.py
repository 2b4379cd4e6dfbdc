"""Wiring: the only place where the parts of the daemon are made and joined. Constructors only, no decisions."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from appliance.admission.joiner import Means
from appliance.admission.messages import ENROL_PATH
from appliance.core.errors import error
from appliance.core.ids import MeshId, NodeId
from appliance.core.yggdrasil import node_address
from appliance.daemon.applicant import NodeApplicant, mesh_directory, mesh_keys, yggdrasil_key
from appliance.daemon.application import ApplicationFile
from appliance.daemon.codes import Codes
from appliance.daemon.config import Config
from appliance.daemon.control.routes import routes
from appliance.daemon.control.server import ControlServer
from appliance.daemon.desk import Desk
from appliance.daemon.enrolment import Enrolment, Way
from appliance.daemon.links import Links
from appliance.daemon.membership import Membership
from appliance.daemon.mesh import FollowedMesh, Keys
from appliance.daemon.network import Announcement, Kernel, Network
from appliance.daemon.network import Mesh as MeshParts
from appliance.daemon.node import Node
from appliance.daemon.reception import Gateway, Reception
from appliance.daemon.supervisor import contain
from appliance.daemon.sync_driver import SyncDriver
from appliance.daemon.target import Target
from appliance.daemon.witness import WITNESS_PATH, Witness
from appliance.replica.authoring import Identity
from appliance.replica.engine import Engine
from appliance.replica.service import Replica, Writer
from appliance.storage.log import LogStore
from appliance.storage.view import ViewStore
from appliance.transport.certificates import Credentials
from appliance.transport.dialler import Dialler
from appliance.transport.listener import Listener
from appliance.transport.stream import SYNC_PATH, BoundStream, Stream
from appliance.trust.descriptor import Descriptor
from appliance.trust.keys import NodeKey
from appliance.trust.pqc import Provider, provider


async def build_node(config: Config) -> tuple[Node, ControlServer]:
    """The node with its keys and, if it follows a mesh, an open replica; and the server of its control socket."""
    by = await asyncio.to_thread(provider, config.pq.provider)
    membership = Membership(Path(config.data_dir), by)
    key = await asyncio.to_thread(membership.node_key)

    async def open_mesh(descriptor: Descriptor) -> FollowedMesh:
        return await build_mesh(config, descriptor, key, by)

    node = Node(config, key, membership, open_mesh)
    node.enrolment = build_enrolment(config, node, by)
    server = ControlServer(Path(config.control.socket), routes(node), config.effective_limits())
    await node.open()
    return node, server


def build_enrolment(config: Config, node: Node, by: Provider) -> Enrolment:
    """The job by which this node asks to be admitted to a mesh."""
    limits, data_dir = config.effective_limits(), Path(config.data_dir)

    async def dial(target: Target) -> BoundStream:
        credentials = await asyncio.to_thread(Credentials, node.key.path, now_ms)
        dialler = Dialler(credentials, lambda _node: True, limits)
        return await dialler.open(target.address, target.node.raw if target.node else None, ENROL_PATH)

    def applicant(mesh: bytes, name: str) -> NodeApplicant:
        keys = mesh_keys(mesh_directory(data_dir, mesh), by, relay=config.network.relay)
        return NodeApplicant(node.key, keys, name, now_ms)

    async def follow(descriptor: bytes, peers: list[Target]) -> None:
        await node.join(descriptor, peers)

    means = Means(by.mldsa_verify, now_ms, limits)
    return Enrolment(ApplicationFile(data_dir), Way(dial, applicant, follow, means))


async def build_mesh(config: Config, descriptor: Descriptor, key: NodeKey, by: Provider) -> FollowedMesh:
    """An open replica with its listener, dialler and links."""
    limits = config.effective_limits()
    directory = mesh_directory(Path(config.data_dir), descriptor.mesh)
    credentials = await asyncio.to_thread(Credentials, key.path, now_ms)
    if credentials.node_id != key.id:
        raise error("key.file", path=key.path, reason="it holds another key than when x0td started")
    engine = await asyncio.to_thread(_engine, directory, descriptor, by, config)
    replica = Replica(engine, Writer(key.id.raw, key.sign, now_ms), by.mldsa_verify, limits)
    try:
        await replica.__aenter__()
    except BaseException:
        await replica.__aexit__(None, None, None)
        raise
    mesh = FollowedMesh(config, descriptor, replica, Keys(key.sign, by.mldsa_verify))
    dialler = Dialler(credentials, mesh.answers, limits)
    driver = SyncDriver(replica, limits)

    async def dial(target: Target) -> Stream:
        return await dialler.open(target.address, target.node.raw if target.node else None)

    links = Links(key.id, dial, driver.run, mesh.changes, limits)
    listener = Listener(credentials, mesh.permitted, limits, contain)
    listener.mount(SYNC_PATH, links)
    mesh.connect(links, listener, driver.met, dialler.open)
    if config.admission.enabled and config.listen.address:
        await _open_door(config, mesh, directory, by)
    if config.network.enabled:
        try:
            mesh.network = await asyncio.to_thread(_network, config, mesh, directory)
            listener.mount(WITNESS_PATH, Witness(mesh.network, now_ms))
        except BaseException:
            await mesh.close()
            raise
    return mesh


async def _open_door(config: Config, mesh: FollowedMesh, directory: Path, by: Provider) -> None:
    """Where strangers come to ask; whether they may is for the desk to say."""
    codes = Codes(directory)
    desk = Desk(mesh.replica, codes)
    await asyncio.to_thread(codes.load)
    gateway = Gateway(
        mesh=mesh.descriptor.mesh,
        descriptor=lambda: Membership(Path(config.data_dir), by).descriptor_blob() or b"",
        enrol=mesh.admission.enrol,
        verify=by.mldsa_verify,
        now_ms=now_ms,
    )

    def welcome(node: bytes) -> bool:
        return desk.welcome(node) and mesh.links.is_open_to(NodeId(node))

    mesh.desk, mesh.codes = desk, codes
    mesh.listener.open_to_guests(ENROL_PATH, Reception(gateway, mesh.replica, desk, codes), welcome)


def _network(config: Config, mesh: FollowedMesh, directory: Path) -> Network:
    """The mesh network of this node; nothing is started yet."""
    from appliance.netstack.nft.claim import Claim
    from appliance.netstack.nft.conntrack import count_traffic
    from appliance.netstack.nft.firewall import NftFirewall
    from appliance.netstack.nft.skeleton import MeshTable
    from appliance.netstack.yggdrasil.manager import Yggdrasil
    from appliance.netstack.yggdrasil.records import Place

    settings, name = config.network, network_name(mesh.descriptor.mesh)
    key = yggdrasil_key(directory, relay=settings.relay)
    place = Place(
        mesh=mesh.descriptor.mesh,
        interface=settings.interface,
        run_dir=Path(config.data_dir) / name,
        listen=settings.listen,
        discovery=settings.discovery,
        mtu=settings.mtu,
        program=settings.program,
        user=settings.user,
    )
    table = MeshTable(
        name=name,
        interface=settings.interface,
        own=node_address(key.public),
        log_group=int.from_bytes(mesh.descriptor.mesh[:2], "big"),
    )
    limits = config.effective_limits()
    count_traffic()
    claim = Claim((settings.interface, name))
    kernel = Kernel(NftFirewall(table, limits), Yggdrasil(place, key, limits), key, claim)
    parts = MeshParts(mesh.replica, mesh.queries, mesh.operations, mesh.policy)
    said = Announcement(config.peer_uris(), settings.relay, mesh.may_speak)
    return Network(parts, kernel, said)


def network_name(mesh: bytes) -> str:
    """What the things of one mesh are called on this machine: its table, and the directory of its Yggdrasil."""
    return f"x0t-{str(MeshId(mesh)).partition('1')[2][:8]}"


def _engine(directory: Path, descriptor: Descriptor, by: Provider, config: Config) -> Engine:
    directory.mkdir(mode=0o700, exist_ok=True)
    identity = Identity(mesh=descriptor.mesh, authority_key=descriptor.authority_key)
    log = LogStore(directory / "log.db")
    try:
        view = ViewStore(directory / "view.db")
    except BaseException:
        log.close()
        raise
    return Engine(identity, log, view, by.mldsa_verify, config.effective_limits())


def now_ms() -> int:
    """Wall clock, ms since the Unix epoch."""
    return time.time_ns() // 1_000_000
