"""The log store: durable order, what archiving leaves, and coded errors for a disk that does not take it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from appliance.core.errors import IntegrityError, StateError, UnavailableError
from appliance.replica.entries import AnnounceEntry
from appliance.storage.log import LogStore
from tests.mesh_rig import Mesh


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "log.db")
    yield store
    store.close()


def rows(count: int, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(bytes([number]) * 32, b"batch %d" % number) for number in range(start, start + count)]


def connection(store: LogStore) -> apsw.Connection:
    return store._db


def test_batches_keep_their_order_of_arrival(log: LogStore) -> None:
    assert log.append(rows(3)) == 3
    assert log.append(rows(2, 3)) == 5
    assert log.last_arrival() == 5
    assert log.after(1, 2) == [(2, *rows(1, 1)[0]), (3, *rows(1, 2)[0])]
    assert log.after(0, 9) == [(n + 1, *row) for n, row in enumerate(rows(5))]
    assert log.blob(4) == b"batch 3"
    assert log.blob(6) is None


def test_an_empty_log_says_so(log: LogStore) -> None:
    assert (log.last_arrival(), log.archived_epoch(), log.after(0, 10), log.signed_up_to(10)) == (0, 0, [], 0)


def test_the_log_is_flushed_to_the_disk_with_each_transaction(log: LogStore) -> None:
    assert connection(log).pragma("journal_mode") == "wal"
    assert connection(log).pragma("synchronous") == 2  # FULL


def test_a_pruned_batch_keeps_its_hash_and_payload_only(log: LogStore) -> None:
    log.append(rows(3))
    log.prune([(2, b"payload")], epoch=7)
    assert log.blob(2) is None
    assert log.payload(2) == b"payload"
    assert log.payload(1) is None
    assert log.archived_epoch() == 7
    assert log.signed_up_to(3) == 2
    assert [row[2] for row in log.after(0, 9)] == [b"batch 0", None, b"batch 2"]


def test_pruning_gives_space_back(log: LogStore) -> None:
    log.append([(bytes([number]) * 32, bytes(4000)) for number in range(100)])
    before = log.size_bytes()
    log.prune([(number + 1, b"p") for number in range(100)], epoch=1)
    assert log.size_bytes() < before / 5


def test_named_values_stay(tmp_path: Path) -> None:
    first = LogStore(tmp_path / "log.db")
    first.put("mesh", b"one")
    first.put("mesh", b"two")
    first.close()
    second = LogStore(tmp_path / "log.db")
    assert (second.get("mesh"), second.get("other")) == (b"two", None)
    second.close()


def test_a_log_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(IntegrityError) as failed:
        LogStore(tmp_path / "log.db")
    assert failed.value.key == "replica.corrupt"


def test_a_directory_that_is_not_there_is_a_coded_error(tmp_path: Path) -> None:
    with pytest.raises(StateError) as failed:
        LogStore(tmp_path / "nowhere" / "log.db")
    assert failed.value.key == "replica.read_only"


def test_a_log_that_cannot_be_written_is_a_coded_error(tmp_path: Path, log: LogStore) -> None:
    """As on a disk that was remounted read-only; root may write any file, so SQLite itself is told."""
    log.append(rows(1))
    log._db.execute("PRAGMA query_only=ON")
    with pytest.raises(StateError) as failed:
        log.append(rows(1, 1))
    assert failed.value.key == "replica.read_only"
    log._db.execute("PRAGMA query_only=OFF")
    assert log.append(rows(1, 1)) == 2


def test_a_full_disk_refuses_the_append_and_keeps_what_was_there(log: LogStore) -> None:
    log.append(rows(2))
    pages = log._number("PRAGMA page_count")
    log._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(UnavailableError) as failed:
        log.append([(bytes(32), bytes(100_000))])
    assert failed.value.key == "replica.disk_full"
    assert log.last_arrival() == 2
    log._db.execute(f"PRAGMA max_page_count={pages + 1000}")
    assert log.append([(bytes(32), bytes(100_000))]) == 3
    assert log.check() == []


def test_damage_is_found_and_coded(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log.db")
    store.append([(bytes([n]) * 32, bytes([n]) * 3000) for n in range(50)])
    store.close()
    data = bytearray((tmp_path / "log.db").read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    (tmp_path / "log.db").write_bytes(data)
    damaged = LogStore(tmp_path / "log.db")
    with pytest.raises(IntegrityError) as failed:
        damaged.after(0, 50)
    assert failed.value.key == "replica.corrupt"
    damaged.close()


def test_an_engine_goes_on_once_there_is_room_again(tmp_path: Path) -> None:
    """The replica's answer to a full disk: the write is refused, nothing acknowledged is lost, no number is used up."""
    mesh = Mesh(tmp_path)
    node = mesh.founder("a")
    node.say("before")
    log = node.log
    assert isinstance(log, LogStore)
    pages = log._number("PRAGMA page_count")
    log._db.execute(f"PRAGMA max_page_count={pages}")
    big = AnnounceEntry(name="x", endpoints=(), software="")

    def write_on() -> None:
        for _ in range(50):
            node.write(big, raw=[("future", bytes(40_000))])

    with pytest.raises(UnavailableError) as failed:
        write_on()
    assert failed.value.key == "replica.disk_full"
    durable = log.last_arrival()
    node.engine.load()
    log._db.execute(f"PRAGMA max_page_count={pages + 10_000}")
    assert [effect.ok for effect in node.say("after")] == [True]
    assert node.last().batch.seq == durable + 1
    node.restart()
    assert node.view.size() == durable + 1
    node.engine.close()
