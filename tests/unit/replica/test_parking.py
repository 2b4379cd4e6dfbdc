"""Parking: batches that wait for others."""

from __future__ import annotations

import msgspec
import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch
from appliance.replica.parking import Parking
from tests.sim.world import Mesh
from tests.unit.replica.site import HELLO

A, B = b"a" * 32, b"b" * 32


def batches(count: int) -> list[SignedBatch]:
    mesh = Mesh()
    return [mesh.write(mesh.member("anna"), HELLO) for _ in range(count)]


def test_a_batch_waits_until_the_last_that_it_follows_is_there() -> None:
    (batch,), parking = batches(1), Parking()
    parking.park(batch, (A, B))
    assert (batch.hash in parking, parking.is_wanted(A), len(parking)) == (True, True, 1)
    assert parking.arrived(A) == []
    assert parking.arrived(B) == [batch]
    assert (batch.hash in parking, parking.is_wanted(B), len(parking)) == (False, False, 0)


def test_one_that_is_parked_is_parked_once() -> None:
    (batch,), parking = batches(1), Parking()
    parking.park(batch, (A,))
    parking.park(batch, (A,))
    assert parking.arrived(A) == [batch]


def test_what_is_asked_for_is_what_is_missing_in_the_end() -> None:
    (first, second, third), parking = batches(3), Parking()
    parking.park(third, (second.hash, A))
    parking.park(second, (first.hash,))
    assert parking.wanted([third.hash]) == tuple(sorted((first.hash, A)))
    assert parking.wanted([second.hash, second.hash]) == (first.hash,)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(msgspec.structs.replace(LIMITS, parked_batches=2), id="by number"),
        pytest.param(msgspec.structs.replace(LIMITS, parked_bytes=2 * 4600), id="by size"),
    ],
)
def test_it_is_bounded_and_who_has_waited_longest_makes_room(limits: Limits) -> None:
    (first, second, third), parking = batches(3), Parking(limits)
    parking.park(first, (A,))
    parking.park(second, (B,))
    parking.park(third, (B,))
    assert (first.hash in parking, parking.is_wanted(A), len(parking)) == (False, False, 2)
    assert parking.arrived(A) == []
    assert parking.arrived(B) == sorted((second, third), key=lambda batch: batch.hash)
    assert len(parking) == 0


def test_a_batch_that_waits_for_many_takes_the_room_of_many() -> None:
    (first, second), parking = batches(2), Parking(msgspec.structs.replace(LIMITS, parked_bytes=40_000))
    parking.park(first, (A,))
    parking.park(second, tuple(bytes([number]) * 32 for number in range(80)))
    assert [batch.hash in parking for batch in (first, second)] == [False, True]
