"""Limits that must fit one another, whatever their values become."""

from __future__ import annotations

import msgspec
import pytest

from appliance.core.domains import Domain
from appliance.core.limits import LIMITS


@pytest.mark.parametrize("name", LIMITS.__struct_fields__)
def test_every_limit_is_a_positive_whole_number(name: str) -> None:
    value = getattr(LIMITS, name)
    assert type(value) is int
    assert value > 0


def test_a_larger_thing_has_room_for_the_smaller() -> None:
    head_bytes = 1_024  # heads of CBOR, mesh, author, prev, channel and clock
    assert LIMITS.change_bytes <= LIMITS.entry_bytes
    assert LIMITS.entry_bytes + 34 * LIMITS.batch_parents + head_bytes <= LIMITS.batch_bytes
    assert LIMITS.batch_bytes <= LIMITS.sync_frame_bytes <= LIMITS.cbor_bytes
    assert LIMITS.sync_frame_bytes <= LIMITS.sync_window_bytes <= LIMITS.sync_duplicates_bytes
    assert LIMITS.value_bytes < LIMITS.change_bytes
    assert LIMITS.connections_per_peer <= LIMITS.connections
    assert LIMITS.peer_backoff_min_s <= LIMITS.redial_max_s <= LIMITS.peer_backoff_max_s
    assert LIMITS.group_commit <= LIMITS.append_queue


def test_a_limit_can_be_set_low_for_a_test_and_the_record_stays_frozen() -> None:
    low = msgspec.structs.replace(LIMITS, batch_bytes=100)
    assert low.batch_bytes == 100
    with pytest.raises(AttributeError):
        low.batch_bytes = 1  # type: ignore[misc]


def test_a_domain_label_is_a_context_of_ml_dsa_and_carries_a_version() -> None:
    for domain in Domain:
        assert len(domain.encode()) <= 255
        assert domain.startswith("x0t/")
        assert domain.endswith("/1")
