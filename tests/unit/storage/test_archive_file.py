"""What lies under the names that an archive is given: it is never waited at, followed or overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.storage.archive_file import ArchiveFile


def write(path: Path, data: bytes = b"archive") -> str:
    """Write it; the key of the refusal, if any."""
    try:
        with ArchiveFile(path).create() as out:
            out.write(data)
    except X0tError as err:
        return err.key
    return ""


def read(path: Path) -> str:
    try:
        with ArchiveFile(path).open() as file:
            file.read()
    except X0tError as err:
        return err.key
    return ""


def test_it_is_private_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    assert write(tmp_path / "a.x0t") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.x0t"]
    assert (tmp_path / "a.x0t").stat().st_mode & 0o777 == 0o600
    assert read(tmp_path / "a.x0t") == ""


def test_nobody_waits_at_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "a.x0t.part")
    assert read(tmp_path / "pipe") == "archive.form"
    assert write(tmp_path / "a.x0t") == "archive.write"


def test_another_file_that_stands_in_the_way_keeps_its_content(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    os.link(precious, tmp_path / "a.x0t.part")
    (tmp_path / "b.x0t.part").symlink_to(precious)
    assert write(tmp_path / "a.x0t") == "archive.write"
    assert write(tmp_path / "b.x0t") == "archive.write"
    assert precious.read_text() == "data"


def test_what_an_interrupted_writer_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "a.x0t.part").write_bytes(b"half of an older archive")
    assert write(tmp_path / "a.x0t", b"new") == ""
    assert (tmp_path / "a.x0t").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["/", "/tmp/a\0b", "/dev/null", "/nonexistent/a"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    assert write(Path(name)) in {"archive.write", "archive.exists"}
    assert read(Path(name)) in {"archive.write", "archive.form"}
