"""The fixture of a small mesh."""

from __future__ import annotations

import pytest

from tests.unit.replica.site import Site, build_site


@pytest.fixture
def site() -> Site:
    return build_site()
