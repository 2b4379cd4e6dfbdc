"""The providers under test. Without liboqs its tests fail where everything is required, else are skipped."""

from __future__ import annotations

import os

import pytest

from appliance.core.errors import UnavailableError
from appliance.trust.pqc import Provider, provider


def _liboqs() -> Provider:
    try:
        return provider("liboqs")
    except UnavailableError as err:
        if os.environ.get("CI") == "true" or os.environ.get("X0T_REQUIRE_ALL") == "1":
            pytest.fail(f"liboqs is required here: {err}")
        pytest.skip(f"{err}")


@pytest.fixture
def liboqs() -> Provider:
    """The fast provider."""
    return _liboqs()


@pytest.fixture
def openssl() -> Provider:
    """The provider that is always there."""
    return provider("openssl")


@pytest.fixture(params=["liboqs", "openssl"])
def each(request: pytest.FixtureRequest) -> Provider:
    """Both, one after the other."""
    return _liboqs() if request.param == "liboqs" else provider("openssl")
