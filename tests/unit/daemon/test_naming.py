"""What people type is found, or refused with what they may have meant."""

from __future__ import annotations

import pytest

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix, parse_address
from appliance.daemon.naming import address_name, find_address, find_flow, find_service, key_owner
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.evaluate import Flow

ROBOT, PLC, TWIN = (bytes([number]) * 32 for number in (1, 2, 3))
AT_ROBOT, AT_PLC, AT_TWIN, HOST, STRANGER = (
    parse_address(text) for text in ("200::1", "200::2", "200::3", "fd00::5", "200::bad")
)
DIRECTORY = Directory(
    (
        Member(node=ROBOT, name="robot-7", address=AT_ROBOT),
        Member(node=PLC, name="plc", address=AT_PLC),
        Member(node=TWIN, name="plc", address=AT_TWIN),
    ),
    (Subnet(prefix=Prefix.parse("fd00::/64"), gateway=ROBOT),),
)


@pytest.mark.parametrize(
    "text, address",
    [
        ("robot-7", AT_ROBOT),
        (str(NodeId(ROBOT)), AT_ROBOT),
        (str(NodeId(TWIN))[:14], AT_TWIN),
        ("200::2", AT_PLC),
        ("0200:0:0:0:0:0:0:2", AT_PLC),
        ("fd00::5", HOST),
        ("200::bad", STRANGER),
    ],
)
def test_a_name_an_id_its_beginning_and_an_address_are_found(text: str, address: bytes) -> None:
    assert find_address(text, DIRECTORY) == address


@pytest.mark.parametrize(
    "text, hint",
    [
        ("robot-8", "robot-7"),
        ("plc", "2 nodes are called so"),
        ("", ""),
        ("10.0.0.1", ""),
        (str(NodeId(ROBOT))[:9], ""),
    ],
)
def test_what_names_no_node_or_several_is_refused(text: str, hint: str) -> None:
    with pytest.raises(X0tError) as refused:
        find_address(text, DIRECTORY)
    assert refused.value.key == "network.unknown"
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "text, service",
    [
        ("tcp/443", (6, 443)),
        ("udp/1", (17, 1)),
        ("sctp/9", (132, 9)),
        ("tcp/5-5", (6, 5)),
        ("tcp/65535", (6, 65_535)),
        ("icmpv6", (58, 0)),
    ],
)
def test_one_service_is_a_protocol_and_one_port_where_it_has_ports(text: str, service: tuple[int, int]) -> None:
    assert find_service(text) == service


@pytest.mark.parametrize(
    "text", ["", "any", "tcp", "tcp/1-2", "tcp/0", "tcp/65536", "tcp/99999", "icmpv6/128", "443/tcp", "tcp/x", "gre"]
)
def test_what_is_not_one_service_is_refused(text: str) -> None:
    with pytest.raises(X0tError) as refused:
        find_service(text)
    assert refused.value.key == "network.service"


def test_a_flow_is_two_ends_and_a_service() -> None:
    expected = Flow(source=AT_ROBOT, target=HOST, protocol=6, port=502)
    assert find_flow("robot-7", "fd00::5", "tcp/502", DIRECTORY) == expected


@pytest.mark.parametrize(
    "address, name", [(AT_ROBOT, "robot-7"), (HOST, "fd00::5 behind robot-7"), (STRANGER, "200::bad")]
)
def test_an_address_is_told_as_people_know_it(address: bytes, name: str) -> None:
    assert address_name(address, DIRECTORY) == name


def test_a_key_has_the_owner_that_the_mesh_knows() -> None:
    keys = {b"k": (ROBOT, "robot-7")}
    assert key_owner(b"k", keys) == (str(NodeId(ROBOT)), "robot-7")
    assert key_owner(b"other", keys) == ("", "")
