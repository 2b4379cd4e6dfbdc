"""Finds and loads liboqs.so, through liboqs-python.

`import oqs` clones and compiles liboqs when it finds no library. It cannot here: our file is found, loaded
and bound first, and the import is pointed at that very file. tools/liboqs/build.sh builds it: a plain
liboqs lacks the key derivation from a seed. This module never computes anything.
"""

from __future__ import annotations

import ctypes.util
import importlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL, c_char_p, c_int, c_size_t, c_void_p, cast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.core.errors import error

DIRECTORY_VARIABLE: Final = "X0T_LIBOQS_DIR"
_SYSTEM_PREFIXES: Final = (Path("/usr/lib/x0t/liboqs"), Path("/usr/local"))
_LIBRARY: Final = Path("lib/liboqs.so")  # where liboqs-python looks below OQS_INSTALL_PATH
_import_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Library:
    """The C functions that we call: `bytes` are passed without a copy, the answer is an OQS_STATUS."""

    keypair: Callable[..., int]
    sign: Callable[..., int]
    verify: Callable[..., int]
    kem_keypair: Callable[..., int]
    encapsulate: Callable[..., int]
    decapsulate: Callable[..., int]
    cleanse: Callable[..., int]  # returns nothing


def find_prefix() -> Path:
    """The prefix below which lib/liboqs.so lies, or `pqc.provider`.

    X0T_LIBOQS_DIR alone when it is set; else the cache of a development tree, /usr/lib/x0t/liboqs and
    /usr/local.
    """
    prefixes = _prefixes()
    for prefix in prefixes:
        if (prefix / _LIBRARY).is_file():
            return prefix
    looked = ", ".join(str(prefix / _LIBRARY) for prefix in prefixes)
    raise error("pqc.provider", provider="liboqs", reason=f"there is no {looked}")


def load_library(prefix: Path) -> Library:
    """The functions of *prefix*/lib/liboqs.so; `pqc.provider` if it does not load or lacks one of them."""
    path = prefix.absolute() / _LIBRARY
    try:
        ours = CDLL(str(path))
        _bind(ours)
        with _import_lock, _import_settings(prefix.absolute()):
            handle: CDLL = importlib.import_module("oqs.oqs").native()
        if _address(handle) != _address(ours):
            raise OSError("liboqs-python holds another library already")
        return _bind(handle)
    except (OSError, AttributeError, ImportError) as err:
        raise error("pqc.provider", provider="liboqs", reason=f"{path}: {err}") from err


def _prefixes() -> tuple[Path, ...]:
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return (Path(chosen),)
    tree = Path(__file__).resolve().parents[2]
    development = (tree / ".cache" / "liboqs",) if (tree / "pyproject.toml").is_file() else ()
    return development + _SYSTEM_PREFIXES


@contextmanager
def _import_settings(prefix: Path) -> Iterator[None]:
    """Point `import oqs` at *prefix*; hold back its greeting on stdout and its warning about our version.

    `find_library` is put aside because it starts compilers to search and would prefer a liboqs of the system.
    """
    log = logging.getLogger("oqs.oqs")
    find, before = ctypes.util.find_library, os.environ.get("OQS_INSTALL_PATH")
    log.disabled, ctypes.util.find_library = True, _nothing_found
    os.environ["OQS_INSTALL_PATH"] = str(prefix)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"liboqs version \(major, minor\)", UserWarning)
            yield
    finally:
        log.disabled, ctypes.util.find_library = False, find
        log.handlers.clear()  # it writes to stdout, which belongs to our commands
        del os.environ["OQS_INSTALL_PATH"]
        if before is not None:
            os.environ["OQS_INSTALL_PATH"] = before


def _nothing_found(name: str) -> str | None:
    del name
    return None


def _bind(handle: CDLL) -> Library:
    """The functions with their C prototypes; AttributeError if one lacks (the first is of our shim.c)."""
    p, b, n = c_void_p, c_char_p, c_size_t
    return Library(
        keypair=_function(handle, "x0t_ml_dsa_65_keypair_derand", p, p, p),
        sign=_function(handle, "OQS_SIG_ml_dsa_65_sign_with_ctx_str", p, p, b, n, b, n, p),
        verify=_function(handle, "OQS_SIG_ml_dsa_65_verify_with_ctx_str", b, n, b, n, b, n, b),
        kem_keypair=_function(handle, "OQS_KEM_ml_kem_768_keypair_derand", p, p, p),
        encapsulate=_function(handle, "OQS_KEM_ml_kem_768_encaps", p, p, b),
        decapsulate=_function(handle, "OQS_KEM_ml_kem_768_decaps", p, b, p),
        cleanse=_function(handle, "OQS_MEM_cleanse", p, n),
    )


def _address(handle: CDLL) -> int | None:
    return cast(handle.OQS_init, c_void_p).value


def _function(handle: CDLL, name: str, *arguments: type) -> Callable[..., int]:
    function = handle[name]
    function.argtypes, function.restype = arguments, c_int
    return function
