from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.core.errors import InputError, StateError
from appliance.daemon.lock import DataDir


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with DataDir(tmp_path / "a" / "data") as data:
        assert data.path.stat().st_mode & 0o777 == 0o700


def test_a_second_holder_is_refused_by_the_process_id_of_the_first(tmp_path: Path) -> None:
    with DataDir(tmp_path / "data"):
        with pytest.raises(StateError, match=str(os.getpid())) as caught, DataDir(tmp_path / "data"):
            pass
        assert caught.value.key == "replica.locked"
    with DataDir(tmp_path / "data"):
        pass


@pytest.mark.parametrize("case", ["open to others", "a file", "a link"])
def test_an_unsafe_directory_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "data"
    match case:
        case "open to others":
            path.mkdir()
            path.chmod(0o750)
        case "a file":
            path.touch()
        case _:
            (tmp_path / "real").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "real")
    with pytest.raises(InputError) as caught, DataDir(path):
        pass
    assert caught.value.key == "config.data_dir"


@pytest.mark.parametrize("case", ["a link", "a pipe", "a directory"])
def test_a_lock_file_that_is_something_else_is_refused_with_a_reason(tmp_path: Path, case: str) -> None:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    match case:
        case "a link":
            (path / "lock").symlink_to(tmp_path / "elsewhere")
        case "a pipe":
            os.mkfifo(path / "lock")
        case _:
            (path / "lock").mkdir()
    with pytest.raises(InputError) as caught, DataDir(path):
        pass
    assert caught.value.key == "config.data_dir"
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_with_a_null_byte_is_refused_with_a_reason() -> None:
    with pytest.raises(InputError, match="null byte"), DataDir(Path("/tmp/a\0b")):
        pass
