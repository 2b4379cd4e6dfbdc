"""From what a person typed to an address of the mesh, and back to words. Pure."""

from __future__ import annotations

from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId
from appliance.core.prefix import address_text, parse_address
from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow
from appliance.policy.model import MAX_PORT, NUMBERS, WITH_PORTS, Protocol
from appliance.policy.names import find_nodes, parse_service
from appliance.policy.text import nearest
from appliance.policy.wording import node_name


def find_address(text: str, directory: Directory) -> bytes:
    """The address of a node (name, id, beginning of an id) or of a host. Raises `network.unknown`."""
    try:
        return parse_address(text)
    except X0tError:
        pass
    found = find_nodes(text, directory)
    if len(found) == 1:
        return found[0].address
    names = [member.name for member in directory.members.values()]
    hint = f"{len(found)} nodes are called so." if found else nearest(text, names).strip()
    raise error("network.unknown", text=text, nearest=f"{hint} " if hint else "")


def find_service(text: str) -> tuple[int, int]:
    """Protocol number and port of one service, such as tcp/443 or icmpv6. Raises `network.service`."""
    service = parse_service(text)
    has_port = "/" in text
    if service is None or service.protocol is Protocol.ANY or has_port != (service.protocol in WITH_PORTS):
        raise error("network.service", text=text)
    if not has_port:
        return NUMBERS[service.protocol], 0
    if service.first != service.last or not 0 < service.first <= MAX_PORT:
        raise error("network.service", text=text)
    return NUMBERS[service.protocol], service.first


def find_flow(source: str, target: str, service: str, directory: Directory) -> Flow:
    """The flow that three texts name."""
    protocol, port = find_service(service)
    return Flow(
        source=find_address(source, directory), target=find_address(target, directory), protocol=protocol, port=port
    )


def address_name(address: bytes, directory: Directory) -> str:
    """A node's name, or the address, with the gateway's name for a host behind one."""
    place = directory.place(address)
    if place is None:
        return address_text(address)
    name = node_name(place.node, directory)
    return name if place.subject.host is None else f"{address_text(address)} behind {name}"


def key_owner(key: bytes, keys: dict[bytes, tuple[bytes, str]]) -> tuple[str, str]:
    """Id and name of the node that has a key of the network; empty for a stranger's."""
    node, name = keys.get(key, (b"", ""))
    return (str(NodeId(node)), name) if node else ("", "")
