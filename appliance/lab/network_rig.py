"""Rig of whole nodes on a site of namespaces: real daemons, real Yggdrasil, real nf_tables, for tests and benches.

Each machine is a host of its own on one segment. `Plant.ready` waits until all are members with an address and a link.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance.core.network_records import MeshPeer, NetworkState
from appliance.core.records import Node
from appliance.lab.host import Host
from appliance.lab.link import Link
from appliance.lab.rig import Machine, RigError, mesh_of
from appliance.lab.site import Site

READY_S = 45.0
SEGMENT = "10.9.0.0/24"
SETTINGS = '[network]\nenabled = true\nlisten = ["tls://0.0.0.0:7331"]\n'
_LOOK_S = 0.1  # between two looks: the state has no stream


class Plant:
    """Machines on their hosts; the first founds the mesh."""

    def __init__(self, site: Site, segment: Link, hosts: Sequence[Host], machines: Sequence[Machine]) -> None:
        self.site = site
        self.segment = segment
        self.hosts = {host.name: host for host in hosts}
        self.machines = {machine.name: machine for machine in machines}

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def state(self, name: str) -> NetworkState:
        """`x0t net show`."""
        return self[name].client.get("/network", NetworkState)

    def address(self, name: str) -> str:
        """A machine's address on the mesh."""
        return self.state(name).address

    def peers(self, name: str) -> tuple[MeshPeer, ...]:
        """`x0t net peers`."""
        return self[name].client.get("/network/peers", tuple[MeshPeer, ...])

    def ready(self, *names: str, timeout_s: float = READY_S) -> None:
        """Wait until these (none named: all) are members with an address, and have a link."""
        wanted = names or tuple(self.machines)
        end_s = time.monotonic() + timeout_s
        while not all(self._is_ready(name, len(wanted)) for name in wanted):
            if time.monotonic() > end_s:
                shown = "\n".join(f"{self.state(name)}\n{self.peers(name)}\n{self[name].tail(8)}" for name in wanted)
                raise RigError(f"the network was not ready within {timeout_s:.0f} s\n{shown}")
            time.sleep(_LOOK_S)

    def _is_ready(self, name: str, members: int) -> bool:
        state = self.state(name)
        linked = members == 1 or any(peer.up and peer.node for peer in self.peers(name))
        heard = {node.name for node in self[name].client.get("/nodes", tuple[Node, ...])}
        named = heard.issuperset(self.machines)  # each says its name a moment after it was let in
        return state.members >= members and state.phase == "running" and linked and named and not state.blocked


@contextmanager
def plant(directory: Path, names: Sequence[str], settings: str = SETTINGS) -> Iterator[Plant]:
    """A founded mesh of these machines, all up and members; everything is gone afterwards."""
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        hosts = site.hosts(*names)
        segment = site.bridge("wan", hosts, prefixes=[SEGMENT])
        machines = [
            stack.enter_context(
                Machine(host.name, directory / host.name, settings, host=segment.end(host).v4, within=host.netns_path)
            )
            for host in hosts
        ]
        for machine in machines:
            machine.start()
        mesh_of(*machines)
        yield Plant(site, segment, hosts, machines)
