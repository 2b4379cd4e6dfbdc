"""Kinds of documents: what `policy` may hold, and which prefixes may stand behind a node."""

from __future__ import annotations

import hashlib

import pytest

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix
from appliance.replica.change_codec import Op, Scalar
from appliance.replica.document_kinds import DOCUMENTS, NODES, POLICY, Name, check_subnet
from appliance.trust.grants import Role

NODE = str(NodeId(bytes(range(32))))
RULE = b"any bytes"
ID = hashlib.sha256(RULE).hexdigest()[:32]


def scope(name: Name, key: str, value: Scalar = None, *, delete: bool = False) -> frozenset[str] | None:
    return DOCUMENTS[name].scope(Op(key, value, delete=delete))


def refused(name: Name, key: str, value: Scalar = None, *, delete: bool = False) -> str:
    with pytest.raises(X0tError) as caught:
        scope(name, key, value, delete=delete)
    assert caught.value.key == "document.schema"
    return str(caught.value)


POLICY_KEYS: list[tuple[str, Scalar]] = [
    (f"rule/{ID}", RULE),
    (f"test/{ID}", RULE),
    ("group/line-1", b"\x80"),
    ("service/web", b"\x80"),
    ("part/0123456789abcdef", True),
]


@pytest.mark.parametrize("key, value", POLICY_KEYS)
def test_the_policy_holds_rules_tests_groups_services_and_parts_for_admins_of_the_whole_mesh(
    key: str, value: Scalar
) -> None:
    assert scope(POLICY, key, value) is None
    assert scope(POLICY, key, delete=True) is None
    assert DOCUMENTS[POLICY].need is Role.ADMIN


@pytest.mark.parametrize(
    "key, value",
    [
        pytest.param(f"rule/{ID}", b"other bytes", id="a rule under another's name"),
        pytest.param(f"test/{ID}", b"other bytes", id="a test under another's name"),
        pytest.param(f"rule/{ID}", "any bytes", id="a rule as text"),
        pytest.param(f"rule/{ID}", True, id="a rule that is true"),
        pytest.param(f"rule/{ID[:-1]}", RULE, id="a name too short"),
        pytest.param(f"rule/{ID.upper()}", RULE, id="a name in capitals"),
        pytest.param(f"rule/{ID}0", RULE, id="a name too long"),
        pytest.param(f"rule/{ID}\n", RULE, id="a line break after a name"),
        pytest.param(f"rule/{hashlib.sha256(b'').hexdigest()[:32]}", b"", id="an empty rule"),
        pytest.param("group/Line 1", b"\x80", id="a group that is no label"),
        pytest.param("group/", b"\x80", id="a group without a name"),
        pytest.param("group/line-1", b"", id="an empty group"),
        pytest.param("service/web", "tcp/80", id="a service as text"),
        pytest.param("part/0123456789abcdef", False, id="a part that is not so"),
        pytest.param("part/0123456789abcdef", b"\x80", id="a part with bytes"),
        pytest.param("part/0123", True, id="a part with a short name"),
        pytest.param("note/x", b"\x80", id="another field"),
        pytest.param(f"{NODE}/tag/red", True, id="a node's tag"),
    ],
)
def test_the_policy_holds_nothing_else(key: str, value: Scalar) -> None:
    refused(POLICY, key, value)


def test_a_key_that_the_policy_has_no_place_for_cannot_be_deleted_either() -> None:
    refused(POLICY, "note/x", delete=True)


GOOD = (
    "fd00:1:2:3::/64",
    "fd00::/8",
    "2001:db8::1/128",
    "2000::/3",
    "300:1:2:3::/64",
    "3ff:1:2:3::5/128",
    "400::/6",
)


@pytest.mark.parametrize("text", GOOD)
def test_a_prefix_of_a_site_or_a_part_of_a_nodes_own_block_may_be_behind_it(text: str) -> None:
    assert check_subnet(text) == Prefix.parse(text)
    assert scope(NODES, f"{NODE}/subnet/{text}", True) is None
    assert scope(NODES, f"{NODE}/subnet/{text}", delete=True) is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("fd00::1:0:0:0:0/64", id="not the canonical text"),
        pytest.param("FD00:1::/64", id="capitals"),
        pytest.param("fd00::1", id="no length"),
        pytest.param("fd00::1/64", id="bits behind the length"),
        pytest.param("fd00::/064", id="a length with a zero before it"),
        pytest.param("fd00::/129", id="a length too large"),
        pytest.param("10.0.0.0/8", id="IPv4"),
        pytest.param("::/0", id="everything"),
        pytest.param("::1/128", id="the machine itself"),
        pytest.param("::ffff:10.0.0.0/104", id="IPv4 in IPv6"),
        pytest.param("fe80::/64", id="one link"),
        pytest.param("ff02::/16", id="many receivers"),
        pytest.param("200::/7", id="the whole mesh"),
        pytest.param("200::/8", id="all nodes"),
        pytest.param("201:1:2:3:4:5:6:7/128", id="an address of a node"),
        pytest.param("300::/8", id="the blocks of all nodes"),
        pytest.param("300:1:2::/48", id="more than the block of one node"),
        pytest.param("::/3", id="what holds the mesh"),
    ],
)
def test_nothing_else_can_be_behind_a_node(text: str) -> None:
    with pytest.raises(X0tError) as caught:
        check_subnet(text)
    assert caught.value.key == "subnet.form"
    refused(NODES, f"{NODE}/subnet/{text}", True)


@pytest.mark.parametrize("value", [False, "yes", 1, None])
def test_a_subnet_is_there_or_it_is_not(value: Scalar) -> None:
    refused(NODES, f"{NODE}/subnet/fd00::/64", value)
