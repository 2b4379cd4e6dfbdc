"""Nodes of the contract tests of the transport, and the ground of those of the firewall."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.firewall_ground import Ground, standing
from tests.unit.transport.manners import MLDSA, make_id
from tests.unit.transport.rig import Node, make_node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node that takes the usual stranger for a member."""
    node = make_node(tmp_path, "node")
    node.strangers.add(make_id(MLDSA))
    return node


@pytest.fixture
def friend(tmp_path: Path) -> Node:
    """Another node."""
    return make_node(tmp_path, "friend")


@pytest_asyncio.fixture
async def ground() -> AsyncIterator[Ground]:
    """A firewall in force between two hosts."""
    async with standing() as made:
        yield made
