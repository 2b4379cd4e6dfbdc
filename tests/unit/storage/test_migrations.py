"""Migrations: forward only, each whole or not at all, and nothing newer is touched."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from appliance.core.errors import IntegrityError
from appliance.replica.document_kinds import DOCUMENTS
from appliance.replica.entries import BODIES
from appliance.storage.migrations import LOG, VIEW, open_database

ADDED: dict[int, set[str]] = {  # what each schema of the view gives effect to: entries and documents
    1: {"announce", "change", "checkpoint", "grant", "revoke", "thaw", "nodes 0"},
    2: {"attach", "secret", "policy 0"},
    3: {"token", "retire", "enrol", "decide", "certify"},
}
FIRST = ("CREATE TABLE a (x)",)
SECOND = (*FIRST, "ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES (1, 2)")
BROKEN = (*SECOND, "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1)")


def schema(path: Path) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    found = list(connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name"))
    version = connection.pragma("user_version")
    connection.close()
    return [*found, ("version", version)]


@pytest.mark.parametrize("steps", [LOG, VIEW], ids=["log", "view"])
def test_a_new_database_gets_every_step(tmp_path: Path, steps: tuple[str, ...]) -> None:
    connection = open_database(str(tmp_path / "x.db"), steps, full=True)
    assert connection.pragma("user_version") == len(steps)
    assert connection.pragma("foreign_key_check") is None
    connection.close()


@pytest.mark.parametrize("steps", [LOG, VIEW], ids=["log", "view"])
def test_from_every_old_version_the_same_schema_follows(tmp_path: Path, steps: tuple[str, ...]) -> None:
    open_database(str(tmp_path / "new.db"), steps, full=True).close()
    for version in range(1, len(steps) + 1):
        path = tmp_path / f"{version}.db"
        open_database(str(path), steps[:version], full=True).close()
        open_database(str(path), steps, full=True).close()
        assert schema(path) == schema(tmp_path / "new.db")


def test_a_release_that_gives_effect_to_something_new_has_a_step_of_its_own() -> None:
    """What was unknown before must be folded again: add the step that empties the view, then a row here."""
    documents = {f"{document} {epoch}" for document, epoch in DOCUMENTS}
    assert set().union(*ADDED.values()) == set(BODIES) | documents
    assert len(ADDED) == len(VIEW)


@pytest.mark.parametrize("version", range(1, len(VIEW)))
def test_an_old_view_is_emptied_for_it_is_folded_anew(tmp_path: Path, version: int) -> None:
    path = tmp_path / "view.db"
    old = open_database(str(path), VIEW[:version], full=False)
    tables = [name for (name,) in old.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'meta'")]
    for table in tables:
        columns = [row[1] for row in old.execute(f"PRAGMA table_info({table})")]
        old.execute(f"INSERT INTO {table} VALUES ({', '.join('1' for _ in columns)})")  # noqa: S608
    old.close()
    new = open_database(str(path), VIEW, full=False)
    assert [table for table in tables if new.execute(f"SELECT count(*) FROM {table}").get] == []  # noqa: S608
    new.close()


def test_a_step_runs_once(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(str(path), FIRST, full=False).close()
    for _ in range(3):
        open_database(str(path), SECOND, full=False).close()
    connection = apsw.Connection(str(path))
    assert list(connection.execute("SELECT x, y FROM a")) == [(1, 2)]
    connection.close()


def test_a_step_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(str(path), SECOND, full=False).close()
    before = schema(path)
    with pytest.raises(IntegrityError):
        open_database(str(path), BROKEN, full=False)
    assert schema(path) == before


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(str(path), SECOND, full=False).close()
    before = schema(path)
    with pytest.raises(IntegrityError, match="newer than this software") as failed:
        open_database(str(path), FIRST, full=False)
    assert failed.value.key == "replica.corrupt"
    assert schema(path) == before


@pytest.mark.parametrize("full, level", [(True, 2), (False, 1)])
def test_each_database_has_its_durability(tmp_path: Path, full: bool, level: int) -> None:
    connection = open_database(str(tmp_path / "x.db"), FIRST, full=full)
    assert (connection.pragma("journal_mode"), connection.pragma("synchronous")) == ("wal", level)
    connection.close()
