"""Where the daemon and its command line meet by default: the same answer on both sides, from the environment alone.

As root the system places of the Filesystem Hierarchy Standard 3.0 are used, otherwise those of the XDG Base Directory
Specification 0.8. This module never touches the disk: the environment and the user id are arguments, paths are text.
"""

from __future__ import annotations

from collections.abc import Mapping


def data_dir(env: Mapping[str, str], uid: int) -> str:
    """Directory of keys and databases: `/var/lib/x0t`, or `$XDG_DATA_HOME/x0t` for a user."""
    return "/var/lib/x0t" if uid == 0 else f"{_xdg(env, 'XDG_DATA_HOME', '.local/share')}/x0t"


def config_file(env: Mapping[str, str], uid: int) -> str:
    """Settings file: `/etc/x0t/x0td.toml`, or `$XDG_CONFIG_HOME/x0t/x0td.toml` for a user."""
    return "/etc/x0t/x0td.toml" if uid == 0 else f"{_xdg(env, 'XDG_CONFIG_HOME', '.config')}/x0t/x0td.toml"


def control_socket(env: Mapping[str, str], uid: int) -> str:
    """Control socket: `/run/x0t/x0td.sock`, or below `$XDG_RUNTIME_DIR`, or beside the data where that is not set."""
    if uid == 0:
        return "/run/x0t/x0td.sock"
    runtime = env.get("XDG_RUNTIME_DIR", "")
    base = f"{runtime}/x0t" if runtime.startswith("/") else f"{data_dir(env, uid)}/run"
    return f"{base}/x0td.sock"


def _xdg(env: Mapping[str, str], name: str, below_home: str) -> str:
    """An XDG directory; the specification says that a relative value is ignored."""
    value = env.get(name, "")
    return value if value.startswith("/") else f"{env.get('HOME', '')}/{below_home}"
