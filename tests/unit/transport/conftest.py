"""Three nodes that know one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.transport.rig import Node, make_node


@pytest.fixture
def alice(tmp_path: Path) -> Node:
    return make_node(tmp_path, "alice")


@pytest.fixture
def bob(tmp_path: Path) -> Node:
    return make_node(tmp_path, "bob")


@pytest.fixture
def carol(tmp_path: Path) -> Node:
    return make_node(tmp_path, "carol")
