"""Finding and loading liboqs: never a download, never a word on stdout, always a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.trust.liboqs_loader import DIRECTORY_VARIABLE, find_prefix
from appliance.trust.pqc import Provider, provider

ROOT = Path(__file__).parents[3]


def _library(prefix: Path) -> Path:
    (prefix / "lib").mkdir()
    return prefix / "lib" / "liboqs.so"


def _absent(prefix: Path) -> None:
    """Nothing is there."""


def _directory(prefix: Path) -> None:
    _library(prefix).mkdir()


def _damaged(prefix: Path) -> None:
    _library(prefix).write_bytes(b"\x7fELF and no more")


def _foreign(prefix: Path) -> None:
    """A library that loads and has none of the functions."""
    mapped = Path("/proc/self/maps").read_text().split()
    _library(prefix).symlink_to(next(word for word in mapped if "/libc.so" in word or "/ld-" in word))


BROKEN: list[Callable[[Path], None]] = [_absent, _directory, _damaged, _foreign]


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_without_a_working_library_liboqs_is_refused_with_the_place_and_auto_takes_openssl(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(X0tError) as caught:
        provider("liboqs")
    assert caught.value.key == "pqc.provider"
    assert str(tmp_path) in caught.value.message
    assert provider("auto").name == "openssl"


def test_the_chosen_directory_is_the_only_one_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _library(tmp_path).touch()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    assert find_prefix() == tmp_path


def test_auto_prefers_liboqs(liboqs: Provider) -> None:
    assert provider("auto") is liboqs


def test_openssl_is_what_was_asked_for() -> None:
    assert provider("openssl").name == "openssl"


_CHILD = """
import ctypes.util, logging, os, sys, threading, warnings
find = ctypes.util.find_library
started = []
def watch(event, arguments):
    if event in {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}:
        started.append(event)
sys.addaudithook(watch)
from appliance.trust.pqc import provider
name = provider(sys.argv[1]).name
assert not started, started
assert ctypes.util.find_library is find
assert not logging.getLogger("oqs.oqs").handlers
sys.stderr.write(f"{name} {os.environ.get('OQS_INSTALL_PATH')}")
"""


def _child(choice: str, **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a fresh interpreter that turns every warning into an error."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", _CHILD, choice],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def test_loading_starts_no_process_says_nothing_and_leaves_the_environment_alone(liboqs: Provider) -> None:
    del liboqs  # it is there, or the test is skipped
    assert _child("liboqs", OQS_INSTALL_PATH="/elsewhere") == (0, "", "liboqs /elsewhere")
    assert _child("liboqs") == (0, "", "liboqs None")


def test_a_missing_library_starts_no_process_either(tmp_path: Path) -> None:
    assert _child("auto", X0T_LIBOQS_DIR=str(tmp_path), HOME=str(tmp_path)) == (0, "", "openssl None")
    assert list(tmp_path.iterdir()) == []
